/* SPDX-License-Identifier: Apache-2.0 */
#include "util/output_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char directory[] = "/tmp/kvasir-output-XXXXXX";
static char path[64], other[64];

static int make_directory(void **state) {
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/file", directory);
    snprintf(other, sizeof(other), "%s/other", directory);
    return 0;
}

static int remove_directory(void **state) {
    (void)state;
    return rmdir(directory);
}

static int remove_files(void **state) {
    (void)state;
    remove(path);
    remove(other);
    return 0;
}

static int write_text(const char *where, const char *text, Reason *why) {
    CLEANUP(output_file_deinit) OutputFile file = OUTPUT_FILE_NULL;
    int r = output_file_open(&file, where, why);

    if (r)
        return r;
    fputs(text, file.stream);
    return output_file_commit(&file, why);
}

static void assert_holds(const char *where, const char *text) {
    CLEANUP(fclose) FILE *file = fopen(where, "r");
    char found[64] = "";

    assert_non_null(file);
    assert_true(fread(found, 1, sizeof(found) - 1, file) <= sizeof(found));
    assert_string_equal(found, text);
}

static int count_entries(void) {
    DIR *entries = opendir(directory);
    int n = -2; /* "." and ".." */

    while (readdir(entries))
        n++;
    closedir(entries);
    return n;
}

static void assert_refused(int error, const char *words) {
    Reason why = REASON_NULL;
    int n = count_entries();

    assert_int_equal(write_text(path, "new", &why), error);
    assert_non_null(strstr(why.text, path));
    assert_non_null(strstr(why.text, words));
    assert_int_equal(output_file_check(path, &why), error);
    assert_int_equal(count_entries(), n);
}

static void test_a_file_is_made_and_replaced_whole(void **state) {
    OutputFile file = OUTPUT_FILE_NULL;
    Reason why = REASON_NULL;
    struct stat st;

    (void)state;
    assert_int_equal(output_file_check(path, &why), 0);
    assert_int_equal(count_entries(), 0);
    assert_int_equal(write_text(path, "old", &why), 0);
    assert_holds(path, "old");
    assert_int_equal(chmod(path, 0640), 0);

    assert_int_equal(output_file_open(&file, path, &why), 0);
    fputs("half", file.stream);
    fflush(file.stream);
    assert_holds(path, "old");
    output_file_deinit(&file);
    assert_holds(path, "old");
    assert_int_equal(count_entries(), 1);

    assert_int_equal(write_text(path, "new", &why), 0);
    assert_holds(path, "new");
    assert_int_equal(count_entries(), 1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
}

static void test_two_writers_do_not_meet(void **state) {
    OutputFile a = OUTPUT_FILE_NULL, b = OUTPUT_FILE_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(output_file_open(&a, path, &why), 0);
    assert_int_equal(output_file_open(&b, path, &why), 0);
    fputs("a", a.stream);
    fputs("b", b.stream);
    assert_int_equal(output_file_commit(&b, &why), 0);
    assert_holds(path, "b");
    assert_int_equal(output_file_commit(&a, &why), 0);
    assert_holds(path, "a");
    output_file_deinit(&a);
    output_file_deinit(&b);
    assert_int_equal(count_entries(), 1);
}

static void test_what_is_no_regular_file_stays(void **state) {
    struct stat st;

    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(-EINVAL, "is not a regular file");
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(-EISDIR, "is a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink("/dev/full", path), 0);
    assert_refused(-EINVAL, "is not a regular file");
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
}

static void test_a_link_is_followed_and_stays(void **state) {
    Reason why = REASON_NULL;
    struct stat st;

    (void)state;
    assert_int_equal(symlink(other, path), 0);
    assert_refused(-ENOENT, "leads nowhere");
    assert_int_equal(write_text(other, "old", &why), 0);
    assert_int_equal(write_text(path, "new", &why), 0);
    assert_holds(other, "new");
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(count_entries(), 2);
}

static void test_where_no_file_can_be_the_system_says_why(void **state) {
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(output_file_check("/nonexistent/x", &why), -ENOENT);
    assert_non_null(strstr(why.text, "/nonexistent/x: cannot be written: No such file"));
    assert_int_equal(output_file_check("", &why), -ENOENT);
    assert_int_equal(output_file_check("/proc/self/x", &why), -ENOENT);
    assert_int_equal(output_file_check("/dev/null/x", &why), -ENOTDIR);
    if (geteuid()) { /* root may write anywhere */
        assert_int_equal(output_file_check("/x", &why), -EACCES);
        assert_int_equal(write_text(path, "old", &why), 0);
        assert_int_equal(chmod(path, 0400), 0);
        assert_refused(-EACCES, "Permission denied");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_file_is_made_and_replaced_whole, remove_files),
        cmocka_unit_test_teardown(test_two_writers_do_not_meet, remove_files),
        cmocka_unit_test_teardown(test_what_is_no_regular_file_stays, remove_files),
        cmocka_unit_test_teardown(test_a_link_is_followed_and_stays, remove_files),
        cmocka_unit_test_teardown(test_where_no_file_can_be_the_system_says_why, remove_files),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
