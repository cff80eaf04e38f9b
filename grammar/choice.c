/* SPDX-License-Identifier: Apache-2.0 */
#include "grammar/choice.h"

#include "grammar/kind.h"
#include "util/json_tree.h"

#include <errno.h>

/* Bytes beyond ASCII are characters there as they are here. */
static void write_text(const json_t *string, Buffer *out) {
    const char *text = json_string_value(string);

    buffer_append_char(out, '"');
    for (size_t i = 0; i < json_string_length(string); i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '"' || c == '\\')
            buffer_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            buffer_printf(out, "\\x%02X", c);
        else
            buffer_append_char(out, (char)c);
    }
    buffer_append_char(out, '"');
}

int choice_write_rules(const char *json, size_t size, Buffer *out, Reason *why) {
    CLEANUP(json_unref) json_t *choices = NULL;
    const json_t *item;
    size_t i;
    int r = json_parse_charged(&choices, json, size, 0, out->account, why);

    if (r)
        return r == -EINVAL ? GRAMMAR_E_INVALID : r;
    if (!json_array_size(choices))
        return reason_set(why, GRAMMAR_E_INVALID, "a choice is an array of one string or more");
    buffer_append_text(out, "root ::= ");
    json_array_foreach(choices, i, item) {
        if (!json_string_length(item) || json_string_has_nul(item))
            return reason_set(why, GRAMMAR_E_INVALID,
                              "item %zu of the choice is no string, empty, or has a NUL in it", i);
        buffer_append_text(out, i ? " | " : "");
        write_text(item, out);
    }
    return buffer_failed(out) ? -ENOMEM : 0;
}
