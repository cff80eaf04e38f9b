/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotary frequencies against numbers that tests/tools/make_rope_vectors.py computes from the
 * formulas of Transformers.
 */

#include "model/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define HEAD_DIM_MAX 128
#define N_PAIRS 10

/* Which pairs of channels the table shows, of head_dim 64; twice as far into one of 128. */
static const uint32_t pairs[N_PAIRS] = { 0, 1, 5, 12, 16, 17, 20, 24, 27, 31 };

/* What the script calls the same. */
static const struct {
    uint32_t head_dim;
    RopeConfig rope;
} configs[] = {
    { 64, { .scaling = ROPE_DEFAULT, .theta = 1e4f } },
    { 128, { .scaling = ROPE_DEFAULT, .theta = 1e6f } },
    { 64, { .scaling = ROPE_LINEAR, .theta = 1e4f, .factor = 4 } },
    { 128,
      { .scaling = ROPE_LLAMA3,
        .theta = 5e5f,
        .factor = 8,
        .low_freq_factor = 1,
        .high_freq_factor = 4,
        .original_max_position = 8192 } },
    { 64,
      { .scaling = ROPE_LLAMA3,
        .theta = 5e5f,
        .factor = 32,
        .low_freq_factor = 1,
        .high_freq_factor = 4,
        .original_max_position = 8192 } },
#define YARN .scaling = ROPE_YARN, .truncate = true
    { 64,
      { YARN, .theta = 1e4f, .factor = 4, .beta_fast = 32, .beta_slow = 1,
        .original_max_position = 4096 } },
    { 128,
      { YARN, .theta = 1e6f, .factor = 4, .beta_fast = 16, .beta_slow = 2,
        .original_max_position = 32768 } },
    { 64,
      { .scaling = ROPE_YARN,
        .theta = 1.5e5f,
        .factor = 32,
        .beta_fast = 32,
        .beta_slow = 1,
        .original_max_position = 4096 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 8, .beta_fast = 32, .beta_slow = 1,
        .attention_factor = 1.25f, .original_max_position = 2048 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 40, .beta_fast = 32, .beta_slow = 1, .mscale = 1,
        .mscale_all_dim = 0.707f, .original_max_position = 4096 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 40, .beta_fast = 32, .beta_slow = 1, .mscale = 0.5f,
        .original_max_position = 4096 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 1, .beta_fast = 32, .beta_slow = 1,
        .original_max_position = 2048 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 4, .beta_fast = 32, .beta_slow = 1,
        .original_max_position = 4 } },
    { 64,
      { YARN, .theta = 1e4f, .factor = 4, .beta_fast = 32, .beta_slow = 32,
        .original_max_position = 200 } },
};

/* As the script prints it. */
static const struct {
    const char *name;
    double attention_factor;
    double frequencies[N_PAIRS];
} expected[] = {
    { "default 10000",
      1,
      { 1, 0.749894209, 0.237137371, 0.0316227766, 0.01, 0.00749894209, 0.00316227766, 0.001,
        0.000421696503, 0.000133352143 } },
    { "default 1000000, 128 channels",
      1,
      { 1, 0.649381632, 0.115478198, 0.00562341325, 0.001, 0.000649381632, 0.000177827941,
        3.16227766e-05, 8.65964323e-06, 1.53992653e-06 } },
    { "linear",
      1,
      { 0.25, 0.187473552, 0.0592843426, 0.00790569415, 0.0025, 0.00187473552, 0.000790569415,
        0.00025, 0.000105424126, 3.33380358e-05 } },
    { "llama3",
      1,
      { 1, 0.663601238, 0.128687373, 0.00729266474, 0.000524846161, 0.000178507813, 3.4281022e-05,
        6.64786987e-06, 1.94269254e-06, 3.76732269e-07 } },
    { "llama3 of 32",
      1,
      { 1, 0.663601238, 0.128687373, 0.00729266474, 0.000429556797, 9.7082878e-05, 8.57025549e-06,
        1.66196747e-06, 4.85673134e-07, 9.41830673e-08 } },
    { "yarn",
      1.13862944,
      { 1, 0.749894209, 0.237137371, 0.0279739947, 0.00653846154, 0.00447052317, 0.0013378867,
        0.00025, 0.000105424126, 3.33380358e-05 } },
    { "yarn, betas",
      1.13862944,
      { 1, 0.649381632, 0.115478198, 0.00562341325, 0.000590909091, 0.000295173469, 4.44569853e-05,
        7.90569415e-06, 2.16491081e-06, 3.84981632e-07 } },
    { "yarn, not truncated",
      1.34657359,
      { 1, 0.689044306, 0.155322989, 0.00679495949, 0.000456483919, 0.000129318701, 1.81883367e-05,
        4.09997848e-06, 1.34129104e-06, 3.02351143e-07 } },
    { "yarn, attention factor",
      1.25,
      { 1, 0.749894209, 0.237137371, 0.0231089521, 0.00461538462, 0.00295631371, 0.000608130319,
        0.000125, 5.27120629e-05, 1.66690179e-05 } },
    { "yarn, mscale",
      1.0857264,
      { 1, 0.749894209, 0.237137371, 0.0268793601, 0.0055, 0.00356199749, 0.000790569415, 2.5e-05,
        1.05424126e-05, 3.33380358e-06 } },
    { "yarn, mscale alone",
      1.36888795,
      { 1, 0.749894209, 0.237137371, 0.0268793601, 0.0055, 0.00356199749, 0.000790569415, 2.5e-05,
        1.05424126e-05, 3.33380358e-06 } },
    { "yarn of 1",
      1,
      { 1, 0.749894209, 0.237137371, 0.0316227766, 0.01, 0.00749894209, 0.00316227766, 0.001,
        0.000421696503, 0.000133352143 } },
    { "yarn, ramp before the first pair",
      1.13862944,
      { 1, 0.749894209, 0.237137371, 0.0316227766, 0.01, 0.00749894209, 0.00316227766, 0.001,
        0.000421696503, 0.000133352143 } },
    { "yarn, ramp of no length",
      1.13862944,
      { 1, 0.187473552, 0.0592843426, 0.00790569415, 0.0025, 0.00187473552, 0.000790569415, 0.00025,
        0.000105424126, 3.33380358e-05 } },
};

#define N_CASES (sizeof(configs) / sizeof(configs[0]))

_Static_assert(N_CASES == sizeof(expected) / sizeof(expected[0]), "a row for every case");

static void assert_near(const char *name, uint32_t i, double x, double y) {
    if (!(fabs(x - y) <= 3e-7 * fabs(y)))
        fail_msg("%s, pair %u: %.9g, expected %.9g", name, i, x, y);
}

static void test_frequencies_are_those_of_transformers(void **state) {
    (void)state;
    for (size_t k = 0; k < N_CASES; k++) {
        float inv_freq[HEAD_DIM_MAX / 2];
        uint32_t head_dim = configs[k].head_dim;
        float factor = rope_frequencies(&configs[k].rope, head_dim, inv_freq);

        assert_near(expected[k].name, UINT32_MAX, factor, expected[k].attention_factor);
        for (uint32_t j = 0; j < N_PAIRS; j++)
            assert_near(expected[k].name, pairs[j], inv_freq[pairs[j] * (head_dim / 64)],
                        expected[k].frequencies[j]);
    }
}

/* What GGUF files have in rope_freqs.weight: divisors, which come before any scaling. */
static void test_frequency_factors_divide(void **state) {
    float factors[32], plain[32], divided[32];
    RopeConfig rope = { .theta = 5e5f };

    (void)state;
    for (uint32_t i = 0; i < 32; i++)
        factors[i] = 1 + 7 * (float)i / 31;
    rope_frequencies(&rope, 64, plain);
    rope.freq_factors = factors;
    assert_near("factor", 0, rope_frequencies(&rope, 64, divided), 1);
    for (uint32_t i = 0; i < 32; i++)
        assert_near("factors", i, divided[i], (double)plain[i] / factors[i]);
    rope.scaling = ROPE_LINEAR;
    rope.factor = 2;
    rope_frequencies(&rope, 64, divided);
    for (uint32_t i = 0; i < 32; i++)
        assert_near("linear", i, divided[i], (double)plain[i] / factors[i] / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies_are_those_of_transformers),
        cmocka_unit_test(test_frequency_factors_divide),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
