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
                         .plan = &plan };
}

static bool links_equal(const PrefixLink *a, const PrefixLink *b) {
    return hash128_equal(a->hash, b->hash) && a->serial == b->serial && a->node == b->node;
}

static bool roots_equal(const PrefixIndex *index, const PrefixRoot *a, const PrefixRoot *b) {
    PrefixLink first = prefix_index_root(index, a), second = prefix_index_root(index, b);

    return links_equal(&first, &second);
}

static void test_root_tells_apart_what_makes_pages_differ(void **state) {
    enum { N = 8 };
    PrefixRoot roots[N];
    KvPlan narrow = plan;
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 1), 0);
    narrow.formats[2][KV_SIDE_V] = KV_FORMAT_2;
    for (size_t i = 0; i < N; i++)
        roots[i] = plain_root();
    roots[1].identity = "0123456789abcdef0123456789abcdee";
    roots[2].geometry.n_kv_heads = 3;
    roots[3].plan = &narrow;
    roots[4].profile.low = 1;
    roots[5].salt = prefix_index_salt(&index, "tenant", 6);
    roots[6].salt = prefix_index_salt(&index, "tenanu", 6);
    roots[7].salt = prefix_index_salt(&index, "tenan", 5);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            assert_true(roots_equal(&index, &roots[i], &roots[j]) == (i == j));
    /* f16 throughout is the plan that none given means; formats past the last layer are nobody's.
     */
    roots[1] = plain_root();
    roots[1].plan = NULL;
    assert_true(roots_equal(&index, &roots[0], &roots[1]));
    narrow = plan;
    narrow.formats[3][KV_SIDE_K] = KV_FORMAT_2;
    roots[1].plan = &narrow;
    assert_true(roots_equal(&index, &roots[0], &roots[1]));
    prefix_index_deinit(&index);
}

/* Nobody outside can know which contents meet in the table. */
static void test_every_index_has_a_key_of_its_own(void **state) {
    PrefixRoot root = plain_root();
    PrefixIndex a, b;
    PrefixLink root_a, root_b;

    (void)state;
    assert_int_equal(prefix_index_init(&a, 1), 0);
    assert_int_equal(prefix_index_init(&b, 1), 0);
    root_a = prefix_index_root(&a, &root);
    root_b = prefix_index_root(&b, &root);
    assert_false(links_equal(&root_a, &root_b));
    assert_false(hash128_equal(prefix_index_salt(&a, "salt", 4), prefix_index_salt(&b, "salt", 4)));
    prefix_index_deinit(&a);
    prefix_index_deinit(&b);
}

/* index */

/* 64 tokens that begin with `n`, and are no others. */
static const uint32_t *text(uint32_t n) {
    static uint32_t tokens[KV_PAGE_TOKENS];

    tokens[0] = n;
    return tokens;
}

static PrefixLink root_of(const PrefixIndex *index) {
    PrefixRoot root = plain_root();

    return prefix_index_root(index, &root);
}

/* Hashes that an enemy would choose: all alike, or alike in all bits that place them. */
static Hash128 equal_hash(const HashKey *key, const void *data, size_t size) {
    (void)key;
    (void)data;
    (void)size;
    return (Hash128){ .low = 7, .high = 9 };
}

static Hash128 crowded_hash(const HashKey *key, const void *data, size_t size) {
    Hash128 hash = keyed_hash128(key, data, size);

    return (Hash128){ .low = 60 + hash.low % 5, .high = hash.high };
}

static void test_first_page_of_a_content_stays(void **state) {
    PrefixIndex index;
    PrefixLink root, first, link;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 3), 0);
    root = root_of(&index);
    assert_int_equal(prefix_index_find(&index, &root, text(1), &link), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 2, &first), 0);
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 0, &link), PREFIX_INDEX_E_KNOWN);
    assert_true(links_equal(&link, &first));
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 2, &link), 0);
    assert_int_equal(index.n_in, 1);
    assert_int_equal(prefix_index_find(&index, &root, text(1), &link), 2);
    assert_true(links_equal(&link, &first));
    assert_true(prefix_index_has(&index, 2));
    assert_false(prefix_index_has(&index, 0));
    assert_int_equal(prefix_index_insert(&index, &root, text(2), 0, &link), 0);
    prefix_index_remove(&index, 2);
    assert_false(prefix_index_is_live(&index, &first));
    assert_true(prefix_index_is_live(&index, &link));
    assert_int_equal(prefix_index_find(&index, &root, text(1), &link), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_find(&index, &root, text(2), &link), 0);
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 1, &link), 0);
    assert_false(links_equal(&link, &first));
    prefix_index_deinit(&index);
}

/* Whatever the hashes say, a hit has every token and every token before it. */
static void test_a_forged_hash_gives_nobody_anothers_page(void **state) {
    PrefixRoot salted = plain_root();
    PrefixLink root, other, a, b, link;
    uint32_t tokens[KV_PAGE_TOKENS];
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 8), 0);
    index.hash = equal_hash;
    root = root_of(&index);
    salted.salt = prefix_index_salt(&index, "salt", 4);
    other = prefix_index_root(&index, &salted);
    memcpy(tokens, text(1), sizeof(tokens));
    assert_int_equal(prefix_index_insert(&index, &root, tokens, 0, &a), 0);
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        tokens[i] ^= 1 << 16;
        assert_int_equal(prefix_index_find(&index, &root, tokens, &link), PREFIX_INDEX_NONE);
        tokens[i] ^= 1 << 16;
    }
    assert_int_equal(prefix_index_find(&index, &other, tokens, &link), PREFIX_INDEX_NONE);

    /* Two first pages, and behind each the same second one. */
    assert_int_equal(prefix_index_insert(&index, &root, text(2), 1, &b), 0);
    assert_int_equal(prefix_index_insert(&index, &a, text(3), 2, &link), 0);
    assert_int_equal(prefix_index_find(&index, &b, text(3), &link), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_find(&index, &root, text(3), &link), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_insert(&index, &b, text(3), 3, &link), 0);
    assert_int_equal(prefix_index_insert(&index, &other, text(2), 4, &link), 0);
    assert_int_equal(prefix_index_find(&index, &root, text(1), &link), 0);
    assert_int_equal(prefix_index_find(&index, &link, text(3), &link), 2);
    assert_int_equal(prefix_index_find(&index, &root, text(2), &link), 1);
    assert_int_equal(prefix_index_find(&index, &link, text(3), &link), 3);
    assert_int_equal(prefix_index_find(&index, &other, text(2), &link), 4);
    prefix_index_deinit(&index);
}

/* A page that comes to be another's is not the old parent of anything. */
static void test_an_evicted_parents_page_does_not_pass_for_it(void **state) {
    PrefixLink root, parent, link;
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 4), 0);
    index.hash = equal_hash;
    root = root_of(&index);
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 0, &parent), 0);
    assert_int_equal(prefix_index_insert(&index, &parent, text(5), 1, &link), 0);
    prefix_index_remove(&index, 0);
    assert_int_equal(prefix_index_find(&index, &root, text(1), &link), PREFIX_INDEX_NONE);
    assert_int_equal(prefix_index_insert(&index, &root, text(2), 0, &link), 0);
    assert_int_equal(prefix_index_find(&index, &link, text(5), &link), PREFIX_INDEX_NONE);

    /* But behind the same tokens again it is found. */
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 2, &link), 0);
    assert_true(links_equal(&link, &parent));
    assert_int_equal(prefix_index_find(&index, &link, text(5), &link), 1);

    /* Without page and child a node is gone, and whoever comes after has another serial. */
    prefix_index_remove(&index, 2);
    assert_true(prefix_index_is_live(&index, &parent));
    prefix_index_remove(&index, 1);
    assert_false(prefix_index_is_live(&index, &parent));
    assert_int_equal(prefix_index_insert(&index, &root, text(1), 2, &link), 0);
    assert_false(prefix_index_is_live(&index, &parent));
    prefix_index_deinit(&index);
}

/* One long chain, evicted from its front: its nodes stay until there are twice as many as pages. */
static void test_nodes_run_out_and_come_back(void **state) {
    PrefixLink root, at, next;
    PrefixIndex index;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 2), 0);
    root = at = root_of(&index);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(prefix_index_insert(&index, &at, text(i), i % 2, &next), 0);
        if (i > 0)
            prefix_index_remove(&index, (i - 1) % 2);
        at = next;
    }
    assert_int_equal(prefix_index_insert(&index, &at, text(4), 0, &next), PREFIX_INDEX_E_FULL);
    assert_true(links_equal(&at, &next));
    assert_false(prefix_index_has(&index, 0));
    prefix_index_remove(&index, 1);
    assert_int_equal(index.n_in, 0);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(prefix_index_insert(&index, &root, text(i), i, &next), 0);
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
    enum { N = 24, TEXTS = 40, STEPS = 50000 };
    Random random = random_start("crowded");
    uint32_t page_of[TEXTS], text_of_page[N];
    PrefixIndex index;
    PrefixLink root, link;
    uint32_t n_in = 0;

    (void)state;
    memset(page_of, 0xff, sizeof(page_of));
    memset(text_of_page, 0xff, sizeof(text_of_page));
    assert_int_equal(prefix_index_init(&index, N), 0);
    index.hash = crowded_hash;
    root = root_of(&index);
    for (int step = 0; step < STEPS; step++) {
        uint32_t t = random_below(&random, TEXTS), page = random_below(&random, N);

        if (text_of_page[page] != PREFIX_INDEX_NONE) {
            prefix_index_remove(&index, page);
            page_of[text_of_page[page]] = PREFIX_INDEX_NONE;
            text_of_page[page] = PREFIX_INDEX_NONE;
            n_in--;
        } else {
            bool is_known = page_of[t] != PREFIX_INDEX_NONE;

            assert_int_equal(prefix_index_insert(&index, &root, text(t), page, &link),
                             is_known ? PREFIX_INDEX_E_KNOWN : 0);
            if (!is_known) {
                page_of[t] = page;
                text_of_page[page] = t;
                n_in++;
            }
        }
        assert_int_equal(index.n_in, n_in);
        for (t = 0; t < TEXTS; t++)
            assert_int_equal(prefix_index_find(&index, &root, text(t), &link), page_of[t]);
    }
    prefix_index_deinit(&index);
}

/* pool and index together, against scans of plain arrays */

enum { N_PAGES = 29, N_SINKS = 5, N_TAILS = 1, N_TEXTS = 60, N_STEPS = 60000, N_HELD_MAX = 64 };

typedef struct ModelPage {
    uint32_t refs;
    uint32_t text_n; /* which tokens; PREFIX_INDEX_NONE: not in the index */
    bool has_sink;
    uint64_t age; /* when it was released last; of cached pages */
} ModelPage;

typedef struct Model {
    ModelPage pages[N_PAGES];
    uint32_t held[N_HELD_MAX]; /* [n_held] a page as often as it has holders */
    uint32_t n_held;
    uint64_t now;
} Model;

static uint32_t find(const PrefixIndex *index, uint32_t n) {
    PrefixLink root = root_of(index), link;

    return prefix_index_find(index, &root, text(n), &link);
}

static int insert(PrefixIndex *index, uint32_t n, uint32_t page) {
    PrefixLink root = root_of(index), link;

    return prefix_index_insert(index, &root, text(n), page, &link);
}

static uint32_t model_find(const Model *m, uint32_t text_n) {
    for (uint32_t page = 0; page < N_PAGES; page++)
        if (m->pages[page].text_n == text_n)
            return page;
    return PREFIX_INDEX_NONE;
}

static bool model_is_blank(const ModelPage *page) {
    return !page->refs && page->text_n == PREFIX_INDEX_NONE;
}

/* Of the cached pages (those with a sink only), the one released first. */
static uint32_t model_oldest(const Model *m, bool with_sink) {
    uint32_t oldest = PREFIX_INDEX_NONE;

    for (uint32_t page = 0; page < N_PAGES; page++) {
        const ModelPage *p = &m->pages[page];

        if (!p->refs && p->text_n != PREFIX_INDEX_NONE && (p->has_sink || !with_sink) &&
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
    m->pages[page] = (ModelPage){ .text_n = PREFIX_INDEX_NONE };
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

static void step_find(Model *m, PagePool *pool, uint32_t text_n) {
    uint32_t page = find(pool->index, text_n);

    assert_int_equal(page, model_find(m, text_n));
    if (page == PREFIX_INDEX_NONE || m->n_held == N_HELD_MAX)
        return;
    page_pool_ref(pool, page);
    m->pages[page].refs++;
    m->held[m->n_held++] = page;
}

static void step_insert(Model *m, PagePool *pool, uint32_t page, uint32_t text_n) {
    bool is_known = model_find(m, text_n) != PREFIX_INDEX_NONE;

    if (m->pages[page].text_n != PREFIX_INDEX_NONE)
        return;
    assert_int_equal(insert(pool->index, text_n, page), is_known ? PREFIX_INDEX_E_KNOWN : 0);
    if (!is_known)
        m->pages[page].text_n = text_n;
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
        if (!--page->refs && page->text_n == PREFIX_INDEX_NONE)
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
                         m->pages[page].text_n != PREFIX_INDEX_NONE);
        assert_int_equal(sink != PAGE_POOL_NONE, m->pages[page].has_sink);
        if (sink != PAGE_POOL_NONE) {
            assert_true(sink < N_SINKS && !slot_taken[sink]);
            slot_taken[sink] = true;
        }
    }
    for (uint32_t text_n = 0; text_n < N_TEXTS; text_n++)
        assert_int_equal(find(pool->index, text_n), model_find(m, text_n));
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
        uint32_t text_n = random_below(&random, N_TEXTS);
        uint32_t at = m.n_held ? random_below(&random, m.n_held) : 0, page = m.held[at];

        switch (random_below(&random, 6)) {
        case 0:
            step_take(&m, &pool, &random);
            break;
        case 1:
            step_find(&m, &pool, text_n);
            break;
        case 2:
        case 3:
            if (m.n_held)
                step_insert(&m, &pool, page, text_n);
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
        cmocka_unit_test(test_every_index_has_a_key_of_its_own),
        cmocka_unit_test(test_first_page_of_a_content_stays),
        cmocka_unit_test(test_a_forged_hash_gives_nobody_anothers_page),
        cmocka_unit_test(test_an_evicted_parents_page_does_not_pass_for_it),
        cmocka_unit_test(test_nodes_run_out_and_come_back),
        cmocka_unit_test(test_an_index_of_no_pages_is_refused),
        cmocka_unit_test(test_tokens_are_counted),
        cmocka_unit_test(test_crowded_index_agrees_with_an_array),
        cmocka_unit_test(test_pool_and_index_agree_with_plain_arrays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
