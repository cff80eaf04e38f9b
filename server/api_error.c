/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api_error.h"

#include "util/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>

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

int api_fail_memory(ApiError *error) {
    api_fail(error, 503, NULL, NULL,
             "The server has no memory for this request now; try again later.");
    return -ENOMEM;
}

int api_fail_account(ApiError *error, const Account *account) {
    const Account *by = account ? atomic_load(&account->refused_by) : NULL;
    uint64_t limit = by ? atomic_load(&by->limit) : 0;

    if (account_is_closed(account))
        api_fail(error, 503, NULL, NULL, "The server stopped working on this request.");
    else if (!by)
        api_fail_memory(error);
    else if (by == account)
        api_fail(error, 413, NULL, "request_memory",
                 "The request needs more than the %" PRIu64
                 " bytes of memory that it may take (option %s): ask for less at once.",
                 limit, by->limit_name);
    else
        api_fail(error, 503, NULL, "requests_memory",
                 "All requests together need more than the %" PRIu64
                 " bytes of memory that they may take (option %s); try again later.",
                 limit, by->limit_name);
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
