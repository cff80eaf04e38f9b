/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/page_pool.h"
#include "kvcache/prefix_index.h"
#include "tests/unit/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* chains */

static const KvPlan plan = { .formats = { { KV_FORMAT_F16, KV_FORMAT_F16 },
                                          { KV_FORMAT_F16, KV_FORMAT_F16 },
                                          { KV_FORMAT_F16, KV_FORMAT_F16 } } };

static PrefixRoot plain_root(void) {
    return (PrefixRoot){ .identity = "0123456789abcdef0123456789abcdef",
                         .geometry = { .n_layers = 3, .n_kv_heads = 2, .head_dim = 64 },
                         .plan = &plan,
                         .salt = "tenant",
                         .salt_size = 6 };
}

static void test_root_tells_apart_what_makes_pages_differ(void **state) {
    enum { N = 8 };
    PrefixRoot roots[N];
    KvPlan narrow = plan;

    (void)state;
    narrow.formats[2][KV_SIDE_V] = KV_FORMAT_2;
    for (size_t i = 0; i < N; i++)
        roots[i] = plain_root();
    roots[1].identity = "0123456789abcdef0123456789abcdee";
    roots[2].geometry.n_kv_heads = 3;
    roots[3].plan = &narrow;
    roots[4].profile.low = 1;
    roots[5].salt = "tenanu";
    roots[6].salt_size = 5;
    roots[7].salt = NULL;
    roots[7].salt_size = 0;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            assert_true(hash128_equal(prefix_chain_root(&roots[i]), prefix_chain_root(&roots[j])) ==
                        (i == j));
    /* f16 throughout is the plan that none given means; formats past the last layer are nobody's.
     */
    roots[1] = plain_root();
    roots[1].plan = NULL;
    assert_true(hash128_equal(prefix_chain_root(&roots[0]), prefix_chain_root(&roots[1])));
    narrow = plan;
    narrow.formats[3][KV_SIDE_K] = KV_FORMAT_2;
    roots[1].plan = &narrow;
    assert_true(hash128_equal(prefix_chain_root(&roots[0]), prefix_chain_root(&roots[1])));
}

static void test_link_is_of_every_token_and_of_all_before(void **state) {
    PrefixRoot start = plain_root();
    Hash128 root = prefix_chain_root(&start), link, other = root;
    uint32_t tokens[KV_PAGE_TOKENS];

    (void)state;
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++)
        tokens[i] = i;
    link = prefix_chain_next(root, tokens);
    assert_true(hash128_equal(link, prefix_chain_next(root, tokens)));
    assert_false(hash128_equal(link, prefix_chain_next(link, tokens)));
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        tokens[i] ^= 1 << 16;
        assert_false(hash128_equal(link, prefix_chain_next(root, tokens)));
        tokens[i] ^= 1 << 16;
    }
    for (uint32_t bit = 0; bit < 128; bit++) {
        uint64_t *half = bit < 64 ? &other.low : &other.high;

        *half ^= UINT64_C(1) << bit % 64;
        assert_false(hash128_equal(link, prefix_chain_next(other, tokens)));
        *half ^= UINT64_C(1) << bit % 64;
    }
}

/* index */

static void test_first_page_of_a_hash_stays(void **state) {
    Hash128 hash = { .low = 7, .high = 9 }, twin = { .low = 7, .high = 8 };
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 3), 0);
    assert_int_equal(prefix_index_find(&index, hash), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_insert(&index, hash, 2), 0);
    assert_int_equal(prefix_index_insert(&index, hash, 0), PREFIX_INDEX_E_KNOWN);
    assert_int_equal(prefix_index_find(&index, hash), 2);
    assert_true(prefix_index_has(&index, 2));
    assert_false(prefix_index_has(&index, 0));
    assert_int_equal(prefix_index_find(&index, twin), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_insert(&index, twin, 0), 0);
    prefix_index_remove(&index, 2);
    assert_int_equal(prefix_index_find(&index, hash), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_find(&index, twin), 0);
    assert_int_equal(prefix_index_insert(&index, hash, 1), 0);
    prefix_index_deinit(&index);
}

static void test_an_index_of_no_pages_is_refused(void **state) {
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 0), -EINVAL);
    prefix_index_deinit(&index);
}

static void test_tokens_are_counted(void **state) {
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 1), 0);
    prefix_index_count(&index, 200, 128);
    prefix_index_count(&index, 63, 0);
    assert_true(index.n_query_tokens == 263 && index.n_hit_tokens == 128);
    prefix_index_deinit(&index);
}

/* Hashes that share their low bits make long runs, over the end of the table too: finding,
 * inserting and removing must agree with a plain array. */
static void test_crowded_index_agrees_with_an_array(void **state) {
    enum { N = 24, HASHES = 40, STEPS = 50000 };
    Random random = random_start("crowded");
    uint32_t page_of[HASHES], hash_of_page[N];
    PrefixIndex index;
    uint32_t n_in = 0;

    (void)state;
    memset(page_of, 0xff, sizeof(page_of));
    memset(hash_of_page, 0xff, sizeof(hash_of_page));
    assert_int_equal(prefix_index_init(&index, N), 0);
    for (int step = 0; step < STEPS; step++) {
        uint32_t h = random_below(&random, HASHES), page = random_below(&random, N);
        Hash128 hash = { .low = 60 + h % 5, .high = h };

        if (hash_of_page[page] != PREFIX_INDEX_NONE) {
            prefix_index_remove(&index, page);
            page_of[hash_of_page[page]] = PREFIX_INDEX_NONE;
            hash_of_page[page] = PREFIX_INDEX_NONE;
            n_in--;
        } else {
            bool is_known = page_of[h] != PREFIX_INDEX_NONE;

            assert_int_equal(prefix_index_insert(&index, hash, page),
                             is_known ? PREFIX_INDEX_E_KNOWN : 0);
            if (!is_known) {
                page_of[h] = page;
                hash_of_page[page] = h;
                n_in++;
            }
        }
        assert_int_equal(index.n_in, n_in);
        for (h = 0; h < HASHES; h++)
            assert_int_equal(prefix_index_find(&index, (Hash128){ .low = 60 + h % 5, .high = h }),
                             page_of[h]);
    }
    prefix_index_deinit(&index);
}

/* pool and index together, against scans of plain arrays */

enum { N_PAGES = 29, N_SINKS = 5, N_TAILS = 1, N_HASHES = 60, N_STEPS = 60000, N_HELD_MAX = 64 };

typedef struct ModelPage {
    uint32_t refs;
    uint32_t hash; /* PREFIX_INDEX_NONE: not in the index */
    bool has_sink;
    uint64_t age; /* when it was released last; of cached pages */
} ModelPage;

typedef struct Model {
    ModelPage pages[N_PAGES];
    uint32_t held[N_HELD_MAX]; /* [n_held] a page as often as it has holders */
    uint32_t n_held;
    uint64_t now;
} Model;

static Hash128 key(uint32_t hash) {
    return (Hash128){ .low = hash * 3, .high = ~(uint64_t)hash };
}

static uint32_t model_find(const Model *m, uint32_t hash) {
    for (uint32_t page = 0; page < N_PAGES; page++)
        if (m->pages[page].hash == hash)
            return page;
    return PREFIX_INDEX_NONE;
}

static bool model_is_blank(const ModelPage *page) {
    return !page->refs && page->hash == PREFIX_INDEX_NONE;
}

/* Of the cached pages (those with a sink only), the one released first. */
static uint32_t model_oldest(const Model *m, bool with_sink) {
    uint32_t oldest = PREFIX_INDEX_NONE;

    for (uint32_t page = 0; page < N_PAGES; page++) {
        const ModelPage *p = &m->pages[page];

        if (!p->refs && p->hash != PREFIX_INDEX_NONE && (p->has_sink || !with_sink) &&
            (oldest == PREFIX_INDEX_NONE || p->age < m->pages[oldest].age))
            oldest = page;
    }
    return oldest;
}

static uint32_t model_count(const Model *m, bool (*is_counted)(const ModelPage *)) {
    uint32_t n = 0;

    for (uint32_t page = 0; page < N_PAGES; page++)
        n += is_counted(&m->pages[page]);
    return n;
}

static bool model_is_free(const ModelPage *page) {
    return !page->refs;
}

static bool model_has_sink(const ModelPage *page) {
    return page->has_sink;
}

static void model_blank(Model *m, uint32_t page) {
    m->pages[page] = (ModelPage){ .hash = PREFIX_INDEX_NONE };
}

static void step_take(Model *m, PagePool *pool, Random *random) {
    uint32_t n = random_below(random, 6), taken[6];
    uint32_t n_free = model_count(m, model_is_free);
    int r;

    if (m->n_held + n > N_HELD_MAX)
        return;
    r = page_pool_take(pool, n, taken);
    assert_int_equal(r, n > n_free ? PAGE_POOL_E_FULL : 0);
    for (uint32_t i = 0; !r && i < n; i++) {
        if (!model_count(m, model_is_blank)) {
            assert_int_equal(taken[i], model_oldest(m, false));
            model_blank(m, taken[i]);
        }
        assert_true(model_is_blank(&m->pages[taken[i]])); /* never a page in use */
        m->pages[taken[i]].refs = 1;
        m->held[m->n_held++] = taken[i];
    }
}

static void step_find(Model *m, PagePool *pool, uint32_t hash) {
    uint32_t page = prefix_index_find(pool->index, key(hash));

    assert_int_equal(page, model_find(m, hash));
    if (page == PREFIX_INDEX_NONE || m->n_held == N_HELD_MAX)
        return;
    page_pool_ref(pool, page);
    m->pages[page].refs++;
    m->held[m->n_held++] = page;
}

static void step_insert(Model *m, PagePool *pool, uint32_t page, uint32_t hash) {
    bool is_known = model_find(m, hash) != PREFIX_INDEX_NONE;

    if (m->pages[page].hash != PREFIX_INDEX_NONE)
        return;
    assert_int_equal(prefix_index_insert(pool->index, key(hash), page),
                     is_known ? PREFIX_INDEX_E_KNOWN : 0);
    if (!is_known)
        m->pages[page].hash = hash;
}

static void step_take_sink(Model *m, PagePool *pool, uint32_t page) {
    uint32_t oldest = model_oldest(m, true);
    bool is_full = model_count(m, model_has_sink) == N_SINKS;

    if (m->pages[page].has_sink)
        return;
    assert_int_equal(page_pool_take_sink(pool, page),
                     is_full && oldest == PREFIX_INDEX_NONE ? PAGE_POOL_E_FULL : 0);
    if (is_full && oldest == PREFIX_INDEX_NONE)
        return;
    if (is_full)
        model_blank(m, oldest);
    m->pages[page].has_sink = true;
}

/* Lets go of the last n held ones in one call: the last of them is the oldest. */
static void step_release(Model *m, PagePool *pool, uint32_t n) {
    if (n > m->n_held)
        n = m->n_held;
    m->n_held -= n;
    page_pool_release(pool, m->held + m->n_held, n);
    for (uint32_t i = n; i-- > 0;) {
        ModelPage *page = &m->pages[m->held[m->n_held + i]];

        page->age = m->now++;
        if (!--page->refs && page->hash == PREFIX_INDEX_NONE)
            page->has_sink = false;
    }
}

static void assert_agreement(const Model *m, const PagePool *pool) {
    bool slot_taken[N_SINKS] = { false };

    assert_int_equal(pool->n_free, model_count(m, model_is_free));
    assert_int_equal(pool->n_blank, model_count(m, model_is_blank));
    assert_int_equal(page_pool_used(pool), N_PAGES - pool->n_free);
    for (uint32_t page = 0; page < N_PAGES; page++) {
        uint32_t sink = page_pool_sink(pool, page);

        assert_int_equal(pool->refs[page], m->pages[page].refs);
        assert_int_equal(prefix_index_has(pool->index, page),
                         m->pages[page].hash != PREFIX_INDEX_NONE);
        assert_int_equal(sink != PAGE_POOL_NONE, m->pages[page].has_sink);
        if (sink != PAGE_POOL_NONE) {
            assert_true(sink < N_SINKS && !slot_taken[sink]);
            slot_taken[sink] = true;
        }
    }
    for (uint32_t hash = 0; hash < N_HASHES; hash++)
        assert_int_equal(prefix_index_find(pool->index, key(hash)), model_find(m, hash));
}

static void test_pool_and_index_agree_with_plain_arrays(void **state) {
    Random random = random_start("pool and index");
    Model m = { .n_held = 0 };
    PrefixIndex index;
    PagePool pool;

    (void)state;
    for (uint32_t page = 0; page < N_PAGES; page++)
        model_blank(&m, page);
    assert_int_equal(prefix_index_init(&index, N_PAGES), 0);
    assert_int_equal(page_pool_init(&pool, N_PAGES, N_TAILS, N_SINKS, &index), 0);
    for (int i = 0; i < N_STEPS; i++) {
        uint32_t hash = random_below(&random, N_HASHES);
        uint32_t at = m.n_held ? random_below(&random, m.n_held) : 0, page = m.held[at];

        switch (random_below(&random, 6)) {
        case 0:
            step_take(&m, &pool, &random);
            break;
        case 1:
            step_find(&m, &pool, hash);
            break;
        case 2:
        case 3:
            if (m.n_held)
                step_insert(&m, &pool, page, hash);
            break;
        case 4:
            if (m.n_held)
                step_take_sink(&m, &pool, page);
            break;
        default:
            if (m.n_held) { /* not always the youngest ones */
                m.held[at] = m.held[m.n_held - 1];
                m.held[m.n_held - 1] = page;
            }
            step_release(&m, &pool, random_below(&random, 8));
        }
        assert_agreement(&m, &pool);
    }
    step_release(&m, &pool, m.n_held);
    assert_agreement(&m, &pool);
    assert_int_equal(page_pool_used(&pool), 0);
    page_pool_deinit(&pool);
    prefix_index_deinit(&index);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_tells_apart_what_makes_pages_differ),
        cmocka_unit_test(test_link_is_of_every_token_and_of_all_before),
        cmocka_unit_test(test_first_page_of_a_hash_stays),
        cmocka_unit_test(test_an_index_of_no_pages_is_refused),
        cmocka_unit_test(test_tokens_are_counted),
        cmocka_unit_test(test_crowded_index_agrees_with_an_array),
        cmocka_unit_test(test_pool_and_index_agree_with_plain_arrays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
