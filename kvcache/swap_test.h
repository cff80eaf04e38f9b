/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Whether keys deserve the wider format: of one layer and two widths, the damage with keys in the
 * wide one and values in the narrow one, and the damage with both exchanged, which takes as many
 * bytes but for scales and centers. arXiv 2502.15075 says that the first is less, for every layer.
 */

#include "kvcache/profile.h"

typedef struct SwapTest {
    uint32_t layer;
    KvFormat wide, narrow;
    double for_keys;   /* damage with wide keys and narrow values: the sum of both alone */
    double for_values; /* with wide values and narrow keys */
    double error;      /* standard error of the difference, all damages as independent */
} SwapTest;

/* `profile` has damages; wide has more bits than narrow. */
SwapTest swap_test(const Profile *profile, uint32_t layer, KvFormat wide, KvFormat narrow);

/* A counterexample. */
static inline bool swap_test_fails(const SwapTest *test) {
    return test->for_keys > test->for_values;
}
/* Whether more than chance says so. */
static inline bool swap_test_is_sure(const SwapTest *test) {
    double difference = test->for_keys - test->for_values;

    return (difference < 0 ? -difference : difference) > 2 * test->error;
}

/* Calls `visit` for every layer and pair of widths. */
void swap_test_all(const Profile *profile, void (*visit)(void *userdata, const SwapTest *test),
                   void *userdata);
