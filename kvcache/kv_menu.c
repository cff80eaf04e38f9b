/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_menu.h"

#include "kvcache/kv_format.h"

#include <errno.h>
#include <string.h>

typedef struct Width {
    const char *text;
    double bits;
    bool is_papers; /* alone */
} Width;

static const Width widths[] = {
    { "1", 1, true },  { "1.58", 1.58, true }, { "2", 2, false },
    { "3", 3, false }, { "4", 4, false },      { "5", 5, false },
    { "6", 6, false }, { "8", 8, false },      { "16", 16, false },
};
#define N_WIDTHS (sizeof(widths) / sizeof(*widths))

/* Index of the width that a word of n bytes names, or N_WIDTHS. */
static size_t find_width(const char *word, size_t n, bool of_paper) {
    size_t i = 0;

    while (i < N_WIDTHS && (strlen(widths[i].text) != n || memcmp(widths[i].text, word, n) != 0 ||
                            (widths[i].is_papers && !of_paper)))
        i++;
    return i;
}

static int add_word(bool chosen[N_WIDTHS], const char *word, size_t n, bool of_paper, Reason *why) {
    size_t i = find_width(word, n, of_paper);

    if (i == N_WIDTHS)
        return reason_set(
            why, -EINVAL, "\"%.*s\" is no width; a menu has some of 16, 8, 6, 5, 4, 3 and 2 bits%s",
            n < 32 ? (int)n : 32, word, of_paper ? ", or the paper's 1.58 and 1" : "");
    if (chosen[i])
        return reason_set(why, -EINVAL, "%s is given twice", widths[i].text);
    chosen[i] = true;
    return 0;
}

int kv_menu_parse(KvMenu *menu, const char *text, bool of_paper, Reason *why) {
    bool chosen[N_WIDTHS] = { false };

    for (const char *word = text;; word++) {
        size_t n = strcspn(word, ",");
        int r = add_word(chosen, word, n, of_paper, why);

        if (r)
            return reason_prefix(why, r, "\"%.64s\": ", text);
        word += n;
        if (!*word)
            break;
    }
    *menu = (KvMenu){ .n = 0 };
    for (size_t i = 0; i < N_WIDTHS; i++)
        if (chosen[i])
            menu->widths[menu->n++] = widths[i].bits;
    return 0;
}

void kv_menu_formats(const KvMenu *menu, bool formats[KV_FORMATS]) {
    memset(formats, 0, KV_FORMATS * sizeof(*formats));
    for (uint32_t i = 0; i < menu->n; i++)
        formats[kv_format_of_bits((uint32_t)menu->widths[i])] = true;
}
