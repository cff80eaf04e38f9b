/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * 128-bit hashes that nobody without the key can compute or make collide: SipHash-2-4 with 128 bits
 * of output (Aumasson and Bernstein, 2012). For what strangers may choose and what is found by its
 * hash alone; util/hash.h is faster, has no key, and its values may be stored.
 */

#include "util/hash.h"

#include <stddef.h>
#include <stdint.h>

typedef struct HashKey {
    uint64_t words[2];
} HashKey;

/* Makes a random key. -errno: the system gives no random bytes. */
int hash_key_init(HashKey *key);

Hash128 keyed_hash128(const HashKey *key, const void *data, size_t size);
