/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_responses_translate.h"

#include "server/api/api_responses_input.h"
#include "server/api/api_responses_items.h"
#include "util/json.h"
#include "util/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64

static int unknown_member(ApiError *error, const char *path, const json_t *key) {
    char shown[DESCRIPTION_BYTES_MAX];

    return api_refuse(error, path, "`%s` has a member %s, which this server does not know.", path,
                      json_describe(key, shown, sizeof(shown)));
}

/* form */

static int check_format_members(const json_t *format, bool is_schema, ApiError *error) {
    static const char *const names[] = { "type", "name", "schema", "description", "strict" };
    const json_t *key, *member;

    json_object_foreach(format, key, member) {
        size_t i = 0, n = is_schema ? 5 : 1;

        while (i < n && !json_string_is(key, names[i]))
            i++;
        if (i == n && !json_is_null(member))
            return unknown_member(error, "text.format", key);
    }
    return 0;
}

static int read_schema(ApiParams *p, const json_t *format, ApiError *error) {
    const json_t *schema = json_object_get(format, "schema"), *name, *member;

    name = json_object_get(format, "name");
    if (!json_is_string(name))
        return api_refuse_value(error, "text.format.name", name, "a string");
    if (!json_is_object(schema))
        return api_refuse_value(error, "text.format.schema", schema, "a JSON schema");
    member = json_object_get(format, "description");
    if (member && !json_is_null(member) && !json_is_string(member))
        return api_refuse_value(error, "text.format.description", member, "a string");
    member = json_object_get(format, "strict");
    if (member && !json_is_null(member) && !json_is_boolean(member))
        return api_refuse_value(error, "text.format.strict", member, "true or false");
    p->grammar =
        (ApiGrammar){ .param = "text.format", .kind = GRAMMAR_JSON_SCHEMA, .value = schema };
    return 0;
}

static int read_format(ApiParams *p, const json_t *format, ApiError *error) {
    const json_t *type = json_object_get(format, "type");
    bool is_schema = json_string_is(type, "json_schema");

    if (!json_is_object(format))
        return api_refuse_value(error, "text.format", format, "an object with a `type`");
    if (!is_schema && !json_string_is(type, "text") && !json_string_is(type, "json_object"))
        return api_refuse_value(error, "text.format.type", type,
                                "\"text\", \"json_object\" or \"json_schema\"");
    if (check_format_members(format, is_schema, error))
        return -EINVAL;
    if (is_schema)
        return read_schema(p, format, error);
    if (json_string_is(type, "json_object"))
        p->grammar = (ApiGrammar){ .param = "text.format", .kind = GRAMMAR_JSON };
    return 0;
}

static int read_text(ApiParams *p, ApiError *error) {
    const json_t *key, *member;

    json_object_foreach(p->text, key, member) {
        if (json_is_null(member))
            continue;
        if (json_string_is(key, "verbosity")) { /* a hint, as a chat's is */
            if (!json_string_is(member, "low") && !json_string_is(member, "medium") &&
                !json_string_is(member, "high"))
                return api_refuse_value(error, "text.verbosity", member,
                                        "\"low\", \"medium\" or \"high\"");
        } else if (!json_string_is(key, "format")) {
            return unknown_member(error, "text", key);
        } else if (read_format(p, member, error)) {
            return -EINVAL;
        }
    }
    return 0;
}

/* reasoning */

/* Members that have one value here, which says what happens anyway. */
static const char *only_value(const json_t *key) {
    static const char *const values[][2] = { { "summary", "auto" },
                                             { "generate_summary", "auto" },
                                             { "context", "auto" },
                                             { "mode", "standard" } };

    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
        if (json_string_is(key, values[i][0]))
            return values[i][1];
    return NULL;
}

static int read_reasoning(ApiParams *p, ApiError *error) {
    const json_t *key, *member;

    json_object_foreach(p->reasoning, key, member) {
        const char *value = only_value(key);
        char path[API_PATH_BYTES], found[DESCRIPTION_BYTES_MAX];

        if (json_is_null(member) || (value && json_string_is(member, value)))
            continue;
        if (!value && !json_string_is(key, "effort"))
            return unknown_member(error, "reasoning", key);
        api_name_path(path, "reasoning.%s", json_string_value(key));
        if (value)
            return api_refuse(error, path, "`%s` can only be \"%s\" here; it is %s.", path, value,
                              json_describe(member, found, sizeof(found)));
        if (!json_is_string(member))
            return api_refuse_value(error, path, member, "a string");
        p->reasoning_effort = member;
    }
    return 0;
}

/* what else the answer has */

static int read_include(ApiParams *p, ApiError *error) {
    const json_t *item;
    size_t i;

    json_array_foreach(p->include, i, item) {
        char path[API_PATH_BYTES];

        api_name_path(path, "include[%zu]", i);
        /* Reasoning is in the answer as it is, to be sent back. */
        if (json_string_is(item, "reasoning.encrypted_content"))
            continue;
        if (!json_string_is(item, "message.output_text.logprobs"))
            return api_refuse_value(
                error, path, item,
                "\"message.output_text.logprobs\" or \"reasoning.encrypted_content\"");
        p->n_logprobs = 0;
    }
    if (p->n_top_logprobs > 0 && p->n_logprobs < 0)
        return api_refuse(
            error, "top_logprobs",
            "`top_logprobs` needs `include` to have \"message.output_text.logprobs\".");
    if (p->n_top_logprobs > 0)
        p->n_logprobs = p->n_top_logprobs;
    return 0;
}

static int check_rest(const ApiParams *p, ApiError *error) {
    const json_t *key, *member;

    json_object_foreach(p->metadata, key, member)
        if (!json_is_string(member))
            return api_refuse_value(error, "metadata", member,
                                    "an object whose values are strings");
    json_object_foreach(p->stream_options, key, member) {
        if (json_is_null(member))
            continue;
        if (!json_string_is(key, "include_obfuscation")) /* padding that hides lengths: a hint */
            return unknown_member(error, "stream_options", key);
        if (!json_is_boolean(member))
            return api_refuse_value(error, "stream_options.include_obfuscation", member,
                                    "true or false");
    }
    return 0;
}

/* tools */

static const char *const tool_members[] = { "name", "description", "parameters", "strict" };
#define N_TOOL_MEMBERS (sizeof(tool_members) / sizeof(*tool_members))

/* What api_tools_check does not look at. */
static int check_tool(const json_t *tool, const char *path, ApiError *error) {
    const json_t *type = json_object_get(tool, "type"), *key, *member;
    char found[DESCRIPTION_BYTES_MAX];

    if (!json_is_object(tool))
        return api_refuse_value(error, path, tool, "an object");
    if (!json_string_is(type, "function"))
        return api_refuse(error, path,
                          "`%s` is of type %s; this server knows tools of type \"function\", which "
                          "the client runs.",
                          path, json_describe(type, found, sizeof(found)));
    json_object_foreach(tool, key, member) {
        size_t i = 0;

        while (i < N_TOOL_MEMBERS && !json_string_is(key, tool_members[i]))
            i++;
        if (i == N_TOOL_MEMBERS && !json_string_is(key, "type") && !json_is_null(member) &&
            !(json_is_boolean(member) && !json_is_true(member)))
            return unknown_member(error, path, key);
    }
    return 0;
}

static int check_tools(const ApiParams *p, ApiError *error) {
    const json_t *tool;
    size_t i;

    json_array_foreach(p->tools, i, tool) {
        char path[API_PATH_BYTES];

        api_name_path(path, "tools[%zu]", i);
        if (check_tool(tool, path, error))
            return -EINVAL;
    }
    return 0;
}

static int check_choice(const ApiParams *p, ApiError *error) {
    const json_t *choice = p->tool_choice;

    if (!choice || json_string_is(choice, "none") || json_string_is(choice, "auto") ||
        json_string_is(choice, "required"))
        return 0;
    if (json_string_is(json_object_get(choice, "type"), "function") &&
        json_is_string(json_object_get(choice, "name")))
        return 0;
    return api_refuse_value(
        error, "tool_choice", choice,
        "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"name\": ...}");
}

static void put_function(JsonWriter *w, const json_t *from) {
    json_begin_object(w, "function");
    for (size_t i = 0; i < N_TOOL_MEMBERS; i++) {
        const json_t *member = json_object_get(from, tool_members[i]);

        if (member && !json_is_null(member))
            json_put_value(w, tool_members[i], member);
    }
    json_end_object(w);
}

static void put_tool(JsonWriter *w, const char *key, const json_t *tool) {
    json_begin_object(w, key);
    json_put_text(w, "type", "function");
    put_function(w, tool);
    json_end_object(w);
}

/* the chat's body */

static int write_chat(const ApiParams *p, Buffer *out, Account *account) {
    JsonWriter w = JSON_WRITER(out);
    const json_t *tool;
    size_t i;
    int r;

    json_begin_object(&w, NULL);
    r = api_responses_put_messages(&w, p->instructions, p->input, account);
    if (p->tools) {
        json_begin_array(&w, "tools");
        json_array_foreach(p->tools, i, tool)
            put_tool(&w, NULL, tool);
        json_end_array(&w);
    }
    if (json_is_object(p->tool_choice))
        put_tool(&w, "tool_choice", p->tool_choice);
    json_end_object(&w);
    return buffer_failed(out) ? -ENOMEM : r;
}

static int make_chat(ApiParams *p, Account *account, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer text = { .account = account };
    Reason why = REASON_NULL;
    int r = write_chat(p, &text, account);

    if (!r)
        r = json_parse_charged(&p->translated, buffer_text(&text), text.size, 0, account, &why);
    if (r == -EINVAL) /* a little deeper than the body was */
        return api_refuse(error, NULL, "The body, as a chat, is %s.", why.text);
    if (r) {
        api_fail_memory(error);
        return r;
    }
    p->messages = json_object_get(p->translated, "messages");
    if (p->tools)
        p->tools = json_object_get(p->translated, "tools");
    if (json_is_object(p->tool_choice))
        p->tool_choice = json_object_get(p->translated, "tool_choice");
    return 0;
}

int api_responses_translate(ApiParams *p, Account *account, ApiError *error) {
    if (api_responses_check_input(p->input, error) || read_text(p, error) ||
        read_reasoning(p, error) || read_include(p, error) || check_rest(p, error) ||
        check_tools(p, error) || check_choice(p, error))
        return -EINVAL;
    return make_chat(p, account, error);
}

/* words about it */

/* "messages[3].tool_calls[1].function.arguments" is that of an item. */
static void name_message(const ApiParams *p, const char *from, char *to, size_t size) {
    size_t i = 0, call = SIZE_MAX, item;
    const char *end = strchr(from, '.');

    if (sscanf(from, "messages[%zu].tool_calls[%zu]", &i, &call) == 2)
        end = strrchr(from, '.');
    item =
        strchr(from, '[') ? api_responses_find_item(p->instructions, p->input, i, call) : SIZE_MAX;
    if (item == SIZE_MAX)
        text_copy(to, size, "input");
    else
        snprintf(to, size, "input[%zu]%s", item, end ? end : "");
}

/* "tools[1].function.name" has no `function` in between. */
static void name_tool(const char *from, char *to, size_t size) {
    const char *function = strstr(from, ".function");

    if (function)
        snprintf(to, size, "%.*s%s", (int)(function - from), from, function + strlen(".function"));
    else
        text_copy(to, size, from);
}

static void name_place(const ApiParams *p, const char *from, char *to, size_t size) {
    if (!strcmp(from, "messages") || !strncmp(from, "messages[", strlen("messages[")))
        name_message(p, from, to, size);
    else if (!strncmp(from, "tools[", strlen("tools[")))
        name_tool(from, to, size);
    else
        text_copy(to, size, from);
}

/* Places stand in backquotes. */
void api_responses_name_places(const ApiParams *p, ApiError *error) {
    Reason told = error->why;
    char place[API_PATH_BYTES], named[API_PATH_BYTES];
    char *out = error->why.text;
    size_t room = sizeof(error->why.text);
    const char *at = told.text;

    if (!p->translated) /* the error is of the body itself */
        return;
    text_copy(place, sizeof(place), error->param);
    name_place(p, place, error->param, sizeof(error->param));
    while (*at && room > 1) {
        size_t n = *at == '`' ? strcspn(at + 1, "`") : 0, n_out;

        if (n && n < sizeof(place) && at[n + 1] == '`') {
            api_name_path(place, "%.*s", (int)n, at + 1);
            name_place(p, place, named, sizeof(named));
            snprintf(out, room, "`%s`", named);
            at += n + 2;
        } else {
            n = 1 + strcspn(at + 1, "`");
            snprintf(out, room, "%.*s", (int)n, at);
            at += n;
        }
        n_out = strlen(out);
        out += n_out;
        room -= n_out;
    }
    *out = 0;
}
