/* SPDX-License-Identifier: Apache-2.0 */
#include "util/hash.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void assert_hex(Hash128 hash, const char *expected) {
    char hex[HASH128_HEX_BYTES];

    assert_string_equal(hash128_to_hex(hash, hex), expected);
}

/* What `xxhsum -H128` prints: stored hashes must be found again by every later build. */
static void test_values_are_those_of_the_specification(void **state) {
    (void)state;
    assert_hex(hash128("", 0, 0), "99aa06d3014798d86001c324468d497f");
    assert_hex(hash128("kvasir", 6, 0), "c8c83ae79d20cabf9c10dfab8b3a484f");
    assert_hex(hash128("kvasir", 6, 1), "a77d0aa681307fcdccd22f5b9a5718e2");
}

static void test_pieces_give_the_hash_of_the_whole(void **state) {
    uint8_t data[3000];
    Hasher hasher;

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i + i / 7);
    for (size_t size = 0; size <= sizeof(data); size += 1 + size / 5)
        for (size_t piece = 1; piece <= 1024; piece *= 4) {
            hasher_init(&hasher, size);
            for (size_t at = 0; at < size; at += piece)
                hasher_update(&hasher, data + at, size - at < piece ? size - at : piece);
            assert_true(hash128_equal(hasher_digest(&hasher), hash128(data, size, size)));
        }
}

static void test_digest_leaves_the_hasher_as_it_was(void **state) {
    Hasher hasher;

    (void)state;
    hasher_init(&hasher, 3);
    hasher_update(&hasher, "one", 3);
    assert_true(hash128_equal(hasher_digest(&hasher), hash128("one", 3, 3)));
    hasher_update(&hasher, "two", 3);
    assert_true(hash128_equal(hasher_digest(&hasher), hash128("onetwo", 6, 3)));
}

static void test_seed_and_every_bit_matter(void **state) {
    uint8_t data[300] = { 0 };
    Hash128 plain = hash128(data, sizeof(data), 0);

    (void)state;
    assert_false(hash128_equal(plain, hash128(data, sizeof(data), 1)));
    for (size_t bit = 0; bit < 8 * sizeof(data); bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(hash128_equal(plain, hash128(data, sizeof(data), 0)));
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_equal_needs_both_halves(void **state) {
    Hash128 a = { .low = 1, .high = 2 };

    (void)state;
    assert_true(hash128_equal(a, a));
    assert_false(hash128_equal(a, (Hash128){ .low = 1, .high = 3 }));
    assert_false(hash128_equal(a, (Hash128){ .low = 0, .high = 2 }));
}

static void test_hex_is_read_back_and_nothing_else_is(void **state) {
    static const char *const bad[] = {
        "",
        "0",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789abcdef0123456789abcdeg",
        "0123456789ABCDEF0123456789abcdef",
        " 123456789abcdef0123456789abcdef",
        "0x23456789abcdef0123456789abcdef",
    };
    const char *good = "0123456789abcdeffedcba9876543210";
    Hash128 hash;

    (void)state;
    assert_int_equal(hash128_from_hex(&hash, good), 0);
    assert_true(hash.high == UINT64_C(0x0123456789abcdef));
    assert_true(hash.low == UINT64_C(0xfedcba9876543210));
    assert_hex(hash, good);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(hash128_from_hex(&hash, bad[i]), -EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_those_of_the_specification),
        cmocka_unit_test(test_pieces_give_the_hash_of_the_whole),
        cmocka_unit_test(test_digest_leaves_the_hasher_as_it_was),
        cmocka_unit_test(test_seed_and_every_bit_matter),
        cmocka_unit_test(test_equal_needs_both_halves),
        cmocka_unit_test(test_hex_is_read_back_and_nothing_else_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
