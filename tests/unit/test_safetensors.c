/* SPDX-License-Identifier: Apache-2.0 */
#include "model/safetensors.h"

#include "tests/unit/model_files.h"

#include <errno.h>
#include <sys/stat.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define SHARD_1 "model-00001-of-00002.safetensors"
#define SHARD_2 "model-00002-of-00002.safetensors"

/* 24 bytes of data; 8-byte aligned. */
static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[12,24]}}";

static int forget_files(void **state) {
    static const char *const names[] = { SINGLE, INDEX, SHARD_1, SHARD_2 };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        remove(model_path(names[i]));
    return 0;
}

static int open_all(Safetensors **st, Reason *why) {
    *why = (Reason)REASON_NULL;
    return safetensors_open(st, model_directory, why);
}

static void write_file(const char *name, const char *header, size_t data_bytes) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    put_safetensors(&b, header, data_bytes);
    model_file_write(name, b.data, b.size);
}

/* Refused with -EINVAL, naming the file and saying `part`. */
static void expect_refusal(const char *file, const char *part) {
    CLEANUP(safetensors_free) Safetensors *st = NULL;
    Reason why;

    assert_int_equal(open_all(&st, &why), -EINVAL);
    assert_mentions(why.text, model_path(file));
    assert_mentions(why.text, part);
}

static void expect_header_refusal(const char *header, size_t data_bytes, const char *part) {
    write_file(SINGLE, header, data_bytes);
    expect_refusal(SINGLE, part);
}

/* one file */

static void test_tensors_are_found_by_name(void **state) {
    CLEANUP(safetensors_free) Safetensors *st = NULL;
    const SafetensorsTensor *t;
    Reason why;

    (void)state;
    write_file(SINGLE, good_header, 24);
    assert_int_equal(open_all(&st, &why), 0);
    assert_int_equal(safetensors_n_tensors(st), 2);
    assert_string_equal(safetensors_tensor(st, 0)->name, "a");
    t = safetensors_find(st, "b");
    assert_non_null(t);
    assert_int_equal(t->format, WEIGHT_BF16);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->size_bytes, 12);
    assert_string_equal(t->path, model_path(SINGLE));
    assert_null(safetensors_find(st, "__metadata__"));
    assert_null(safetensors_find(st, "c"));
}

static void test_every_cut_is_refused(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    Safetensors *st = NULL;
    size_t whole;
    Reason why;

    (void)state;
    put_safetensors(&b, good_header, 24);
    whole = b.size;
    for (b.size = 0; b.size < whole; b.size++) {
        model_file_write(SINGLE, b.data, b.size);
        assert_int_equal(open_all(&st, &why), -EINVAL);
        assert_mentions(why.text, model_path(SINGLE));
    }
}

static void test_every_corrupted_byte_is_survived(void **state) {
    static const uint8_t flips[] = { 0x01, 0x02, 0x04, 0x08, 0x10, 0x80, 0xff };
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    Reason why;

    (void)state;
    put_safetensors(&b, good_header, 24);
    for (size_t i = 0; i < 8 + strlen(good_header); i++)
        for (size_t j = 0; j < sizeof(flips); j++) {
            CLEANUP(safetensors_free) Safetensors *st = NULL;

            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
            model_file_write(SINGLE, b.data, b.size);
            if (!open_all(&st, &why))
                for (size_t k = 0; k < safetensors_n_tensors(st); k++)
                    for (size_t l = 0; l < safetensors_tensor(st, k)->size_bytes; l++)
                        assert_int_equal(safetensors_tensor(st, k)->data[l], 0);
            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
        }
}

static void test_header_is_checked(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    (void)state;
    put_u64(&b, UINT64_MAX);
    put_zeros(&b, 64);
    model_file_write(SINGLE, b.data, b.size);
    expect_refusal(SINGLE, "expected at most 100000000");
    expect_header_refusal("", 16, "not valid JSON");
    expect_header_refusal("[1, 2]", 16, "expected a JSON object");
    expect_header_refusal("{\"a\":1}", 0, "tensor \"a\": expected an object");
    expect_header_refusal("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                          "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                          2, "duplicate");
}

/* A header with one tensor "a", of which the three values vary. */
static void expect_tensor_refusal(const char *dtype, const char *shape, const char *offsets,
                                  const char *part) {
    char header[512];

    snprintf(header, sizeof(header), "{\"a\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}",
             dtype, shape, offsets);
    expect_header_refusal(header, 16, part);
}

static void test_tensors_are_checked(void **state) {
    (void)state;
    expect_tensor_refusal("7", "[4]", "[0,16]", "key \"dtype\": expected a string");
    expect_tensor_refusal("\"F7\"", "[4]", "[0,16]", "its type \"F7\" is not known");
    expect_tensor_refusal("\"F32\"", "4", "[0,16]", "key \"shape\": expected an array");
    expect_tensor_refusal("\"F32\"", "[-4]", "[0,16]", "dimension 0");
    expect_tensor_refusal("\"F32\"", "[4.5]", "[0,16]", "dimension 0");
    expect_tensor_refusal("\"F32\"", "[4,\"1\"]", "[0,16]", "dimension 1");
    expect_tensor_refusal("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0,16]", "9 dimensions");
    expect_tensor_refusal("\"F32\"", "[4611686018427387904]", "[0,16]", "more values than");
    expect_tensor_refusal("\"F32\"", "[4294967296,4294967296]", "[0,16]", "more values than");
    expect_tensor_refusal("\"F32\"", "[4]", "null", "key \"data_offsets\" is missing");
    expect_tensor_refusal("\"F32\"", "[4]", "[0]", "two rising whole numbers");
    expect_tensor_refusal("\"F32\"", "[4]", "[16,0]", "two rising whole numbers");
    expect_tensor_refusal("\"F32\"", "[4]", "[-16,0]", "two rising whole numbers");
    expect_tensor_refusal("\"F32\"", "[4]", "[0,9223372036854775807]", "cut off or damaged");
    expect_tensor_refusal("\"F32\"", "[8]", "[0,32]", "ends at byte 32 of the data");
    expect_tensor_refusal("\"F32\"", "[3]", "[0,16]", "need 12 bytes, its data_offsets give 16");
    expect_tensor_refusal("\"F32\"", "[3]", "[0,12]", "last 4 bytes belong to no tensor");
    expect_tensor_refusal("\"F32\"", "[3]", "[4,16]", "4 bytes before its data");
}

static void test_names_hold_no_nul(void **state) {
    (void)state;
    expect_header_refusal("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
                          8, "the name of a tensor holds NUL");
}

static void test_tensors_may_not_overlap(void **state) {
    (void)state;
    expect_header_refusal("{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
                          "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[4,12]}}",
                          12, "overlaps that of \"a\"");
}

static void test_unaligned_data_is_refused_with_advice(void **state) {
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    (void)state;
    assert_true(strlen(header) % 4);
    put_u64(&b, strlen(header));
    buffer_append_text(&b, header);
    put_zeros(&b, 8);
    model_file_write(SINGLE, b.data, b.size);
    expect_refusal(SINGLE, "save the file again");
}

static void test_only_regular_files_are_read(void **state) {
    Safetensors *st = NULL;
    Reason why;

    (void)state;
    assert_int_equal(open_all(&st, &why), -ENOENT);
    assert_mentions(why.text, "neither " SINGLE " nor " INDEX);
    assert_int_equal(mkdir(model_path(SINGLE), 0700), 0);
    assert_int_equal(open_all(&st, &why), -EISDIR);
    assert_int_equal(rmdir(model_path(SINGLE)), 0);
    assert_int_equal(mkfifo(model_path(SINGLE), 0600), 0);
    expect_refusal(SINGLE, "expected a regular file");
    assert_int_equal(remove(model_path(SINGLE)), 0);
    model_file_write(SINGLE, "", 0);
    expect_refusal(SINGLE, "it has 0 bytes");
}

/* shards */

static const char shard_1[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
static const char shard_2[] = "{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}";

static void write_shards(const char *index) {
    write_file(SHARD_1, shard_1, 4);
    write_file(SHARD_2, shard_2, 4);
    model_file_write_text(INDEX, index);
}

static const char good_index[] = "{\"metadata\":{\"total_size\":8},"
                                 "\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"" SHARD_2 "\"}}";

static void test_shards_are_joined(void **state) {
    CLEANUP(safetensors_free) Safetensors *st = NULL;
    Reason why;

    (void)state;
    write_shards(good_index);
    assert_int_equal(open_all(&st, &why), 0);
    assert_int_equal(safetensors_n_tensors(st), 2);
    assert_string_equal(safetensors_find(st, "a")->path, model_path(SHARD_1));
    assert_string_equal(safetensors_find(st, "b")->path, model_path(SHARD_2));
}

static void test_missing_shards_are_named(void **state) {
    Safetensors *st = NULL;
    Reason why;

    (void)state;
    write_shards(good_index);
    assert_int_equal(remove(model_path(SHARD_2)), 0);
    assert_int_equal(open_all(&st, &why), -ENOENT);
    assert_mentions(why.text, "1 of 2 files");
    assert_mentions(why.text, SHARD_2);
}

static void test_index_is_checked(void **state) {
    static const struct {
        const char *index, *part;
    } cases[] = {
        { "{", "not valid JSON" },
        { "{}", "weight_map" },
        { "{\"weight_map\":{}}", "weight_map" },
        { "{\"weight_map\":{\"a\":7}}", "tensor \"a\": expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"\"}}", "expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"..\"}}", "expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"../" SHARD_1 "\"}}", "expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"" SHARD_1 "\\u0000x\"}}", "expected the name of a file" },
        { "{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"a\":\"" SHARD_2 "\"}}", "duplicate" },
        { "{\"weight_map\":{\"a\\u0000\":\"" SHARD_1 "\"}}", "the name of a tensor holds NUL" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        write_shards(cases[i].index);
        expect_refusal(INDEX, cases[i].part);
    }
}

static void test_index_and_shards_must_agree(void **state) {
    (void)state;
    write_shards("{\"weight_map\":{\"a\":\"" SHARD_2 "\",\"b\":\"" SHARD_2 "\"}}");
    expect_refusal(SHARD_2, "lacks tensor \"a\"");
    write_shards("{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"c\":\"" SHARD_2 "\"}}");
    expect_refusal(SHARD_2, "lacks tensor \"c\"");
    write_shards(good_index);
    write_file(SHARD_2, shard_1, 4);
    expect_refusal(SHARD_1, "is also in");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_tensors_are_found_by_name, forget_files),
        cmocka_unit_test_teardown(test_every_cut_is_refused, forget_files),
        cmocka_unit_test_teardown(test_every_corrupted_byte_is_survived, forget_files),
        cmocka_unit_test_teardown(test_header_is_checked, forget_files),
        cmocka_unit_test_teardown(test_tensors_are_checked, forget_files),
        cmocka_unit_test_teardown(test_names_hold_no_nul, forget_files),
        cmocka_unit_test_teardown(test_tensors_may_not_overlap, forget_files),
        cmocka_unit_test_teardown(test_unaligned_data_is_refused_with_advice, forget_files),
        cmocka_unit_test_teardown(test_only_regular_files_are_read, forget_files),
        cmocka_unit_test_teardown(test_shards_are_joined, forget_files),
        cmocka_unit_test_teardown(test_missing_shards_are_named, forget_files),
        cmocka_unit_test_teardown(test_index_is_checked, forget_files),
        cmocka_unit_test_teardown(test_index_and_shards_must_agree, forget_files),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
