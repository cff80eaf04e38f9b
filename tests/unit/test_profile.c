/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/profile.h"

#include "tests/unit/profile_files.h"

#include <dirent.h>
#include <sys/stat.h>

static void assert_directory_holds(int n_expected) {
    DIR *entries = opendir(directory);
    int n = 0;

    for (struct dirent *entry; (entry = readdir(entries));)
        n += entry->d_name[0] != '.';
    closedir(entries);
    assert_int_equal(n, n_expected);
}

/* tests */

static void test_what_was_saved_is_loaded(void **state) {
    CLEANUP(profile_free) Profile *saved = new_profile(), *loaded = NULL;
    size_t moments_bytes = profile_moments_count(saved) * sizeof(float);
    Reason why = REASON_NULL;

    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        save(saved);
        loaded = profile_free(loaded);
        assert_int_equal(profile_load(&loaded, path, IDENTITY, &geometry, &why), 0);
        assert_directory_holds(1);
    }
    assert_memory_equal(&loaded->geometry, &geometry, sizeof(geometry));
    assert_string_equal(loaded->identity, IDENTITY);
    assert_true(loaded->n_tokens == saved->n_tokens);
    assert_true(loaded->n_tokens_wanted == saved->n_tokens_wanted);
    assert_false(profile_is_whole(loaded));
    assert_string_equal(loaded->text_name, saved->text_name);
    assert_memory_equal(loaded->k_norms, saved->k_norms, sizeof(saved->k_norms));
    assert_memory_equal(loaded->v_norms, saved->v_norms, sizeof(saved->v_norms));
    assert_memory_equal(loaded->q_moments, saved->q_moments, moments_bytes);
    assert_memory_equal(loaded->k_covariances, saved->k_covariances, moments_bytes);
    assert_true(hash128_equal(profile_hash(loaded), profile_hash(saved)));

    loaded = profile_free(loaded);
    assert_int_equal(profile_load(&loaded, path, NULL, NULL, &why), 0);
    assert_string_equal(loaded->identity, IDENTITY);
}

static void test_hash_is_of_what_pages_depend_on(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    Hash128 before = profile_hash(profile);

    (void)state;
    strcpy(profile->text_name, "another");
    assert_true(hash128_equal(profile_hash(profile), before));
    profile->q_moments[profile_moments_count(profile) - 1] += 1;
    assert_false(hash128_equal(profile_hash(profile), before));
    profile->q_moments[profile_moments_count(profile) - 1] -= 1;
    profile->q_moments[0] += 1;
    assert_false(hash128_equal(profile_hash(profile), before));
    profile->q_moments[0] -= 1;
    profile->k_covariances[profile_moments_count(profile) - 1] += 1;
    assert_false(hash128_equal(profile_hash(profile), before));
}

static void test_geometry_is_bounded(void **state) {
    static const KvGeometry bad[] = {
        { 0, 1, 8 }, { KV_LAYERS_MAX + 1, 1, 8 },   { 1, 0, 8 },
        { 1, 1, 0 }, { 1, 1, KV_HEAD_DIM_MAX + 1 },
    };
    Profile *profile = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(profile_new(&profile, &bad[i]), -EINVAL);
    assert_null(profile);
}

static void test_missing_directory_is_made_but_not_its_parents(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    Reason why = REASON_NULL;
    char deep[96], parent[96];

    (void)state;
    snprintf(parent, sizeof(parent), "%s/new", directory);
    snprintf(deep, sizeof(deep), "%s/new/x/profile", directory);
    assert_int_equal(profile_save(profile, deep, &why), -ENOENT);
    assert_non_null(strstr(why.text, deep));
    snprintf(deep, sizeof(deep), "%s/new/profile", directory);
    assert_int_equal(profile_save(profile, deep, &why), 0);
    assert_int_equal(unlink(deep), 0);
    assert_int_equal(rmdir(parent), 0); /* nothing else was left in it */
}

static void test_what_no_file_may_hold_is_not_saved(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    Reason why = REASON_NULL;

    (void)state;
    unlink(path);
    profile->q_moments[5] = NAN;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    assert_non_null(strstr(why.text, "layer 0, KV head 0 hold nan at row 1, column 1"));
    profile->q_moments[5] = 1;
    profile->k_covariances[10] = -1;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    assert_non_null(strstr(why.text, "k_covariances of layer 0, KV head 0 hold -1 at row 2"));
    profile->k_covariances[10] = 1;
    profile->k_norms[1] = -1;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    profile->k_norms[1] = INFINITY;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    profile->k_norms[1] = 1;
    profile->text_name[0] = '\xff';
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    profile->text_name[0] = 'x';
    profile->identity[0] = 'X';
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    profile->identity[0] = 0;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    assert_directory_holds(0);
}

static void test_failed_save_leaves_the_old_file(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(profile_save(profile, path, &why) < 0); /* a directory is not replaced */
    assert_directory_holds(1);
    assert_int_equal(rmdir(path), 0);
}

static void test_profile_of_another_model_is_refused(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    CLEANUP(profile_free) Profile *loaded = NULL;
    KvGeometry other = geometry;
    Reason why = REASON_NULL;

    (void)state;
    save(profile);
    assert_int_equal(profile_load(&loaded, path, OTHER_IDENTITY, &geometry, &why), -EINVAL);
    assert_non_null(strstr(why.text, IDENTITY));
    assert_non_null(strstr(why.text, OTHER_IDENTITY));
    other.n_kv_heads++;
    assert_int_equal(profile_load(&loaded, path, IDENTITY, &other, &why), -EINVAL);
    assert_non_null(strstr(why.text, "3 KV heads of 4 channels; the model has 2, 4 of 4"));
    assert_null(loaded);
}

static void test_what_is_no_regular_file_is_refused(void **state) {
    Reason why = REASON_NULL;

    (void)state;
    unlink(path);
    assert_int_equal(load(&why), -ENOENT);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(load(&why), -EISDIR);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(load(&why), -EINVAL);
    assert_int_equal(unlink(path), 0);
    write_file("", 0);
    assert_refused("not a profile");
    write_file("{\"model\": 1}", 12);
    assert_refused("not a profile");
}

static void test_cut_at_any_length_is_refused(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    CLEANUP(buffer_deinit) Buffer content = BUFFER_NULL;

    (void)state;
    save(profile);
    read_file(&content);
    for (size_t size = 0; size < content.size; size++) {
        write_file(content.data, size);
        assert_refused(size < 8 ? "not a profile" : "cut");
    }
    /* Cut with a checksum that fits what is left. */
    for (size_t size = content.size - 1; size >= HEAD_AT + CHECKSUM_BYTES; size--) {
        content.size = size;
        write_checksummed(&content);
        assert_refused("");
    }
    buffer_append(&content, "x", 1);
    write_file(content.data, content.size);
    assert_refused("");
}

static void test_any_flipped_bit_is_refused(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    CLEANUP(buffer_deinit) Buffer content = BUFFER_NULL;
    Random random = random_start("bits");

    (void)state;
    save(profile);
    read_file(&content);
    for (size_t i = 0; i < content.size; i++) {
        char bit = (char)(1 << random_below(&random, 8));
        bool is_version_2 = i == 8 && bit == 1; /* which is read as well */

        content.data[i] ^= bit;
        write_file(content.data, content.size);
        assert_refused(i < 8 ? "not a profile" : i < 12 && !is_version_2 ? "version" : "checksum");
        content.data[i] ^= bit;
    }
    write_file(content.data, content.size);
    assert_int_equal(load(NULL), 0);
}

/* Edits behind a right checksum: taken or refused, but never more than that. */
static void test_edits_with_a_right_checksum_do_no_harm(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    CLEANUP(buffer_deinit) Buffer content = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer edited = BUFFER_NULL;
    Random random = random_start("edits");

    (void)state;
    save(profile);
    read_file(&content);
    for (int i = 0; i < 3000; i++) {
        uint32_t n = 1 + random_below(&random, 3);
        Reason why = REASON_NULL;
        int r;

        buffer_clear(&edited);
        buffer_append(&edited, content.data, content.size);
        for (; n; n--) /* mostly in the front, where the counts are */
            edited.data[random_below(&random,
                                     random_below(&random, 4) ? 256 : (uint32_t)content.size)] =
                (char)random_u64(&random);
        write_checksummed(&edited);
        r = load(&why);
        assert_true(r == 0 || r == -EINVAL);
        assert_true(!r == !why.text[0]);
    }
}

typedef struct Edit {
    const char *from, *to, *fault;
} Edit;

static void test_heads_that_say_something_else_are_refused(void **state) {
    static const char good[] = "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, "
                               "\"head_dim\": 4, \"n_tokens\": 7, \"n_tokens_wanted\": 7, "
                               "\"text\": \"t\", "
                               "\"k_norms\": [1, 2.5], \"v_norms\": [0, 1e-3]}";
    static const Edit edits[] = {
        { "\"model\"", "\"medol\"", "key \"model\" is missing" },
        { IDENTITY, "0123", "32 hexadecimal digits" },
        { IDENTITY, "0123456789abcdef0123456789abcdeX", "32 hexadecimal digits" },
        { IDENTITY, IDENTITY "0", "at most 32 bytes" },
        { IDENTITY, OTHER_IDENTITY, "another model" },
        { "\"n_layers\": 2", "\"n_layers\": 3", "k_norms" },
        { "\"n_layers\": 2", "\"n_layers\": 0", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": 513", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": -2", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": 4294967298", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": 36893488147419103234", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": \"2\"", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": null", "n_layers" },
        { "\"n_layers\": 2", "\"n_layers\": 2, \"n_layers\": 2", "duplicate" },
        { "\"n_kv_heads\": 3", "\"n_kv_heads\": 4294967295", "4294967295 KV heads" },
        { "\"head_dim\": 4", "\"head_dim\": 512", "512 channels" },
        { "\"head_dim\": 4", "\"head_dim\": 513", "head_dim" },
        { "\"head_dim\": 4", "\"head_dim\": 3", "3 channels" },
        { "\"n_tokens\": 7", "\"n_tokens\": -7", "n_tokens" },
        { "\"n_tokens\": 7", "\"n_tokens\": 7.5", "n_tokens" },
        { "\"n_tokens\": 7", "\"n_tokens\": 8", "more than the 7 of n_tokens_wanted" },
        { "\"n_tokens_wanted\": 7", "\"n_tokens_wanted\": -1", "n_tokens_wanted" },
        { "\"n_tokens_wanted\"", "\"n_tokens_hoped\"", "key \"n_tokens_wanted\" is missing" },
        { "\"t\"", "7", "text" },
        { "\"t\"", "\"a\\u0000b\"", "without NUL" },
        { "[1, 2.5]", "[1]", "expected 2 numbers, one a layer, found 1" },
        { "[1, 2.5]", "[1, 2.5, 3]", "found 3" },
        { "[1, 2.5]", "[1, \"2.5\"]", "entry 1 is no number" },
        { "[1, 2.5]", "[1, -2.5]", "no norm" },
        { "[1, 2.5]", "[1, 1e999]", "not valid JSON" },
        { "[1, 2.5]", "[1, NaN]", "not valid JSON" },
        { "[1, 2.5]", "{}", "k_norms" },
        { "}", "", "not valid JSON" },
        { "}", "} x", "not valid JSON" },
        { "{", "[", "not valid JSON" },
    };
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    write_composed(good, strlen(good), body, BODY_FLOATS);
    assert_int_equal(load(NULL), 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(*edits); i++) {
        const char *at = strstr(good, edits[i].from);
        char head[1024];

        assert_non_null(at);
        snprintf(head, sizeof(head), "%.*s%s%s", (int)(at - good), good, edits[i].to,
                 at + strlen(edits[i].from));
        write_composed(head, strlen(head), body, BODY_FLOATS);
        assert_refused(edits[i].fault);
    }
    write_composed("[]", 2, body, BODY_FLOATS);
    assert_refused("expected an object");
    write_composed("", 0, body, BODY_FLOATS);
    assert_refused("not valid JSON");
}

static void test_bodies_that_are_no_moments_are_refused(void **state) {
    static const char head[] = "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, "
                               "\"head_dim\": 4, \"n_tokens\": 7, \"n_tokens_wanted\": 7, "
                               "\"text\": \"\", "
                               "\"k_norms\": [1, 2], \"v_norms\": [1, 2]}";
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    float body[BODY_FLOATS + 8] = { 0 };

    (void)state;
    for (size_t i = 0; i < BODY_FLOATS; i += 5)
        for (size_t j = 0; j < sizeof(bad) / sizeof(*bad); j++) {
            body[i] = bad[j];
            write_composed(head, strlen(head), body, BODY_FLOATS);
            assert_refused(i < BODY_FLOATS / 2 ? "q_moments" : "k_covariances");
            body[i] = 0;
        }
    body[1] = -1; /* off the diagonal it may be negative */
    write_composed(head, strlen(head), body, BODY_FLOATS);
    assert_int_equal(load(NULL), 0);
    body[16 + 5] = -1;
    write_composed(head, strlen(head), body, BODY_FLOATS);
    assert_refused("layer 0, KV head 1 hold -1 at row 1, column 1");
    body[16 + 5] = 0;
    for (size_t n = 0; n <= BODY_FLOATS + 8; n++)
        if (n != BODY_FLOATS) {
            write_composed(head, strlen(head), body, n);
            assert_refused("bytes long");
        }
}

static void test_fields_before_the_head_are_checked_too(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();
    CLEANUP(buffer_deinit) Buffer content = BUFFER_NULL;
    uint32_t head_bytes, size;

    (void)state;
    save(profile);
    read_file(&content);
    memcpy(&head_bytes, content.data + 12, sizeof(head_bytes));
    for (size_t i = 0; i < 3; i++) {
        size = (uint32_t[]){ UINT32_MAX, (uint32_t)content.size - 31, head_bytes + 1 }[i];
        memcpy(content.data + 12, &size, sizeof(size));
        write_checksummed(&content);
        assert_refused(i < 2 ? "its head would take" : "its head");
    }
    memcpy(content.data + 12, &head_bytes, sizeof(head_bytes));
    content.data[8] = PROFILE_VERSION + 1;
    write_checksummed(&content);
    assert_refused("version 5; this kvasird reads versions 2 to 4");
    content.data[8] = PROFILE_VERSION;
    assert_true((HEAD_AT + head_bytes) % 64 != 0);
    content.data[HEAD_AT + head_bytes] = 1;
    write_checksummed(&content);
    assert_refused("is not zero");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_saved_is_loaded),
        cmocka_unit_test(test_hash_is_of_what_pages_depend_on),
        cmocka_unit_test(test_geometry_is_bounded),
        cmocka_unit_test(test_missing_directory_is_made_but_not_its_parents),
        cmocka_unit_test(test_what_no_file_may_hold_is_not_saved),
        cmocka_unit_test(test_failed_save_leaves_the_old_file),
        cmocka_unit_test(test_profile_of_another_model_is_refused),
        cmocka_unit_test(test_what_is_no_regular_file_is_refused),
        cmocka_unit_test(test_cut_at_any_length_is_refused),
        cmocka_unit_test(test_any_flipped_bit_is_refused),
        cmocka_unit_test(test_edits_with_a_right_checksum_do_no_harm),
        cmocka_unit_test(test_heads_that_say_something_else_are_refused),
        cmocka_unit_test(test_bodies_that_are_no_moments_are_refused),
        cmocka_unit_test(test_fields_before_the_head_are_checked_too),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
