/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "util/buffer.h"

/* Appends text that means itself in HTML, in an element or in a quoted attribute. */
void html_escape(Buffer *out, const char *text);
