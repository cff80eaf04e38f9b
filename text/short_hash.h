/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Hashes for the tokenizer's tables: fast on short keys, not for keys an attacker chooses a table
 * by (the tables are filled from the model's own files, or overwrite instead of chaining). */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t hash_mix(uint64_t x) {
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 32;
}

static inline uint32_t short_hash(const char *data, size_t size) {
    uint64_t hash = size, word;

    while (size >= sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        hash = hash_mix(hash ^ word);
        data += sizeof(word);
        size -= sizeof(word);
    }
    if (size) {
        word = 0;
        memcpy(&word, data, size);
        hash = hash_mix(hash ^ word);
    }
    return (uint32_t)hash_mix(hash);
}
