/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What eval makes of logits, against sums done by hand over the same logits.
 */

#include "server/commands/eval.h"

#include "kvcache/kv_spec.h"
#include "server/commands/profile_store.h"
#include "text/tokenizer.h"
#include "util/buffer.h"
#include "util/mapped_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WINDOW = 600, N_WINDOWS = 2, N_TOKENS = N_WINDOWS * WINDOW };

static char directory[64], model_path[80];
static Session session;
static uint32_t tokens[N_TOKENS + 40];

static int setup_model(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;
    SessionOptions options = { .n_threads = 2,
                               .max_step_tokens = KV_PAGE_TOKENS,
                               .max_logit_rows = KV_PAGE_TOKENS };
    Reason why = REASON_NULL;

    (void)state;
    strcpy(directory, "/tmp/kvasir-test-eval-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    buffer_printf(&command, "tar -xJf '%s/tests/data/models/llama.tar.xz' -C '%s'",
                  root ? root : ".", directory);
    snprintf(model_path, sizeof(model_path), "%s/llama", directory);
    options.model_path = model_path;
    if (system(buffer_text(&command)) || session_init(&session, &options, &why)) {
        print_error("%s\n", why.text);
        return -1;
    }
    for (uint32_t i = 0; i < N_TOKENS + 40; i++)
        tokens[i] = 2 + (i * 31 + i * i * 7) % 500;
    return 0;
}

static int teardown_model(void **state) {
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;

    (void)state;
    session_deinit(&session);
    buffer_printf(&command, "rm -rf '%s'", directory);
    return system(buffer_text(&command));
}

static void cache_open(SessionCache *cache, const char *spec, const Profile *profile) {
    Reason why = REASON_NULL;
    KvPlan plan;

    if (kv_spec_parse(&plan, spec, session.config->n_layers, &why) ||
        session_cache_init(cache, &session, WINDOW, &plan, profile, &why))
        fail_msg("%s", why.text);
}

/* formulas */

static void test_statistics_of_given_numbers(void **state) {
    float klds[] = { 0.5f, 0.25f, 0, 0.25f };
    EvalStats stats = { .n_tokens = 4,
                        .n_predictions = 2,
                        .n_same_top = 3,
                        .log_loss = 2 * log(7),
                        .kld = 1,
                        .kld_squares = 0.375,
                        .klds = klds };

    (void)state;
    assert_true(fabs(eval_perplexity(&stats) - 7) < 1e-12);
    assert_true(eval_kld(&stats) == 0.25);
    /* variance 0.375 / 4 - 0.25^2 = 1/32, over 4 rows */
    assert_true(fabs(eval_kld_error(&stats) - sqrt(1 / 128.0)) < 1e-12);
    assert_true(eval_same_top(&stats) == 0.75);
    assert_true(eval_kld_percentile(&stats, 0) == 0);
    assert_true(eval_kld_percentile(&stats, 0.5) == 0.25);
    assert_true(eval_kld_percentile(&stats, 0.99) == 0.5);
    assert_true(eval_kld_percentile(&stats, 1) == 0.5);
}

static void test_equal_rows_have_no_error(void **state) {
    float klds[] = { 0.1f, 0.1f, 0.1f };
    EvalStats stats = { .n_tokens = 3, .kld = 0.3, .kld_squares = 0.03, .klds = klds };

    (void)state;
    assert_true(eval_kld_error(&stats) < 1e-8); /* and no NaN of a variance below 0 */
}

static void test_bins_double(void **state) {
    static const uint32_t ends[] = { 512, 1024, 2048, 4096 };

    (void)state;
    for (uint32_t bin = 0; bin < 4; bin++) {
        assert_int_equal(eval_bin_end(bin), ends[bin]);
        assert_int_equal(eval_bin(ends[bin] - 1), bin);
        assert_int_equal(eval_bin(ends[bin]), bin + 1);
    }
    assert_int_equal(eval_bin(0), 0);
    assert_int_equal(eval_bin((1u << 20) - 1), EVAL_BINS - 1);
}

/* runs */

/* f32 [N_TOKENS][n_vocab]: logits of every window in chunks of a page. */
static float *logits_of(const char *spec) {
    size_t n_vocab = session.config->n_vocab;
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    float *logits = calloc(N_TOKENS * n_vocab, sizeof(*logits));

    assert_non_null(logits);
    cache_open(&cache, spec, NULL);
    for (uint32_t i = 0; i < N_TOKENS;) {
        uint32_t at = i % WINDOW;
        uint32_t n = WINDOW - at < KV_PAGE_TOKENS ? WINDOW - at : KV_PAGE_TOKENS;

        if (!at)
            session_cache_reset(&cache);
        assert_int_equal(session_step(&cache, tokens + i, n), 0);
        assert_int_equal(session_logits(&session, 0, n, logits + i * n_vocab), 0);
        i += n;
    }
    return logits;
}

static double log_sum(const float *x, uint32_t n) {
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i]);
    return log(sum);
}

static uint32_t best_of(const float *x, uint32_t n) {
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

typedef struct ByHand {
    double log_loss, kld, kld_squares, kld_max, error, norm;
    double late_kld; /* of rows at 512 and later */
    uint64_t n_predictions, n_same_top;
} ByHand;

static ByHand sum_by_hand(const float *reference, const float *logits) {
    uint32_t n_vocab = session.config->n_vocab;
    ByHand sums = { .kld = 0 };

    for (uint32_t i = 0; i < N_TOKENS; i++) {
        const float *p = reference + (size_t)i * n_vocab, *q = logits + (size_t)i * n_vocab;
        double p_log = log_sum(p, n_vocab), q_log = log_sum(q, n_vocab), kld = 0;

        for (uint32_t j = 0; j < n_vocab; j++) {
            kld += exp(p[j] - p_log) * (p[j] - p_log - (q[j] - q_log));
            sums.error = hypot(sums.error, q[j] - p[j]);
            sums.norm = hypot(sums.norm, p[j]);
        }
        sums.kld += kld;
        sums.late_kld += i % WINDOW < 512 ? 0 : kld;
        sums.kld_squares += kld * kld;
        sums.kld_max = fmax(sums.kld_max, kld);
        sums.n_same_top += best_of(p, n_vocab) == best_of(q, n_vocab);
        if (i % WINDOW == WINDOW - 1)
            continue;
        sums.log_loss += q_log - q[tokens[i + 1]];
        sums.n_predictions++;
    }
    return sums;
}

static void assert_near(double x, double y, double tolerance) {
    if (!(fabs(x - y) <= tolerance * fabs(y)))
        fail_msg("%.12g, by hand %.12g", x, y);
}

static void check_by_hand(EvalStats *stats, const ByHand *sums) {
    assert_int_equal(stats->n_tokens, N_TOKENS);
    assert_int_equal(stats->n_predictions, sums->n_predictions);
    assert_int_equal(stats->n_same_top, sums->n_same_top);
    assert_near(eval_perplexity(stats), exp(sums->log_loss / (double)sums->n_predictions), 1e-5);
    assert_near(eval_kld(stats), sums->kld / N_TOKENS, 1e-3);
    assert_near(stats->kld_squares, sums->kld_squares, 1e-3);
    assert_near(eval_kld_percentile(stats, 1), sums->kld_max, 1e-3);
    assert_near(eval_bin_kld(stats, 0), (sums->kld - sums->late_kld) / (N_WINDOWS * 512), 1e-3);
    assert_near(eval_bin_kld(stats, 1), sums->late_kld / (N_WINDOWS * (WINDOW - 512)), 1e-3);
    assert_near(eval_logit_error(stats), sums->error / sums->norm, 1e-5);
}

static uint64_t n_told;

static void tell(void *userdata, uint64_t n_done, uint64_t n_all) {
    assert_ptr_equal(userdata, &n_told);
    assert_int_equal(n_all, N_TOKENS); /* what is less than a window is left out */
    assert_true(n_done > n_told);
    n_told = n_done;
}

static void test_a_run_is_the_sum_over_its_logits(void **state) {
    static const char *const specs[] = { "bf16", "bf16", "k2v2", "k4v2" };
    enum { N_RUNS = sizeof(specs) / sizeof(specs[0]) };
    EvalRun runs[N_RUNS] = { { .name = specs[0] } };
    CLEANUP(free) float *reference = logits_of("bf16");

    (void)state;
    for (uint32_t i = 0; i < N_RUNS; i++)
        cache_open(&runs[i].cache, specs[i], NULL);
    n_told = 0;
    assert_int_equal(eval_run(&session, runs, N_RUNS, tokens, N_TOKENS + 40, WINDOW, tell, &n_told),
                     0);
    assert_int_equal(n_told, N_TOKENS);
    for (uint32_t i = 0; i < N_RUNS; i++) {
        CLEANUP(free) float *logits = logits_of(specs[i]);
        ByHand sums = sum_by_hand(reference, logits);

        check_by_hand(&runs[i].stats, &sums);
        /* The reference, and a cache that stores the same, differ by nothing at all. */
        assert_int_equal(runs[i].stats.kld == 0, i < 2);
        assert_int_equal(eval_kld_percentile(&runs[i].stats, 1) == 0, i < 2);
        session_cache_deinit(&runs[i].cache);
        eval_stats_deinit(&runs[i].stats);
    }
}

static void read_text(const char *name, TokenIds *out) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    Reason why = REASON_NULL;

    buffer_printf(&path, "%s/%s", root ? root : ".", name);
    if (tokenizer_open(&tokenizer, model_path, &why) ||
        mapped_file_open(&file, buffer_text(&path), &why) ||
        tokenizer_encode(tokenizer, (const char *)file.data, file.size,
                         &(EncodeOptions){ .add_special = false, .parse_special = false }, out))
        fail_msg("%s", why.text);
}

/* Keys alone, with moments of the built-in text, on another text. */
static void test_compensated_rounding_is_not_worse_than_plain(void **state) {
    static const char *const specs[] = { "bf16", "k3v16", "k3v16", "k2v16", "k2v16" };
    enum { N_RUNS = sizeof(specs) / sizeof(specs[0]) };
    ProfileStoreOptions where = { .model_path = model_path, .n_threads = 2, .time_ms_max = 60000 };
    CLEANUP(profile_free) Profile *profile = NULL;
    CLEANUP(token_ids_deinit) TokenIds text = TOKEN_IDS_NULL;
    EvalRun runs[N_RUNS] = { { .name = specs[0] } };
    double klds[N_RUNS];
    Reason why = REASON_NULL;

    (void)state;
    if (profile_measure(&profile, &where, &why))
        fail_msg("%s", why.text);
    for (uint32_t i = 0; i < N_RUNS; i++)
        cache_open(&runs[i].cache, specs[i], i % 2 ? NULL : profile);
    read_text("LICENSE", &text);
    assert_true(text.n >= 4 * WINDOW);
    assert_int_equal(eval_run(&session, runs, N_RUNS, text.ids, 4 * WINDOW, WINDOW, NULL, NULL), 0);
    for (uint32_t i = 0; i < N_RUNS; i++) {
        klds[i] = eval_kld(&runs[i].stats);
        session_cache_deinit(&runs[i].cache);
        eval_stats_deinit(&runs[i].stats);
    }
    print_message("K3 plain %g, compensated %g; K2 plain %g, compensated %g\n", klds[1], klds[2],
                  klds[3], klds[4]);
    assert_true(klds[2] < klds[1]);
    assert_true(klds[4] < klds[3]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics_of_given_numbers),
        cmocka_unit_test(test_equal_rows_have_no_error),
        cmocka_unit_test(test_bins_double),
        cmocka_unit_test(test_a_run_is_the_sum_over_its_logits),
        cmocka_unit_test(test_compensated_rounding_is_not_worse_than_plain),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
