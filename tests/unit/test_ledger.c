/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/ledger.h"
#include "kvcache/prefix_index.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* SmolLM2-135M: a page over all layers is 30 * 2 * 3 * 64 * 64 * 2 bytes, and so is a tail. */
static const KvGeometry geometry = { .n_layers = 30, .n_kv_heads = 3, .head_dim = 64 };
#define PAGE_BYTES UINT64_C(1474560)

/* Every figure against a layout of the same pages, and nothing more would have fitted. */
static void check_against_layout(const Ledger *l, const LedgerRequest *request) {
    KvStore s;

    assert_int_equal(kv_store_layout(&s, &(KvShape){ .geometry = request->geometry,
                                                     .n_pages = l->n_pages,
                                                     .n_tails = l->n_tails }),
                     0);
    assert_int_equal(l->kv_bytes, s.size_bytes);
    assert_int_equal(l->page_bytes, kv_store_page_bytes(&s));
    assert_int_equal(l->tail_bytes, kv_store_tail_bytes(&s));
    assert_int_equal(l->pages_bytes + l->tails_bytes + l->padding_bytes, l->kv_bytes);
    assert_int_equal(l->kv_tokens, (uint64_t)l->n_pages * KV_PAGE_TOKENS);
    assert_int_equal(l->n_tails, request->max_num_seqs);
    if (request->kv_memory_bytes) {
        assert_true(l->kv_bytes <= request->kv_memory_bytes);
        assert_int_equal(kv_store_layout(&s, &(KvShape){ .geometry = request->geometry,
                                                         .n_pages = l->n_pages + 1,
                                                         .n_tails = l->n_tails }),
                         0);
        assert_true(s.size_bytes > request->kv_memory_bytes);
    }
}

static void test_bytes_in_pages_out(void **state) {
    (void)state;
    for (uint64_t extra = 0; extra <= 3 * PAGE_BYTES; extra += PAGE_BYTES / 4) {
        LedgerRequest request = { .geometry = geometry,
                                  .kv_memory_bytes = 9 * PAGE_BYTES + extra,
                                  .max_num_seqs = 8 };
        Ledger l;

        assert_int_equal(ledger_plan(&l, &request, NULL), 0);
        assert_int_equal(l.n_pages, 1 + extra / PAGE_BYTES);
        check_against_layout(&l, &request);
    }
}

static void test_tokens_in_pages_out(void **state) {
    static const uint64_t tokens[] = { 1, 63, 64, 65, 100000 };

    (void)state;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        LedgerRequest request = { .geometry = geometry, .kv_tokens = tokens[i], .max_num_seqs = 3 };
        Ledger l;

        assert_int_equal(ledger_plan(&l, &request, NULL), 0);
        assert_int_equal(l.n_pages, (tokens[i] + 63) / 64);
        check_against_layout(&l, &request);
    }
}

static void test_odd_shapes_fit_to_the_byte(void **state) {
    (void)state;
    for (uint32_t head_dim = 2; head_dim <= 130; head_dim += 2) {
        LedgerRequest request = {
            .geometry = { .n_layers = 3, .n_kv_heads = 5, .head_dim = head_dim },
            .kv_memory_bytes = 123456789,
            .max_num_seqs = 7
        };
        Ledger l;

        assert_int_equal(ledger_plan(&l, &request, NULL), 0);
        check_against_layout(&l, &request);
    }
}

static void test_too_little_memory_says_what_is_missing(void **state) {
    LedgerRequest request = { .geometry = geometry,
                              .kv_memory_bytes = 9 * PAGE_BYTES - 1,
                              .max_num_seqs = 8 };
    Reason why = REASON_NULL;
    Ledger l;

    (void)state;
    assert_int_equal(ledger_plan(&l, &request, &why), -ENOSPC);
    assert_non_null(strstr(why.text, ": 1 bytes are missing"));
    assert_non_null(strstr(why.text, "lower max_num_seqs to 7 or less"));
    /* What the sentence advises does help. */
    request.max_num_seqs = 7;
    assert_int_equal(ledger_plan(&l, &request, &why), 0);

    request.kv_memory_bytes = 2 * PAGE_BYTES - 5;
    assert_int_equal(ledger_plan(&l, &request, &why), -ENOSPC);
    assert_non_null(strstr(why.text, ": 5 bytes are missing; raise kv_memory"));
    assert_null(strstr(why.text, "max_num_seqs"));
}

static size_t layout_bytes(const KvPlan *plan, uint32_t n_pages) {
    KvStore store;

    assert_int_equal(kv_store_layout(&store, &(KvShape){ .geometry = geometry,
                                                         .plan = plan,
                                                         .n_pages = n_pages,
                                                         .n_tails = 1,
                                                         .n_sinks = 1 }),
                     0);
    return store.size_bytes;
}

/* Memory that holds so many pages to the byte gives them, whatever padding there is; tokens beside
 * it must fit, and what is missing is missing to the byte. */
static void test_memory_and_tokens(void **state) {
    KvPlan plan = { 0 };
    Ledger l;

    (void)state;
    for (uint32_t layer = 0; layer < geometry.n_layers; layer++) {
        plan.formats[layer][KV_SIDE_K] = KV_FORMAT_3;
        plan.formats[layer][KV_SIDE_V] = KV_FORMAT_2;
    }
    for (uint32_t n_pages = 1; n_pages < 50; n_pages++) {
        LedgerRequest request = { .geometry = geometry,
                                  .plan = &plan,
                                  .kv_memory_bytes = layout_bytes(&plan, n_pages),
                                  .kv_tokens = n_pages * 64,
                                  .max_num_seqs = 1,
                                  .n_sinks = 1 };
        size_t missing = layout_bytes(&plan, n_pages + 1) - request.kv_memory_bytes;
        Reason why = REASON_NULL;
        char words[64];

        assert_int_equal(ledger_plan(&l, &request, &why), 0);
        assert_int_equal(l.n_pages, n_pages);
        request.kv_tokens++;
        assert_int_equal(ledger_plan(&l, &request, &why), -ENOSPC);
        snprintf(words, sizeof(words), ": %zu bytes are missing; raise kv_memory", missing);
        assert_non_null(strstr(why.text, words));
        request.kv_memory_bytes += missing;
        assert_int_equal(ledger_plan(&l, &request, &why), 0);
    }
}

/* Nobody gave kv_memory: no sentence may say what it is. */
static void test_a_default_is_not_told_as_an_option(void **state) {
    LedgerRequest request = { .geometry = geometry,
                              .kv_memory_bytes = 9 * PAGE_BYTES - 1,
                              .memory_is_default = true,
                              .max_num_seqs = 8 };
    Reason why = REASON_NULL;
    Ledger l;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ledger_plan(&l, &request, &why), -ENOSPC);
        assert_null(strstr(why.text, "kv_memory is"));
        assert_null(strstr(why.text, "raise kv_memory"));
        assert_non_null(strstr(why.text, "a cache of no given size may take"));
        assert_non_null(strstr(why.text, "give kv_memory"));
        request.kv_memory_bytes = PAGE_BYTES;
    }
}

static void test_impossible_requests_are_refused(void **state) {
    LedgerRequest request = { .geometry = geometry, .max_num_seqs = 1 };
    Reason why = REASON_NULL;
    Ledger l;

    (void)state;
    assert_int_equal(ledger_plan(&l, &request, &why), -EINVAL);
    assert_non_null(strstr(why.text, "kv_memory"));
    request.kv_tokens = UINT64_MAX;
    request.geometry.head_dim = 1u << 20;
    request.geometry.n_kv_heads = 1u << 20;
    assert_int_equal(ledger_plan(&l, &request, &why), -EOVERFLOW);
    assert_non_null(strstr(why.text, "lower kv_tokens"));
    request.geometry.n_layers = 0;
    assert_int_equal(ledger_plan(&l, &request, &why), -EINVAL);
    request.max_num_seqs = 0;
    assert_int_equal(ledger_plan(&l, &request, &why), -EINVAL);
    assert_non_null(strstr(why.text, "max_num_seqs"));
}

static void test_printed_table_holds_every_byte(void **state) {
    LedgerRequest request = { .geometry = geometry,
                              .kv_memory_bytes = 100 * PAGE_BYTES,
                              .max_num_seqs = 8 };
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    Ledger l;

    (void)state;
    assert_int_equal(ledger_plan(&l, &request, NULL), 0);
    l.weights_bytes = 1000;
    l.workspace_bytes = 234;
    ledger_print(&l, &out);
    assert_null(strstr(buffer_text(&out), "prefix index"));
    assert_non_null(strstr(buffer_text(&out), "135659520")); /* 92 pages */
    assert_non_null(strstr(buffer_text(&out), "11796480"));  /* 8 tails */
    assert_non_null(strstr(buffer_text(&out), "147457234")); /* total */
    assert_non_null(strstr(buffer_text(&out), "5888"));      /* tokens */
}

/* The index of prefixes lies beside the cache: it takes no page away. */
static void test_prefix_index_is_counted(void **state) {
    LedgerRequest request = { .geometry = geometry,
                              .kv_memory_bytes = 100 * PAGE_BYTES,
                              .max_num_seqs = 8,
                              .prefix_caching = true };
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    char total[32];
    Ledger l;

    (void)state;
    assert_int_equal(ledger_plan(&l, &request, NULL), 0);
    assert_int_equal(l.n_pages, 92);
    assert_int_equal(l.index_bytes, prefix_index_bytes(92));
    assert_true(l.index_bytes >= 92 * KV_PAGE_TOKENS * sizeof(uint32_t));
    ledger_print(&l, &out);
    assert_non_null(strstr(buffer_text(&out), "prefix index"));
    snprintf(total, sizeof(total), "%llu", (unsigned long long)(l.kv_bytes + l.index_bytes));
    assert_non_null(strstr(buffer_text(&out), total));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_in_pages_out),
        cmocka_unit_test(test_tokens_in_pages_out),
        cmocka_unit_test(test_odd_shapes_fit_to_the_byte),
        cmocka_unit_test(test_too_little_memory_says_what_is_missing),
        cmocka_unit_test(test_memory_and_tokens),
        cmocka_unit_test(test_a_default_is_not_told_as_an_option),
        cmocka_unit_test(test_impossible_requests_are_refused),
        cmocka_unit_test(test_printed_table_holds_every_byte),
        cmocka_unit_test(test_prefix_index_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
