/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members of items that say nothing to a model (id, status, annotations, ...) are not looked at:
 * clients send back items as they were in answers.
 */
#include "server/api/api_responses_items.h"

#include "util/json.h"

#include <errno.h>

#define DESCRIPTION_BYTES_MAX 64

const json_t *api_item_member(const json_t *item, const char *key) {
    const json_t *value = json_object_get(item, key);

    return json_is_null(value) ? NULL : value;
}

/* Easy messages need no type. */
ApiItemKind api_item_kind(const json_t *item) {
    static const char *const types[API_ITEM_UNKNOWN] = {
        [API_ITEM_MESSAGE] = "message",
        [API_ITEM_CALL] = "function_call",
        [API_ITEM_CALL_OUTPUT] = "function_call_output",
        [API_ITEM_REASONING] = "reasoning",
    };
    const json_t *type = api_item_member(item, "type");
    ApiItemKind kind = API_ITEM_MESSAGE;

    if (!type)
        return api_item_member(item, "role") ? API_ITEM_MESSAGE : API_ITEM_UNKNOWN;
    while (kind < API_ITEM_UNKNOWN && !json_string_is(type, types[kind]))
        kind++;
    return kind;
}

static int check_text(const json_t *object, const char *path, const char *key, ApiError *error) {
    char name[API_PATH_BYTES];

    api_name_path(name, "%s.%s", path, key);
    return json_is_string(json_object_get(object, key))
               ? 0
               : api_refuse_value(error, name, json_object_get(object, key), "a string");
}

/* Parts with a text, of one of these types; a refusal has its text elsewhere. */
static int check_parts(const json_t *parts, const char *path, const char *const types[2],
                       bool refusals, ApiError *error) {
    const json_t *part;
    size_t i;

    json_array_foreach(parts, i, part) {
        const json_t *type = json_object_get(part, "type");
        char name[API_PATH_BYTES], found[DESCRIPTION_BYTES_MAX];
        bool is_refusal = refusals && json_string_is(type, "refusal");

        api_name_path(name, "%s[%zu]", path, i);
        if (!json_is_object(part))
            return api_refuse_value(error, name, part, "an object");
        if (!is_refusal && !json_string_is(type, types[0]) && !json_string_is(type, types[1]))
            return api_refuse(error, name,
                              "`%s` is of type %s; this model reads text only, in parts of type "
                              "\"%s\" or \"%s\".",
                              name, json_describe(type, found, sizeof(found)), types[0], types[1]);
        if (check_text(part, name, is_refusal ? "refusal" : "text", error))
            return -EINVAL;
    }
    return 0;
}

static int check_content(const json_t *item, const char *path, const char *key, ApiError *error) {
    static const char *const types[2] = { "input_text", "output_text" };
    const json_t *content = json_object_get(item, key);
    char name[API_PATH_BYTES];

    api_name_path(name, "%s.%s", path, key);
    if (json_is_string(content))
        return 0;
    if (!json_is_array(content))
        return api_refuse_value(error, name, content, "a string or an array of parts");
    return check_parts(content, name, types, true, error);
}

static int check_message(const json_t *item, const char *path, ApiError *error) {
    static const char *const roles[] = { "user", "assistant", "system", "developer" };
    const json_t *role = json_object_get(item, "role");
    char name[API_PATH_BYTES];
    size_t i = 0;

    while (i < 4 && !json_string_is(role, roles[i]))
        i++;
    api_name_path(name, "%s.role", path);
    if (i == 4)
        return api_refuse_value(error, name, role,
                                "\"user\", \"assistant\", \"system\" or \"developer\"");
    return check_content(item, path, "content", error);
}

static int check_call(const json_t *item, const char *path, ApiError *error) {
    if (check_text(item, path, "call_id", error) || check_text(item, path, "name", error))
        return -EINVAL;
    return check_text(item, path, "arguments", error);
}

static int check_call_output(const json_t *item, const char *path, ApiError *error) {
    if (check_text(item, path, "call_id", error))
        return -EINVAL;
    if (api_item_member(item, "name") && check_text(item, path, "name", error))
        return -EINVAL;
    return check_content(item, path, "output", error);
}

static int check_reasoning(const json_t *item, const char *path, ApiError *error) {
    static const char *const types[2] = { "reasoning_text", "summary_text" };
    static const char *const keys[] = { "content", "summary" };
    char name[API_PATH_BYTES];

    api_name_path(name, "%s.encrypted_content", path);
    if (api_item_member(item, "encrypted_content"))
        return api_refuse(error, name,
                          "`%s` cannot be read by this server, which made none; what was thought "
                          "goes into `content`.",
                          name);
    for (size_t i = 0; i < 2; i++) {
        const json_t *parts = api_item_member(item, keys[i]);

        api_name_path(name, "%s.%s", path, keys[i]);
        if (parts && !json_is_array(parts))
            return api_refuse_value(error, name, parts, "an array of parts");
        if (check_parts(parts, name, types, false, error))
            return -EINVAL;
    }
    return 0;
}

static int check_item(const json_t *item, const char *path, ApiError *error) {
    const json_t *type = api_item_member(item, "type");
    char found[DESCRIPTION_BYTES_MAX];

    if (!json_is_object(item))
        return api_refuse_value(error, path, item, "an object");
    switch (api_item_kind(item)) {
    case API_ITEM_MESSAGE:
        return check_message(item, path, error);
    case API_ITEM_CALL:
        return check_call(item, path, error);
    case API_ITEM_CALL_OUTPUT:
        return check_call_output(item, path, error);
    case API_ITEM_REASONING:
        return check_reasoning(item, path, error);
    default:
        break;
    }
    if (!type || json_string_is(type, "item_reference"))
        return api_refuse(error, path,
                          "`%s` has no `role`, and no item can be referred to: this server stores "
                          "none. Send the item itself.",
                          path);
    return api_refuse(error, path,
                      "`%s` is of type %s; this server reads items of type \"message\", "
                      "\"function_call\", \"function_call_output\" and \"reasoning\".",
                      path, json_describe(type, found, sizeof(found)));
}

int api_responses_check_input(const json_t *input, ApiError *error) {
    const json_t *item;
    size_t i;

    if (!input)
        return api_refuse(error, "input", "`input` is missing.");
    if (json_is_string(input))
        return 0;
    if (!json_array_size(input))
        return api_refuse_value(error, "input", input, "a string or an array of items, not empty");
    json_array_foreach(input, i, item) {
        char path[API_PATH_BYTES];

        api_name_path(path, "input[%zu]", i);
        if (check_item(item, path, error))
            return -EINVAL;
    }
    return 0;
}
