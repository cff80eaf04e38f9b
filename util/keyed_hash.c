/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4-128 as its authors' paper and reference code define it; words are little-endian. */
#include "util/keyed_hash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

int hash_key_init(HashKey *key) {
    ssize_t n;

    do
        n = getrandom(key, sizeof(*key), 0);
    while (n < 0 && errno == EINTR);
    /* So few bytes come all at once or not at all. */
    return n == sizeof(*key) ? 0 : n < 0 ? -errno : -EIO;
}

static uint64_t rotate(uint64_t x, unsigned n) {
    return x << n | x >> (64 - n);
}

static void rounds(uint64_t v[4], int n) {
    while (n--) {
        v[0] += v[1];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[0] = rotate(v[0], 32);
        v[2] += v[3];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static void absorb(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    rounds(v, 2);
    v[0] ^= word;
}

static uint64_t squeeze(uint64_t v[4]) {
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

Hash128 keyed_hash128(const HashKey *key, const void *data, size_t size) {
    uint64_t v[4] = { key->words[0] ^ UINT64_C(0x736f6d6570736575),
                      key->words[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
                      key->words[0] ^ UINT64_C(0x6c7967656e657261),
                      key->words[1] ^ UINT64_C(0x7465646279746573) };
    const uint8_t *bytes = data;
    uint64_t word, last = (uint64_t)size << 56;
    size_t rest = size % sizeof(word);
    Hash128 hash;

    for (; size >= sizeof(word); size -= sizeof(word), bytes += sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        absorb(v, word);
    }
    for (size_t i = 0; i < rest; i++)
        last |= (uint64_t)bytes[i] << 8 * i;
    absorb(v, last);
    v[2] ^= 0xee;
    hash.low = squeeze(v);
    v[1] ^= 0xdd;
    hash.high = squeeze(v);
    return hash;
}
