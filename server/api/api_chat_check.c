/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_chat_check.h"

#include "util/json.h"

#include <errno.h>

#define MESSAGE_BYTES_MAX 32 /* of the path of a message: messages[0] */
#define CALL_BYTES_MAX 72    /* of a call in one: messages[0].tool_calls[0] */
#define MEMBER_BYTES_MAX 96  /* of a member of either */

static int wrong(ApiError *error, const char *path, const char *member, const json_t *value,
                 const char *expected) {
    char found[64], name[MEMBER_BYTES_MAX];

    snprintf(name, sizeof(name), "%s.%s", path, member);
    return api_refuse(error, name, "`%s` must be %s; it is %s.", name, expected,
                      json_describe(value, found, sizeof(found)));
}

static const json_t *member_of(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);

    return json_is_null(value) ? NULL : value;
}

static int check_text(const json_t *object, const char *path, const char *member, ApiError *error) {
    const json_t *value = member_of(object, member);

    return value && !json_is_string(value) ? wrong(error, path, member, value, "a string") : 0;
}

static int check_call(const json_t *call, const char *path, ApiError *error) {
    const json_t *function = member_of(call, "function"), *type = member_of(call, "type");
    const json_t *arguments = member_of(function, "arguments");

    if (!json_is_object(function) || !json_is_string(json_object_get(function, "name")))
        return api_refuse(error, path,
                          "`%s` must be an object with a `function` that has a `name`.", path);
    if (arguments && !json_is_string(arguments) && !json_is_object(arguments))
        return wrong(error, path, "function.arguments", arguments, "a string of JSON or an object");
    if (type && !json_string_is(type, "function"))
        return wrong(error, path, "type", type, "\"function\"");
    return check_text(call, path, "id", error);
}

static int check_calls(const json_t *calls, const char *path, ApiError *error) {
    const json_t *call;
    size_t i;

    if (calls && !json_is_array(calls))
        return wrong(error, path, "tool_calls", calls, "an array");
    json_array_foreach(calls, i, call) {
        char name[CALL_BYTES_MAX];

        snprintf(name, sizeof(name), "%s.tool_calls[%zu]", path, i);
        if (check_call(call, name, error))
            return -EINVAL;
    }
    return 0;
}

static int check_message(const json_t *message, const char *path, ApiError *error) {
    if (!json_is_object(message) || !json_is_string(json_object_get(message, "role")))
        return api_refuse(error, path, "`%s` must be an object with a `role`.", path);
    if (check_text(message, path, "name", error) ||
        check_text(message, path, "tool_call_id", error))
        return -EINVAL;
    return check_calls(member_of(message, "tool_calls"), path, error);
}

int api_chat_check(const json_t *messages, ApiError *error) {
    const json_t *message;
    size_t i;

    if (!messages)
        return api_refuse(error, "messages", "`messages` is missing.");
    if (!json_array_size(messages))
        return api_refuse(error, "messages", "`messages` must hold at least one message.");
    json_array_foreach(messages, i, message) {
        char path[MESSAGE_BYTES_MAX];

        snprintf(path, sizeof(path), "messages[%zu]", i);
        if (check_message(message, path, error))
            return -EINVAL;
    }
    return 0;
}
