/* SPDX-License-Identifier: Apache-2.0 */
#include "text/byte_alphabet.h"

#include "util/utf8.h"

int byte_alphabet_byte(uint32_t cp) {
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
        return (int)cp;
    if (cp >= 0x100 && cp <= 0x120)
        return (int)(cp - 0x100); /* 0x00 to 0x20 */
    if (cp >= 0x121 && cp <= 0x142)
        return (int)(cp - 0x121 + 0x7f); /* 0x7f to 0xa0 */
    return cp == 0x143 ? 0xad : -1;
}

bool byte_alphabet_decode(const char *text, size_t size, Buffer *out) {
    size_t before = out->size;
    char *to = buffer_reserve(out, size);

    if (!to)
        return true; /* the buffer remembers the failure */
    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        int byte = byte_alphabet_byte(utf8_decode(text + at));

        if (byte < 0) {
            out->size = before;
            return false;
        }
        *to++ = (char)byte;
        out->size++;
    }
    *to = 0;
    return true;
}
