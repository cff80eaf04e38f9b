/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A growing run of bytes. Always followed by a NUL that `size` does not count, so that text in it
 * can be handed to C. Growth failure is sticky: append freely, check `buffer_failed` once.
 */

#include "util/account.h"
#include "util/cleanup.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct Buffer {
    char *data; /* owned; NULL while empty */
    size_t size;
    size_t capacity;
    bool failed;      /* an append could not get memory; the content is incomplete */
    Account *account; /* charged with `capacity`; borrowed; NULL: nobody's. Set while empty */
} Buffer;

#define BUFFER_NULL \
    { .data = NULL }

/* Gives its memory and its charge back, and forgets the account. */
void buffer_deinit(Buffer *b);
CLEANUP_DEINIT_DEFINE(Buffer, buffer_deinit);

/* The content and its charge, which are the caller's from now on; `b` is empty and nobody's. */
static inline Buffer buffer_take(Buffer *b) {
    Buffer taken = *b;

    *b = (Buffer)BUFFER_NULL;
    return taken;
}

/* Moves the charge of what it holds to another account (NULL: to none). 0, or account_charge's
 * error: then the charge stays where it was. */
int buffer_move_charge(Buffer *b, Account *to);

/* Gives back the memory that its content does not need. */
void buffer_fit(Buffer *b);

/* Keeps the memory, forgets the content and the failure. */
void buffer_clear(Buffer *b);

/* Room for `n` more bytes; returns where they go, NULL (and failed) without memory. The caller
 * adds what it wrote to `size`. */
char *buffer_reserve(Buffer *b, size_t n);

void buffer_append(Buffer *b, const void *data, size_t n);
void buffer_append_text(Buffer *b, const char *text);
void buffer_append_char(Buffer *b, char c);
void buffer_printf(Buffer *b, const char *format, ...)
    __attribute__((__format__(__printf__, 2, 3)));

/* Drops `n` bytes from the front. */
void buffer_consume(Buffer *b, size_t n);

/* The content as text: never NULL. Valid until the next change. */
const char *buffer_text(const Buffer *b);

static inline bool buffer_failed(const Buffer *b) {
    return b->failed;
}
