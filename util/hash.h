/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * 128-bit content hashes: XXH3 (https://xxhash.com), whose values are the same on every machine and
 * in every version since 0.8.0, so they may be stored. It tells contents apart, and finds damage;
 * it is no cryptographic hash: who can compute it can make two contents collide.
 *
 * Numbers are hashed as they lie in memory; this tree runs on little-endian machines only.
 */

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH128_HEX_BYTES 33 /* 32 digits and a NUL */
#define HASHER_STATE_BYTES 576

typedef struct Hash128 {
    uint64_t low, high;
} Hash128;

/* A hash of bytes that come piece by piece; how they are cut does not matter. */
typedef struct Hasher {
    alignas(64) uint8_t state[HASHER_STATE_BYTES];
} Hasher;

/* Different seeds give unrelated hashes of the same bytes. */
Hash128 hash128(const void *data, size_t size, uint64_t seed);

void hasher_init(Hasher *hasher, uint64_t seed);
void hasher_update(Hasher *hasher, const void *data, size_t size);
/* Of everything so far; more may follow. */
Hash128 hasher_digest(const Hasher *hasher);

/* 32 lower-case hexadecimal digits, the high half first, as xxhsum prints it; returns `hex`. */
const char *hash128_to_hex(Hash128 hash, char hex[HASH128_HEX_BYTES]);
/* Exactly what hash128_to_hex writes, else -EINVAL. */
int hash128_from_hex(Hash128 *out, const char *hex);

static inline bool hash128_equal(Hash128 a, Hash128 b) {
    return a.low == b.low && a.high == b.high;
}
