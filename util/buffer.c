/* SPDX-License-Identifier: Apache-2.0 */
#include "util/buffer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

void buffer_deinit(Buffer *b) {
    free(b->data);
    account_release(b->account, b->capacity);
    *b = (Buffer)BUFFER_NULL;
}

int buffer_move_charge(Buffer *b, Account *to) {
    int r = account_charge(to, b->capacity);

    if (r)
        return r;
    account_release(b->account, b->capacity);
    b->account = to;
    return 0;
}

void buffer_fit(Buffer *b) {
    char *data;

    if (!b->data || b->size + 1 == b->capacity)
        return;
    data = realloc(b->data, b->size + 1);
    if (!data)
        return;
    account_release(b->account, b->capacity - (b->size + 1));
    b->data = data;
    b->capacity = b->size + 1;
}

void buffer_clear(Buffer *b) {
    b->size = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

/* Twice what it was, or what is needed; without charge or memory for that, nothing changes. */
static bool grow(Buffer *b, size_t need) {
    size_t capacity = b->capacity < SIZE_MAX / 2 ? b->capacity * 2 : need;
    char *data;

    if (capacity < need)
        capacity = need;
    if (capacity < 64)
        capacity = 64;
    if (account_charge(b->account, capacity - b->capacity))
        return false;
    data = realloc(b->data, capacity);
    if (!data) {
        account_release(b->account, capacity - b->capacity);
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

char *buffer_reserve(Buffer *b, size_t n) {
    size_t need;

    if (!b->failed)
        b->failed = __builtin_add_overflow(b->size, n, &need) ||
                    __builtin_add_overflow(need, 1, &need) ||
                    (need > b->capacity && !grow(b, need));
    return b->failed ? NULL : b->data + b->size;
}

void buffer_append(Buffer *b, const void *data, size_t n) {
    char *to = buffer_reserve(b, n);

    if (!to)
        return;
    if (n)
        memcpy(to, data, n);
    to[n] = 0;
    b->size += n;
}

void buffer_append_text(Buffer *b, const char *text) {
    buffer_append(b, text, strlen(text));
}

void buffer_append_char(Buffer *b, char c) {
    buffer_append(b, &c, 1);
}

void buffer_printf(Buffer *b, const char *format, ...) {
    va_list args, again;
    char *to;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    assert(n >= 0);
    to = buffer_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    }
    va_end(again);
}

void buffer_consume(Buffer *b, size_t n) {
    assert(n <= b->size);
    if (!n)
        return;
    memmove(b->data, b->data + n, b->size - n + 1);
    b->size -= n;
}

const char *buffer_text(const Buffer *b) {
    return b->data ? b->data : "";
}
