/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_menu.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_menus(void **state) {
    Reason why = REASON_NULL;
    bool formats[KV_FORMATS];
    KvMenu menu;

    (void)state;
    assert_int_equal(kv_menu_parse(&menu, "8,2,16,4", false, &why), 0);
    assert_int_equal(menu.n, 4);
    assert_true(menu.widths[0] == 2 && menu.widths[1] == 4 && menu.widths[2] == 8 &&
                menu.widths[3] == 16);
    kv_menu_formats(&menu, formats);
    assert_true(formats[KV_FORMAT_F16] && formats[KV_FORMAT_8] && formats[KV_FORMAT_4] &&
                formats[KV_FORMAT_2]);
    assert_false(formats[KV_FORMAT_BF16] || formats[KV_FORMAT_6] || formats[KV_FORMAT_3]);
    assert_int_equal(kv_menu_parse(&menu, "6,5", false, &why), 0);
    kv_menu_formats(&menu, formats);
    for (int f = 0; f < KV_FORMATS; f++)
        assert_int_equal(formats[f], f == KV_FORMAT_6 || f == KV_FORMAT_5);
    assert_int_equal(kv_menu_parse(&menu, "1.58,1", true, &why), 0);
    assert_true(menu.n == 2 && menu.widths[0] == 1 && menu.widths[1] == 1.58);
}

static void test_bad_menus(void **state) {
    static const struct {
        const char *text, *mention;
        bool of_paper;
    } bad[] = {
        { "", "\"\" is no width", false },
        { ",", "\"\" is no width", false },
        { "8,", "\"\" is no width", false },
        { "8, 4", "\" 4\" is no width", false },
        { "8,7", "\"7\" is no width", false },
        { "8;4", "\"8;4\" is no width", false },
        { "32", "\"32\" is no width", true },
        { "04", "\"04\" is no width", false },
        { "-4", "\"-4\" is no width", false },
        { "4.0", "\"4.0\" is no width", false },
        { "nan", "\"nan\" is no width", true },
        { "1.58", "\"1.58\" is no width; a menu has some of 16, 8, 6, 5, 4, 3 and 2 bits", false },
        { "1", "\"1\" is no width", false },
        { "8,4,8", "8 is given twice", false },
        { "1.580", "or the paper's 1.58 and 1", true },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        Reason why = REASON_NULL;
        KvMenu menu;

        if (kv_menu_parse(&menu, bad[i].text, bad[i].of_paper, &why) != -EINVAL)
            fail_msg("\"%s\" was taken", bad[i].text);
        if (!strstr(why.text, bad[i].mention))
            fail_msg("\"%s\" lacks \"%s\"", why.text, bad[i].mention);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_menus),
        cmocka_unit_test(test_bad_menus),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
