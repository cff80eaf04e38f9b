/* SPDX-License-Identifier: Apache-2.0 */
#include "util/html.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_text_means_itself(void **state) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    html_escape(&out, "a<b>&\"c'\xc3\xa4");
    assert_string_equal(buffer_text(&out), "a&#60;b&#62;&#38;&#34;c&#39;\xc3\xa4");
    html_escape(&out, "");
    assert_int_equal(out.size, strlen("a&#60;b&#62;&#38;&#34;c&#39;") + 2);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_text_means_itself) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
