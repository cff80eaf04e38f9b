/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a row of a step costs. Its products with the model's weights are the same for every row;
 * its attention grows with its position, in layers with a sliding window up to the window. Where
 * the attention's operations are as many as those of the products, a row costs two: in a model of
 * 135M parameters (SmolLM2) at position 3,072.
 *
 * Work is counted in operations of the model's shape, whichever backend runs them; the unit is one
 * layer's attention of one row to one token. The output head is not counted: few rows need it.
 * Sums are exact within the bounds of a checkpoint (model/model_config.h) and of the options.
 */

#include "model/checkpoint.h"

#include <stdint.h>

typedef struct RowCost {
    uint32_t products;         /* of the row with the weights; at least 1 */
    uint32_t n_full_layers;    /* layers that attend to every token before */
    uint32_t n_sliding_layers; /* layers that attend to at most `window` of them */
    uint32_t window;
} RowCost;

/* Every row costs 1, wherever it stands: work is rows. */
#define ROW_COST_EQUAL ((RowCost){ .products = 1 })

RowCost row_cost_of_model(const ModelConfig *config);

/* Work of n_rows rows of one sequence, the first at that position. */
int64_t row_cost_work(const RowCost *cost, uint32_t position, uint32_t n_rows);
/* As many rows as it takes to use `work` up, so that the last may exceed it; at most n_max, and
 * none if there is no work. */
uint32_t row_cost_rows(const RowCost *cost, uint32_t position, uint32_t n_max, int64_t work);
