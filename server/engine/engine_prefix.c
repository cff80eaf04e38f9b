/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix cache in the engine: what a sequence finds when it is admitted, and what it leaves.
 *
 * Pages are looked up once, at admission, page by page down the chain; the pages found
 * are held and count as computed. At least one token is always computed, since its logits are
 * wanted. A full page becomes findable when the step that sealed it is collected, output as well as
 * prompt, so that a preempted sequence, or the next turn of a conversation, finds what it had.
 */
#include "server/engine/engine_state.h"

#include "model/identity.h"
#include "util/integer.h"

#include <assert.h>
#include <string.h>

static PrefixLink root_of(const Engine *e, const EngineRequest *request) {
    PrefixRoot root = { .identity = e->identity,
                        .geometry = e->store.geometry,
                        .plan = e->options.plan,
                        .profile = e->profile_hash,
                        .salt = request->cache_salt };

    return prefix_index_root(&e->prefixes, &root);
}

static void copy_tokens(const Sequence *s, uint32_t i_page, uint32_t tokens[KV_PAGE_TOKENS]) {
    for (uint32_t j = 0; j < KV_PAGE_TOKENS; j++)
        tokens[j] = sequence_token(s, i_page * KV_PAGE_TOKENS + j);
}

static void hold_found(Engine *e, Sequence *s) {
    uint32_t n_pages_max = (sequence_n_known(s) - 1) / KV_PAGE_TOKENS;

    while (s->n_pages < n_pages_max) {
        uint32_t tokens[KV_PAGE_TOKENS], page;

        copy_tokens(s, s->n_pages, tokens);
        page = prefix_index_find(&e->prefixes, &s->chain, tokens, &s->chain);
        if (page == PREFIX_INDEX_NONE)
            return;
        page_pool_ref(&e->pool, page);
        s->pages[s->n_pages++] = page;
    }
}

/* The rows were planned at the start of the prompt; after what was found they cost more, and fewer
 * take the same work. */
static uint32_t rows_after(const Engine *e, uint32_t n_hit, uint32_t n_rest, uint32_t n_planned) {
    int64_t work = row_cost_work(&e->row_cost, 0, n_planned);

    return row_cost_rows(&e->row_cost, n_hit, min_u32(n_rest, n_planned), work);
}

void engine_prefix_adopt(Engine *e, Sequence *s, StepItem *item) {
    uint32_t n_hit;
    bool first = !s->was_admitted;

    assert(!s->n_pages && !s->n_computed);
    s->was_admitted = true;
    s->n_chained = 0;
    if (!e->options.prefix_caching)
        return;
    s->chain = root_of(e, s->request);
    /* Logits of the prompt's own tokens are wanted: they must be computed. */
    if (!s->prompt_logprobs)
        hold_found(e, s);
    n_hit = s->n_pages * KV_PAGE_TOKENS;
    s->n_chained = s->n_pages;
    s->n_computed = s->n_collected = n_hit;
    item->n_tokens = rows_after(e, n_hit, sequence_n_known(s) - n_hit, item->n_tokens);
    item->n_new_pages -= s->n_pages;
    if (first) {
        s->n_cached = n_hit;
        prefix_index_count(&e->prefixes, sequence_n_known(s), n_hit);
    }
    atomic_store_explicit(&e->stats.prefix_query_tokens, e->prefixes.n_query_tokens,
                          memory_order_relaxed);
    atomic_store_explicit(&e->stats.prefix_hit_tokens, e->prefixes.n_hit_tokens,
                          memory_order_relaxed);
}

/* First who holds each page: a client, or several; then who else does. */
void engine_prefix_count_shared(Engine *e, bool has_newcomers) {
    static const uint32_t nobody = 0, several = UINT32_MAX;

    if (!e->options.prefix_caching || (!has_newcomers && e->pool.n_free >= e->n_running))
        return;
    memset(e->page_holders, 0, e->pool.n_pages * sizeof(*e->page_holders));
    for (uint32_t i = 0; i < e->n_running; i++)
        for (uint32_t j = 0; j < e->running[i]->n_pages; j++) {
            uint32_t *holder = &e->page_holders[e->running[i]->pages[j]];
            uint32_t client = e->view_running[i].client + 1;

            *holder = *holder == nobody || *holder == client ? client : several;
        }
    for (uint32_t i = 0; i < e->n_running; i++)
        for (uint32_t j = 0; j < e->running[i]->n_pages; j++) {
            uint32_t *holder = &e->page_holders[e->running[i]->pages[j]];

            e->view_running[i].n_shared_pages += *holder == several;
            *holder = several; /* for the younger ones of the same client */
        }
}

/* A page of the sequence's own may stay out, as another one with its content is in. When that one
 * is evicted, the chain breaks there, and is made anew of the sequence's own pages. */
void engine_prefix_publish(Engine *e, Sequence *s) {
    uint32_t n_full = s->n_collected / KV_PAGE_TOKENS;

    if (!e->options.prefix_caching || s->n_chained == n_full)
        return;
    if (!prefix_index_is_live(&e->prefixes, &s->chain)) {
        s->chain = root_of(e, s->request);
        s->n_chained = 0;
    }
    for (; s->n_chained < n_full; s->n_chained++) {
        uint32_t tokens[KV_PAGE_TOKENS];

        copy_tokens(s, s->n_chained, tokens);
        if (prefix_index_insert(&e->prefixes, &s->chain, tokens, s->pages[s->n_chained],
                                &s->chain) == PREFIX_INDEX_E_FULL)
            return;
    }
}
