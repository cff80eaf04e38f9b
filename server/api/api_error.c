/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_error.h"

#include "server/http/http_exchange.h"
#include "server/http/http_request.h"
#include "util/json.h"
#include "util/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define DESCRIPTION_BYTES_MAX 64

static void set(ApiError *error, unsigned status, const char *param, const char *code,
                const char *format, va_list args) {
    error->status = status;
    error->code = code;
    text_copy(error->param, sizeof(error->param), param ? param : "");
    reason_set_list(&error->why, format, args);
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

int api_refuse_value(ApiError *error, const char *path, const json_t *value, const char *expected) {
    char found[DESCRIPTION_BYTES_MAX];

    return api_refuse(error, path, "`%s` must be %s; it is %s.", path, expected,
                      json_describe(value, found, sizeof(found)));
}

void api_name_path(char path[API_PATH_BYTES], const char *format, ...) {
    va_list args;

    va_start(args, format);
    vsnprintf(path, API_PATH_BYTES, format, args);
    va_end(args);
}

int api_fail_memory(ApiError *error) {
    api_fail(error, 503, NULL, NULL,
             "The server has no memory for this request now; try again later.");
    return -ENOMEM;
}

int api_fail_account(ApiError *error, const Account *account) {
    *error = (ApiError)API_ERROR_NULL;
    error->status = http_memory_refusal(account, &error->why);
    error->code = error->status == 413   ? "request_memory"
                  : error->status == 429 ? "client_memory"
                                         : "requests_memory";
    error->limit_name = account_refusal(account);
    if (error->status != 413)
        error->retry_after_s = 1;
    if (account_is_closed(account))
        api_fail(error, 503, NULL, NULL, "The server stopped working on this request.");
    return -ENOMEM;
}

void api_error_write(Buffer *out, const ApiError *error) {
    http_error_body(out, error->status, error->why.text, *error->param ? error->param : NULL,
                    error->code);
}
