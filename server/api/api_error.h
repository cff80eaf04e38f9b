/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What went wrong with a call, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
 */

#include "util/account.h"
#include "util/json_writer.h"
#include "util/reason.h"

#define API_PATH_BYTES 96 /* of a place in a body, "input[2].content[0]", with its NUL */

typedef struct ApiError {
    unsigned status;            /* of the answer; 0: no error */
    char param[API_PATH_BYTES]; /* the parameter at fault; "": none */
    const char *code;           /* static; NULL: none */
    const char *limit_name;     /* the option whose limit refused; static; NULL: none did */
    uint32_t retry_after_s;     /* when trying again may help; 0: not said */
    Reason why;
} ApiError;

#define API_ERROR_NULL \
    { .status = 0 }

/* Fill `error` and return -EINVAL, so that a failing check is one statement. `param` may be NULL.
 */
int api_fail(ApiError *error, unsigned status, const char *param, const char *code,
             const char *format, ...) __attribute__((__format__(__printf__, 5, 6)));
/* A 400 without a code. */
int api_refuse(ApiError *error, const char *param, const char *format, ...)
    __attribute__((__format__(__printf__, 3, 4)));
/* The same of a value at `path` that is not `expected`. */
int api_refuse_value(ApiError *error, const char *path, const json_t *value, const char *expected);
/* Writes a place in a body; what does not fit is left out. */
void api_name_path(char path[API_PATH_BYTES], const char *format, ...)
    __attribute__((__format__(__printf__, 2, 3)));
/* -ENOMEM as a 503. */
int api_fail_memory(ApiError *error);
/* The same for what was charged to an account: names the limit that refused, 413 where it is the
 * account's own, 503 where it is shared; replaces what `error` said. */
int api_fail_account(ApiError *error, const Account *account);

/* Appends the body of the answer. */
typedef void (*ApiErrorPutFn)(Buffer *out, const ApiError *error);

/* {"error": {...}} at the top: an ApiErrorPutFn. */
void api_error_write(Buffer *out, const ApiError *error);
