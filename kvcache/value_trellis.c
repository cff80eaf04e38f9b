/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/value_trellis.h"

void kv_trellis_levels(const uint8_t *codes, uint32_t n, uint8_t *levels) {
    uint32_t state = 0;

    for (uint32_t j = 0; j < n; j++) {
        uint32_t coded_bit = codes[j] & 1;

        if (j % KV_TRELLIS_RUN == 0)
            state = 0;
        levels[j] =
            (uint8_t)((codes[j] >> 1) * KV_TRELLIS_SUBSETS + kv_trellis_subset(state, coded_bit));
        state = kv_trellis_next(state, coded_bit);
    }
}
