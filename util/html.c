/* SPDX-License-Identifier: Apache-2.0 */
#include "util/html.h"

#include <string.h>

void html_escape(Buffer *out, const char *text) {
    for (; *text; text++) {
        if (strchr("<>&\"'", *text))
            buffer_printf(out, "&#%d;", *text);
        else
            buffer_append_char(out, *text);
    }
}
