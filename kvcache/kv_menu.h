/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What people write after --menu: the widths that a plan may use, "8,6,5,4,3,2".
 */

#include "kvcache/kv_layout.h"
#include "util/reason.h"

#define KV_MENU_MAX 16

typedef struct KvMenu {
    double widths[KV_MENU_MAX]; /* [n], rising, all different */
    uint32_t n;
} KvMenu;

/* The widths that a cache can have: 16 (f16), 8, 6, 5, 4, 3 and 2; `of_paper`: 1.58 and 1 as well,
 * which the paper's experiments have and no cache. Any order. -EINVAL: the word that is wrong and
 * what is allowed. */
int kv_menu_parse(KvMenu *menu, const char *text, bool of_paper, Reason *why);
/* The formats of those widths; none may be the paper's own. */
void kv_menu_formats(const KvMenu *menu, bool formats[KV_FORMATS]);
