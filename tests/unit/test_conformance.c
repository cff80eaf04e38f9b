/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every check on every subject that runs here: tests/unit/conformance/conformance.h. An argument
 * chooses among them: test_conformance '*: matmul*'.
 */
#include "tests/unit/conformance/conformance.h"

#include <errno.h>
#include <stdlib.h>

typedef struct Check {
    const char *name;
    void (*run)(Device *d);
} Check;

#define CHECK(_name) \
    { #_name, check_##_name }

static const Check checks[] = {
    CHECK(memory_is_aligned_zeros),
    CHECK(memory_comes_back),
    CHECK(memory_is_refused_by_purpose),
    CHECK(embed),
    CHECK(rmsnorm),
    CHECK(gated),
    CHECK(moments),
    CHECK(covariances),
    CHECK(gather_rows),
    CHECK(matmul_of_every_format),
    CHECK(matmul_of_parts),
    CHECK(matmul_of_hard_input),
    CHECK(matmul_rows_are_exact),
    CHECK(rope_table),
    CHECK(rope),
    CHECK(rope_holds_what_halves_can),
    CHECK(attention_of_every_pair_of_formats),
    CHECK(attention_of_every_head_dim),
    CHECK(attention_of_many_query_heads),
    CHECK(attention_of_a_long_past),
    CHECK(attention_of_hard_values),
    CHECK(attention_rows_are_exact),
    CHECK(sample_takes_the_largest),
    CHECK(sample_draws_by_the_distribution),
    CHECK(sample_logprobs),
    CHECK(sample_stays_in_masks),
    CHECK(sample_with_nothing_but_a_mask),
    CHECK(sample_follows_what_it_draws),
    CHECK(sample_draws_alike_alone),
};
#define N_CHECKS (sizeof(checks) / sizeof(*checks))

/* One check on one subject. */
typedef struct Pair {
    const Subject *subject;
    const Check *check;
    char name[100];
} Pair;

static Device device;

/* A check asks for memory that cannot be had; sanitizers are to refuse it as the system does. */
#define SANITIZER_OPTIONS(_name)                                        \
    __attribute__((__visibility__("default"))) const char *_name(void); \
    const char *_name(void) {                                           \
        return "allocator_may_return_null=1";                           \
    }

SANITIZER_OPTIONS(__asan_default_options)
SANITIZER_OPTIONS(__tsan_default_options)

static void run_pair(void **state) {
    const Pair *pair = *state;

    device_open(&device, pair->subject, pair->name);
    pair->check->run(&device);
    device_close(&device);
}

static bool is_here(const Subject *subject) {
    Backend *backend = NULL;
    int r = subject->open(&backend, subject, NULL);

    if (r && r != -ENOTSUP)
        printf("%s cannot be opened: error %d\n", subject->name, -r);
    subject->ops->free(backend);
    return r != -ENOTSUP;
}

int main(int argc, char **argv) {
    Pair *pairs = calloc(n_subjects * N_CHECKS, sizeof(*pairs));
    struct CMUnitTest *tests = calloc(n_subjects * N_CHECKS, sizeof(*tests));
    size_t n = 0;
    int r;

    if (!pairs || !tests)
        return 1;
    for (size_t s = 0; s < n_subjects; s++) {
        bool here = is_here(&subjects[s]);

        for (size_t c = 0; here && c < N_CHECKS; c++, n++) {
            pairs[n] = (Pair){ .subject = &subjects[s], .check = &checks[c] };
            snprintf(pairs[n].name, sizeof(pairs[n].name), "%s: %s", subjects[s].name,
                     checks[c].name);
            tests[n] = (struct CMUnitTest){ .name = pairs[n].name,
                                            .test_func = run_pair,
                                            .initial_state = &pairs[n] };
        }
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    r = _cmocka_run_group_tests("conformance", tests, n, NULL, NULL);
    free(tests);
    free(pairs);
    return r;
}
