/* SPDX-License-Identifier: Apache-2.0 */
#include "model/gguf.h"

#include "tests/unit/model_files.h"

#include <errno.h>
#include <sys/stat.h>

#define FILE_NAME "model.gguf"
#define N_KEYS 14
#define N_TENSORS 4

/* One of every type, and tensors of a plain, a block and a foreign type. `header_end` is where the
 * padding before the data begins. */
static void build_file(Buffer *b, size_t *header_end) {
    put_gguf_head(b, N_TENSORS, N_KEYS);
    put_key_text(b, "general.architecture", "llama");
    put_key_u32(b, "general.alignment", 64);
    put_key(b, "u8", 0);
    buffer_append(b, "\xff", 1);
    put_key(b, "i8", 1);
    buffer_append(b, "\xff", 1);
    put_key(b, "u16", 2);
    buffer_append(b, "\xfe\xff", 2);
    put_key(b, "i64", 11);
    put_u64(b, (uint64_t)-5);
    put_key(b, "u64", 10);
    put_u64(b, UINT64_MAX);
    put_key_f32(b, "f32", 0.5f);
    put_key(b, "bool", 7);
    buffer_append(b, "\x01", 1);
    put_key_array(b, "texts", 8, 3);
    put_text(b, "one");
    put_text(b, "");
    put_text(b, "three");
    put_key_array(b, "integers", 5, 2);
    put_u32(b, 7);
    put_u32(b, (uint32_t)-7);
    put_key_array(b, "floats", 6, 2);
    put_f32(b, 1.5f);
    put_f32(b, -2);
    put_key_array(b, "empty", 4, 0);
    put_key_array(b, "nested", 9, 2);
    put_u32(b, 7);
    put_u64(b, 1);
    buffer_append(b, "\x00", 1);
    put_u32(b, 8);
    put_u64(b, 1);
    put_text(b, "deep");
    put_tensor(b, "norm.weight", 8, 0, 0, 128);
    put_tensor(b, "matrix.weight", 32, 2, 3, 0); /* q4_1, 40 bytes */
    put_tensor(b, "foreign.weight", 256, 1, 23, 64);
    put_tensor(b, "half.weight", 3, 2, 1, 192);
    *header_end = b->size;
    put_padding(b, 64);
    put_zeros(b, 192 + 12);
}

static int open_bytes(Gguf **gguf, const Buffer *b, Reason *why) {
    model_file_write(FILE_NAME, b->data, b->size);
    *why = (Reason)REASON_NULL;
    return gguf_open(gguf, model_path(FILE_NAME), why);
}

/* Touches all that the getters give, so that the sanitizers see it. */
static uint64_t read_all(const Gguf *gguf, size_t file_size) {
    static const char *const arrays[] = { "texts", "integers", "floats", "empty" };
    GgufArray array = { .n = 0 };
    GgufText text;
    uint64_t sum = 0;

    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const GgufTensor *t = gguf_tensor(gguf, i);

        sum += strlen(t->name) + strlen(t->type_name);
        assert_true(t->offset_bytes + t->size_bytes <= file_size);
        for (size_t j = 0; t->data && j < t->size_bytes; j++)
            sum += t->data[j];
        assert_ptr_equal(gguf_find_tensor(gguf, t->name), t);
    }
    for (size_t i = 0; i < 4; i++) {
        if (!gguf_get_texts(gguf, arrays[i], &array, NULL))
            while (gguf_array_next_text(&array, &text))
                for (size_t j = 0; j < text.size; j++)
                    sum += (unsigned char)text.data[j];
        if (!gguf_get_integers(gguf, arrays[i], &array, NULL))
            for (size_t j = 0; j < array.n; j++)
                sum += (uint64_t)gguf_array_i64(&array, j);
        if (!gguf_get_numbers(gguf, arrays[i], &array, NULL))
            for (size_t j = 0; j < array.n; j++)
                sum += gguf_array_double(&array, j) > 0;
    }
    return sum;
}

/* what is there is read */

static void check_numbers(const Gguf *gguf) {
    int64_t i64;
    uint32_t u32;
    float f32;
    bool flag;
    Reason why = REASON_NULL;

    assert_int_equal(gguf_get_u32(gguf, "u8", 0, 1000, &u32, &why), 0);
    assert_int_equal(u32, 255);
    assert_int_equal(gguf_get_i64(gguf, "i8", -10, 10, &i64, &why), 0);
    assert_int_equal(i64, -1);
    assert_int_equal(gguf_get_u32(gguf, "u16", 0, UINT32_MAX, &u32, &why), 0);
    assert_int_equal(u32, 65534);
    assert_int_equal(gguf_get_i64(gguf, "i64", INT64_MIN, INT64_MAX, &i64, &why), 0);
    assert_int_equal(i64, -5);
    assert_int_equal(gguf_get_i64(gguf, "u64", 0, INT64_MAX, &i64, &why), 0);
    assert_true(i64 == INT64_MAX);
    assert_int_equal(gguf_get_float(gguf, "f32", &f32, &why), 0);
    assert_true(f32 == 0.5f);
    assert_int_equal(gguf_get_float(gguf, "i64", &f32, &why), 0);
    assert_true(f32 == -5);
    assert_int_equal(gguf_get_bool(gguf, "bool", &flag, &why), 0);
    assert_true(flag);
}

static void check_arrays(const Gguf *gguf) {
    GgufArray array;
    GgufText text;

    assert_int_equal(gguf_get_texts(gguf, "texts", &array, NULL), 0);
    assert_int_equal(array.n, 3);
    assert_true(gguf_array_next_text(&array, &text));
    assert_memory_equal(text.data, "one", 3);
    assert_true(gguf_array_next_text(&array, &text));
    assert_int_equal(text.size, 0);
    assert_true(gguf_array_next_text(&array, &text));
    assert_int_equal(text.size, 5);
    assert_false(gguf_array_next_text(&array, &text));
    assert_int_equal(gguf_get_integers(gguf, "integers", &array, NULL), 0);
    assert_int_equal(gguf_array_i64(&array, 1), -7);
    assert_int_equal(gguf_get_numbers(gguf, "floats", &array, NULL), 0);
    assert_true(gguf_array_double(&array, 0) == 1.5);
    assert_int_equal(gguf_get_integers(gguf, "empty", &array, NULL), 0);
    assert_int_equal(array.n, 0);
}

static void test_everything_in_a_file_is_found(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    const GgufTensor *t;
    GgufText text;
    size_t header_end;
    Reason why;

    (void)state;
    build_file(&b, &header_end);
    assert_int_equal(open_bytes(&gguf, &b, &why), 0);
    check_numbers(gguf);
    check_arrays(gguf);
    assert_int_equal(gguf_get_text(gguf, "general.architecture", &text, &why), 0);
    assert_int_equal(text.size, 5);

    assert_int_equal(gguf_n_tensors(gguf), N_TENSORS);
    t = gguf_find_tensor(gguf, "matrix.weight");
    assert_non_null(t);
    assert_int_equal(t->format, WEIGHT_Q4_1);
    assert_int_equal(t->dims[0], 32);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->size_bytes, 40);
    assert_int_equal(t->offset_bytes % 64, 0);
    t = gguf_find_tensor(gguf, "foreign.weight");
    assert_non_null(t);
    assert_int_equal(t->format, WEIGHT_FORMATS);
    assert_string_equal(t->type_name, "iq4_xs");
    assert_null(t->data);
    assert_null(gguf_find_tensor(gguf, "other"));
}

static void test_getters_say_what_was_expected(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    GgufArray array;
    uint32_t u32 = 77;
    size_t header_end;
    float f32;
    Reason why;

    (void)state;
    build_file(&b, &header_end);
    assert_int_equal(open_bytes(&gguf, &b, &why), 0);
    assert_int_equal(gguf_get_u32(gguf, "absent", 0, 1, &u32, &why), GGUF_E_ABSENT);
    assert_int_equal(u32, 77);
    assert_int_equal(gguf_required(gguf, GGUF_E_ABSENT, "absent", &why), -EINVAL);
    assert_mentions(why.text, "key \"absent\" is missing");
    assert_int_equal(gguf_get_u32(gguf, "u8", 0, 254, &u32, &why), -EINVAL);
    assert_mentions(why.text, "from 0 to 254, found 255");
    assert_mentions(why.text, model_path(FILE_NAME));
    assert_int_equal(gguf_get_u32(gguf, "f32", 0, 254, &u32, &why), -EINVAL);
    assert_mentions(why.text, "expected an integer, found a 32-bit float");
    assert_int_equal(gguf_get_float(gguf, "floats", &f32, &why), -EINVAL);
    assert_mentions(why.text, "an array");
    assert_int_equal(gguf_get_texts(gguf, "integers", &array, &why), -EINVAL);
    assert_int_equal(gguf_get_numbers(gguf, "texts", &array, &why), -EINVAL);
    assert_int_equal(gguf_get_integers(gguf, "nested", &array, &why), -EINVAL);
}

/* what is broken is refused */

static void test_every_cut_is_refused(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    size_t header_end, whole;
    Gguf *gguf = NULL;
    Reason why;

    (void)state;
    build_file(&b, &header_end);
    whole = b.size;
    for (b.size = 0; b.size < whole; b.size++) {
        assert_int_equal(open_bytes(&gguf, &b, &why), -EINVAL);
        assert_mentions(why.text, model_path(FILE_NAME));
    }
}

/* Any byte of the header, any of a few values: opened or refused, and what is opened is sound. */
static void test_every_corrupted_byte_is_survived(void **state) {
    static const uint8_t flips[] = { 0x01, 0x80, 0xff, 0x7f, 0x20 };
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    size_t header_end, n_refused = 0;
    Reason why;

    (void)state;
    build_file(&b, &header_end);
    for (size_t i = 0; i < header_end; i++)
        for (size_t j = 0; j < sizeof(flips); j++) {
            CLEANUP(gguf_free) Gguf *gguf = NULL;

            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
            if (open_bytes(&gguf, &b, &why))
                n_refused++;
            else
                read_all(gguf, b.size);
            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
        }
    assert_true(n_refused > header_end);
}

static void expect_refusal(const Buffer *b, const char *part) {
    Gguf *gguf = NULL;
    Reason why;

    assert_int_equal(open_bytes(&gguf, b, &why), -EINVAL);
    assert_mentions(why.text, model_path(FILE_NAME));
    assert_mentions(why.text, part);
}

static void test_head_is_checked(void **state) {
    static const struct {
        const char *bytes;
        size_t size;
        const char *part;
    } cases[] = {
        { "GGML\3\0\0\0", 8, "does not begin with \"GGUF\"" },
        { "GGUF\2\0\0\0", 8, "version 2; only version 3" },
        { "GGUF\0\0\0\3", 8, "big-endian" },
        { "GGUF\3\0\0\0", 8, "cut off" },
        { "GGUF\3\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0", 24, "tensors" },
        { "GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "more than the rest of the file" },
        { "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0", 24, "more than the rest of the file" },
        { "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x80", 24, "keys; expected at most" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

        buffer_append(&b, cases[i].bytes, cases[i].size);
        expect_refusal(&b, cases[i].part);
    }
}

/* One key, written by a callback, and enough bytes behind it that only the key can be at fault. */
static void expect_key_refusal(void (*put)(Buffer *), uint64_t n_keys, const char *part) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    put_gguf_head(&b, 0, n_keys);
    put(&b);
    put_zeros(&b, 256);
    expect_refusal(&b, part);
}

static void put_unknown_type(Buffer *b) {
    put_key(b, "k", 13);
}

static void put_huge_key(Buffer *b) {
    put_u64(b, UINT64_MAX);
}

static void put_empty_key(Buffer *b) {
    put_key_u32(b, "", 1);
}

static void put_control_key(Buffer *b) {
    put_key_u32(b, "a\nb", 1);
}

static void put_huge_text(Buffer *b) {
    put_key(b, "k", 8);
    put_u64(b, (uint64_t)INT64_MAX);
}

static void put_huge_array(Buffer *b) {
    put_key_array(b, "k", 4, UINT64_MAX / 4 + 2);
}

static void put_huge_texts(Buffer *b) {
    put_key_array(b, "k", 8, UINT64_MAX);
}

static void put_unknown_items(Buffer *b) {
    put_key_array(b, "k", 99, 1);
}

static void put_deep_arrays(Buffer *b) {
    put_key(b, "k", 9);
    for (int i = 0; i < 100; i++) {
        put_u32(b, 9);
        put_u64(b, 1);
    }
}

static void put_wrong_bool(Buffer *b) {
    put_key(b, "k", 7);
    buffer_append(b, "\x02", 1);
}

static void put_twice(Buffer *b) {
    put_key_u32(b, "k", 1);
    put_key_f32(b, "k", 1);
}

static void put_odd_alignment(Buffer *b) {
    put_key_u32(b, "general.alignment", 48);
}

static void put_zero_alignment(Buffer *b) {
    put_key_u32(b, "general.alignment", 0);
}

static void test_metadata_is_checked(void **state) {
    (void)state;
    expect_key_refusal(put_unknown_type, 1, "type 13; expected 0 to 12");
    expect_key_refusal(put_huge_key, 1, "key 1 of 1");
    expect_key_refusal(put_empty_key, 1, "0 bytes; expected 1 to 65535");
    expect_key_refusal(put_control_key, 1, "control character");
    expect_key_refusal(put_huge_text, 1, "key \"k\"");
    expect_key_refusal(put_huge_array, 1, "cut off");
    expect_key_refusal(put_huge_texts, 1, "cut off");
    expect_key_refusal(put_unknown_items, 1, "type 99");
    expect_key_refusal(put_deep_arrays, 1, "deeper than 8");
    expect_key_refusal(put_wrong_bool, 1, "a bool is 2");
    expect_key_refusal(put_twice, 2, "key \"k\" is there twice");
    expect_key_refusal(put_odd_alignment, 1, "power of two, found 48");
    expect_key_refusal(put_zero_alignment, 1, "general.alignment");
}

/* Two tensors of which the second varies; the first is f32 [8] at 0. */
static void expect_tensor_refusal(const char *name, uint32_t n_dims, uint64_t columns,
                                  uint64_t rows, uint32_t type, uint64_t offset, const char *part) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    put_gguf_head(&b, 2, 0);
    put_tensor(&b, "first", 8, 0, 0, 0);
    put_text(&b, name);
    put_u32(&b, n_dims);
    put_u64(&b, columns);
    put_u64(&b, rows);
    put_u32(&b, type);
    put_u64(&b, offset);
    put_padding(&b, 32);
    put_zeros(&b, 256);
    expect_refusal(&b, part);
}

static void test_tensors_are_checked(void **state) {
    (void)state;
    expect_tensor_refusal("t", 0, 1, 1, 0, 32, "0 dimensions; expected 1 to 4");
    expect_tensor_refusal("t", 5, 1, 1, 0, 32, "5 dimensions");
    expect_tensor_refusal("t", 2, 0, 1, 0, 32, "dimension 0 is 0");
    expect_tensor_refusal("t", 2, 8, UINT64_MAX, 0, 32, "dimension 1 is 18446744073709551615");
    expect_tensor_refusal("t", 2, UINT64_C(1) << 32, UINT64_C(1) << 32, 0, 32, "too many");
    expect_tensor_refusal("t", 2, 31, 1, 2, 32, "31 values; q4_0 needs a multiple of 32");
    expect_tensor_refusal("t", 2, 8, 1, 0, 33, "not a multiple of the alignment");
    expect_tensor_refusal("t", 2, 8, 1, 0, 0, "\"first\" and \"t\" overlap");
    expect_tensor_refusal("first", 2, 8, 1, 0, 32, "tensor \"first\" is there twice");
    expect_tensor_refusal("t", 2, 8, 8, 0, 32, "needs 256 bytes");
    expect_tensor_refusal("t", 2, 8, 1, 0, UINT64_MAX - 31, "tensor \"t\" needs 32 bytes");
    expect_tensor_refusal("t", 2, 8, 1, 999, UINT64_C(1) << 40, "tensor \"t\"");
}

static void test_only_regular_files_are_read(void **state) {
    Gguf *gguf = NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(gguf_open(&gguf, model_path("absent"), &why), -ENOENT);
    assert_mentions(why.text, "absent: No such file");
    assert_int_equal(gguf_open(&gguf, model_directory, &why), -EISDIR);
    assert_mentions(why.text, "found a directory");
    assert_int_equal(mkfifo(model_path("fifo"), 0600), 0);
    assert_int_equal(gguf_open(&gguf, model_path("fifo"), &why), -EINVAL);
    assert_mentions(why.text, "expected a regular file");
    model_file_write("empty", "", 0);
    assert_int_equal(gguf_open(&gguf, model_path("empty"), &why), -EINVAL);
    assert_mentions(why.text, "not a GGUF file");
    model_file_write("secret", "GGUF", 4);
    assert_int_equal(chmod(model_path("secret"), 0), 0);
    if (access(model_path("secret"), R_OK)) /* root may read it all the same */
        assert_int_equal(gguf_open(&gguf, model_path("secret"), &why), -EACCES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_in_a_file_is_found),
        cmocka_unit_test(test_getters_say_what_was_expected),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_every_corrupted_byte_is_survived),
        cmocka_unit_test(test_head_is_checked),
        cmocka_unit_test(test_metadata_is_checked),
        cmocka_unit_test(test_tensors_are_checked),
        cmocka_unit_test(test_only_regular_files_are_read),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
