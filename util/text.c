/* SPDX-License-Identifier: Apache-2.0 */
#include "util/text.h"

#include <stdint.h>
#include <string.h>

size_t text_whole(const char *text, size_t n) {
    size_t lead = n;
    uint8_t c;

    while (lead && n - lead < 3 && ((uint8_t)text[lead - 1] & 0xc0) == 0x80)
        lead--;
    if (!lead)
        return n;
    c = (uint8_t)text[--lead];
    return n - lead < (c >= 0xf5   ? 1u
                       : c >= 0xf0 ? 4u
                       : c >= 0xe0 ? 3u
                       : c >= 0xc0 ? 2u
                                   : 1u)
               ? lead
               : n;
}

void text_copy(char *to, size_t size, const char *from) {
    size_t n = text_whole(from, strnlen(from, size - 1));

    memcpy(to, from, n);
    to[n] = 0;
}
