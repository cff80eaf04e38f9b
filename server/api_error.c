/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api_error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Copies what fits, and no half character. */
static void copy_text(char *to, size_t size, const char *text) {
    size_t n = strnlen(text, size);

    if (n == size)
        for (n = size - 1; n && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
            ;
    memcpy(to, text, n);
    to[n] = 0;
}

static void set(ApiError *error, unsigned status, const char *param, const char *code,
                const char *format, va_list args) {
    char text[2 * sizeof(error->why.text)];

    error->status = status;
    error->code = code;
    copy_text(error->param, sizeof(error->param), param ? param : "");
    vsnprintf(text, sizeof(text), format, args);
    copy_text(error->why.text, sizeof(error->why.text), text);
}

int api_fail(ApiError *error, unsigned status, const char *param, const char *code,
             const char *format, ...) {
    va_list args;

    va_start(args, format);
    set(error, status, param, code, format, args);
    va_end(args);
    return -EINVAL;
}

int api_refuse(ApiError *error, const char *param, const char *format, ...) {
    va_list args;

    va_start(args, format);
    set(error, 400, param, NULL, format, args);
    va_end(args);
    return -EINVAL;
}

int api_fail_memory(ApiError *error) {
    api_fail(error, 503, NULL, NULL,
             "The server has no memory for this request now; try again later.");
    return -ENOMEM;
}

static const char *error_type(unsigned status) {
    return status < 500 ? "invalid_request_error" : "server_error";
}

void api_error_write(Buffer *out, const ApiError *error) {
    JsonWriter w = JSON_WRITER(out);

    json_begin_object(&w, NULL);
    json_begin_object(&w, "error");
    json_put_text(&w, "message", error->why.text);
    json_put_text(&w, "type", error_type(error->status));
    json_put_text(&w, "param", *error->param ? error->param : NULL);
    json_put_text(&w, "code", error->code);
    json_end_object(&w);
    json_end_object(&w);
}
