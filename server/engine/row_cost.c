/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiplications of one row and one layer, of which each has its addition: dim * n_heads *
 * head_dim for the queries and again for the output, dim * n_kv_heads * head_dim for the keys and
 * again for the values, dim * ffn_dim for each of gate, up and down; and 2 * n_heads * head_dim for
 * each token that it attends to, its score and its value.
 */
#include "server/engine/row_cost.h"

#include "util/integer.h"

RowCost row_cost_of_model(const ModelConfig *c) {
    uint64_t query_dim = (uint64_t)c->n_heads * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->n_kv_heads * c->head_dim;
    uint64_t per_layer = c->dim * (2 * query_dim + 2 * kv_dim + 3 * (uint64_t)c->ffn_dim);
    uint64_t products = c->n_layers * per_layer / (2 * query_dim);
    RowCost cost = { .products = products < UINT32_MAX ? (uint32_t)products : UINT32_MAX,
                     .window = c->sliding_window };

    for (uint32_t l = 0; l < c->n_layers; l++)
        cost.n_sliding_layers += c->layer_slides[l];
    cost.n_full_layers = c->n_layers - cost.n_sliding_layers;
    return cost;
}

/* first + (first + 1) + ..., n numbers. */
static int64_t sum_from(uint32_t first, uint32_t n) {
    return (int64_t)n * first + (int64_t)n * ((int64_t)n - 1) / 2;
}

int64_t row_cost_work(const RowCost *cost, uint32_t position, uint32_t n_rows) {
    uint32_t n_below = position < cost->window ? min_u32(cost->window - position, n_rows) : 0;
    int64_t n_in_window = sum_from(position, n_below) + (int64_t)(n_rows - n_below) * cost->window;

    return (int64_t)n_rows * cost->products + cost->n_full_layers * sum_from(position, n_rows) +
           cost->n_sliding_layers * n_in_window;
}

uint32_t row_cost_rows(const RowCost *cost, uint32_t position, uint32_t n_max, int64_t work) {
    uint32_t n_least = 0;

    while (n_least < n_max) {
        uint32_t n = n_least + (n_max - n_least) / 2;

        if (row_cost_work(cost, position, n) < work)
            n_least = n + 1;
        else
            n_max = n;
    }
    return n_least;
}
