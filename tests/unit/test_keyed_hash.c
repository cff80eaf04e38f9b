/* SPDX-License-Identifier: Apache-2.0 */
#include "util/keyed_hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Those of the authors' reference code: key 00 01 .. 0f, text 00 01 .. (n - 1); bytes in order. */
static void test_values_are_those_of_the_reference(void **state) {
    static const struct {
        size_t n;
        uint64_t low, high;
    } cases[] = {
        { 0, UINT64_C(0xe6a825ba047f81a3), UINT64_C(0x930255c71472f66d) },
        { 1, UINT64_C(0x44af996bd8c187da), UINT64_C(0x45fc229b11597634) },
        { 8, UINT64_C(0x61f55862baa9623b), UINT64_C(0xb49714f364e2830f) },
        { 15, UINT64_C(0x11a8b03399e99354), UINT64_C(0xd9c3cf970fec087e) },
    };
    HashKey key = { { UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908) } };
    uint8_t text[64];

    (void)state;
    for (uint8_t i = 0; i < sizeof(text); i++)
        text[i] = i;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Hash128 hash = keyed_hash128(&key, text, cases[i].n);

        assert_true(hash.low == cases[i].low);
        assert_true(hash.high == cases[i].high);
    }
}

static void test_key_and_every_bit_matter(void **state) {
    HashKey a, b;
    uint8_t text[100] = { 0 };
    Hash128 plain;

    (void)state;
    assert_int_equal(hash_key_init(&a), 0);
    assert_int_equal(hash_key_init(&b), 0);
    plain = keyed_hash128(&a, text, sizeof(text));
    assert_false(hash128_equal(plain, keyed_hash128(&b, text, sizeof(text))));
    assert_false(hash128_equal(plain, keyed_hash128(&a, text, sizeof(text) - 1)));
    for (size_t bit = 0; bit < 8 * sizeof(text); bit++) {
        text[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(hash128_equal(plain, keyed_hash128(&a, text, sizeof(text))));
        text[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_those_of_the_reference),
        cmocka_unit_test(test_key_and_every_bit_matter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
