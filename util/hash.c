/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library's header is compiled in here, so that its state can live on the caller's stack and
 * nothing has to be found at run time; this is the only file that sees it.
 */
#include "util/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(XXH3_state_t) <= HASHER_STATE_BYTES, "a Hasher holds the library's state");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are hashed as they lie");

static Hash128 of_library(XXH128_hash_t hash) {
    return (Hash128){ .low = hash.low64, .high = hash.high64 };
}

Hash128 hash128(const void *data, size_t size, uint64_t seed) {
    return of_library(XXH3_128bits_withSeed(data, size, seed));
}

static XXH3_state_t *state_of(Hasher *hasher) {
    return (XXH3_state_t *)(void *)hasher->state;
}

void hasher_init(Hasher *hasher, uint64_t seed) {
    XXH3_INITSTATE(state_of(hasher));
    XXH3_128bits_reset_withSeed(state_of(hasher), seed);
}

void hasher_update(Hasher *hasher, const void *data, size_t size) {
    XXH3_128bits_update(state_of(hasher), data, size);
}

Hash128 hasher_digest(const Hasher *hasher) {
    return of_library(XXH3_128bits_digest((const XXH3_state_t *)(const void *)hasher->state));
}

const char *hash128_to_hex(Hash128 hash, char hex[HASH128_HEX_BYTES]) {
    snprintf(hex, HASH128_HEX_BYTES, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
    return hex;
}

int hash128_from_hex(Hash128 *out, const char *hex) {
    static const char digits[] = "0123456789abcdef";
    uint64_t halves[2] = { 0 };

    for (size_t i = 0; i < HASH128_HEX_BYTES - 1; i++) {
        const char *digit = hex[i] ? strchr(digits, hex[i]) : NULL;

        if (!digit)
            return -EINVAL;
        halves[i / 16] = halves[i / 16] << 4 | (uint64_t)(digit - digits);
    }
    if (hex[HASH128_HEX_BYTES - 1])
        return -EINVAL;
    *out = (Hash128){ .high = halves[0], .low = halves[1] };
    return 0;
}
