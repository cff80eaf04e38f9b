/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * GPT-2's way of writing bytes as characters (openai/gpt-2, encoder.py, bytes_to_unicode):
 * printable bytes of Latin-1 stand for themselves, the other 68 are U+0100 and up, in order.
 */

#include "util/buffer.h"

#include <stdbool.h>
#include <stdint.h>

/* The byte a character stands for, or -1. */
int byte_alphabet_byte(uint32_t cp);

/* Appends the bytes that `text` (valid UTF-8) stands for; appends nothing and says false if a
 * character stands for none. */
bool byte_alphabet_decode(const char *text, size_t size, Buffer *out);
