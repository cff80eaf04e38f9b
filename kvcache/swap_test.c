/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/swap_test.h"

#include "kvcache/kv_format.h"

#include <math.h>

SwapTest swap_test(const Profile *profile, uint32_t layer, KvFormat wide, KvFormat narrow) {
    const double *k = profile->damages[layer][KV_SIDE_K], *v = profile->damages[layer][KV_SIDE_V];
    const double *k_errors = profile->damage_errors[layer][KV_SIDE_K];
    const double *v_errors = profile->damage_errors[layer][KV_SIDE_V];

    return (SwapTest){
        .layer = layer,
        .wide = wide,
        .narrow = narrow,
        .for_keys = k[wide] + v[narrow],
        .for_values = v[wide] + k[narrow],
        .error = sqrt(k_errors[wide] * k_errors[wide] + v_errors[narrow] * v_errors[narrow] +
                      v_errors[wide] * v_errors[wide] + k_errors[narrow] * k_errors[narrow]),
    };
}

void swap_test_all(const Profile *profile, void (*visit)(void *userdata, const SwapTest *test),
                   void *userdata) {
    for (uint32_t layer = 0; layer < profile->geometry.n_layers; layer++)
        for (int wide = 0; wide < KV_FORMATS; wide++)
            for (int narrow = 0; narrow < KV_FORMATS; narrow++) {
                SwapTest test;

                if (!kv_format_quantizes((KvFormat)wide) ||
                    kv_formats[narrow].bits >= kv_formats[wide].bits)
                    continue;
                test = swap_test(profile, layer, (KvFormat)wide, (KvFormat)narrow);
                visit(userdata, &test);
            }
}
