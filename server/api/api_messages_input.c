/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chat is written as text into a Buffer and read from there, so that it is a tree like any that
 * came from outside. What may be wrong with the body was seen before (api_messages_check.h), so
 * writing it fails for want of memory only.
 */
#include "server/api/api_messages_input.h"

#include "server/api/api_messages_check.h"
#include "util/json_writer.h"

#include <errno.h>
#include <string.h>

typedef struct Writing {
    JsonWriter json;
    Account *account;
} Writing;

/* Messages of one role that follow each other. */
typedef struct Turn {
    const json_t *first;
    size_t n;
} Turn;

/* The blocks of a turn, one by one. */
typedef struct Walk {
    const json_t *message, *block; /* the next ones */
    size_t n_messages, n_blocks;   /* that come */
} Walk;

static bool is_given(const json_t *value) {
    return value && !json_is_null(value);
}

static Walk walk_begin(const Turn *turn) {
    return (Walk){ .message = turn->first, .n_messages = turn->n };
}

/* A block, or a string, which is a block of text; NULL behind the last. */
static const json_t *walk_next(Walk *walk) {
    const json_t *found;

    while (!walk->n_blocks) {
        if (!walk->n_messages)
            return NULL;
        walk->n_messages--;
        found = json_object_get(walk->message, "content");
        walk->message = json_next(walk->message);
        if (json_is_string(found))
            return found;
        walk->n_blocks = json_array_size(found);
        walk->block = json_first(found);
    }
    walk->n_blocks--;
    found = walk->block;
    walk->block = json_next(found);
    return found;
}

static bool is_block(const json_t *block, const char *type) {
    return json_string_is(json_object_get(block, "type"), type);
}

/* The text of a string or a block of text; NULL: it is neither. */
static const json_t *text_of(const json_t *block) {
    if (json_is_string(block))
        return block;
    return is_block(block, "text") ? json_object_get(block, "text") : NULL;
}

static bool has_block(const Turn *turn, const char *type) {
    Walk walk = walk_begin(turn);
    const json_t *block;

    while ((block = walk_next(&walk)))
        if (is_block(block, type))
            return true;
    return false;
}

/* texts */

static void append_string(Buffer *out, const json_t *string) {
    buffer_append(out, json_string_value(string), json_string_length(string));
}

static void put_buffer(Writing *w, const char *key, const Buffer *text) {
    json_put_string(&w->json, key, buffer_text(text), text->size);
    if (buffer_failed(text))
        w->json.out->failed = true;
}

static void begin_message(Writing *w, const char *role) {
    json_begin_object(&w->json, NULL);
    json_put_text(&w->json, "role", role);
}

static void put_part(Writing *w, const json_t *text) {
    json_begin_object(&w->json, NULL);
    json_put_text(&w->json, "type", "text");
    json_put_value(&w->json, "text", text);
    json_end_object(&w->json);
}

/* `content`: a string or blocks, the texts of which are its parts. */
static void put_content(Writing *w, const json_t *content) {
    const json_t *block;
    size_t i;

    if (json_is_string(content)) {
        json_put_value(&w->json, "content", content);
        return;
    }
    json_begin_array(&w->json, "content");
    json_array_foreach(content, i, block)
        if (text_of(block))
            put_part(w, text_of(block));
    json_end_array(&w->json);
}

/* The same of all messages of a turn. */
static void put_turn_content(Writing *w, const Turn *turn) {
    Walk walk = walk_begin(turn);
    const json_t *block;

    if (turn->n == 1) {
        put_content(w, json_object_get(turn->first, "content"));
        return;
    }
    json_begin_array(&w->json, "content");
    while ((block = walk_next(&walk)))
        if (text_of(block))
            put_part(w, text_of(block));
    json_end_array(&w->json);
}

static bool has_text(const json_t *content) {
    const json_t *block;
    size_t i, n_bytes = json_string_length(content);

    json_array_foreach(content, i, block)
        n_bytes += json_string_length(text_of(block));
    return n_bytes > 0;
}

static void put_system(Writing *w, const json_t *system) {
    if (!has_text(system))
        return;
    begin_message(w, "system");
    put_content(w, system);
    json_end_object(&w->json);
}

/* what the user says */

/* Chats have no word for a tool that failed, but its result can say so. */
static void put_failure(Writing *w, const json_t *content) {
    CLEANUP(buffer_deinit) Buffer text = { .account = w->account };
    const json_t *block;
    size_t i;

    buffer_append_text(&text, "Error: ");
    append_string(&text, content);
    json_array_foreach(content, i, block) {
        if (i)
            buffer_append_char(&text, '\n');
        append_string(&text, text_of(block));
    }
    put_buffer(w, "content", &text);
}

static void put_result(Writing *w, const json_t *block) {
    const json_t *content = json_object_get(block, "content");

    begin_message(w, "tool");
    json_put_value(&w->json, "tool_call_id", json_object_get(block, "tool_use_id"));
    if (json_is_true(json_object_get(block, "is_error")))
        put_failure(w, content);
    else if (is_given(content))
        put_content(w, content);
    else
        json_put_text(&w->json, "content", "");
    json_end_object(&w->json);
}

/* Results are messages of tools; texts between them are messages of the user. */
static void put_user(Writing *w, const Turn *turn) {
    Walk walk = walk_begin(turn);
    const json_t *block;
    bool is_open = false;

    while ((block = walk_next(&walk))) {
        bool is_text = text_of(block) != NULL;

        if (is_text && !is_open) {
            begin_message(w, "user");
            json_begin_array(&w->json, "content");
        } else if (!is_text && is_open) {
            json_end_array(&w->json);
            json_end_object(&w->json);
        }
        if (is_text)
            put_part(w, text_of(block));
        else
            put_result(w, block);
        is_open = is_text;
    }
    if (!is_open)
        return;
    json_end_array(&w->json);
    json_end_object(&w->json);
}

/* what the assistant said */

static void put_thoughts(Writing *w, const Turn *turn) {
    CLEANUP(buffer_deinit) Buffer text = { .account = w->account };
    Walk walk = walk_begin(turn);
    const json_t *block;

    while ((block = walk_next(&walk))) {
        if (!is_block(block, "thinking"))
            continue;
        if (text.size)
            buffer_append_char(&text, '\n');
        append_string(&text, json_object_get(block, "thinking"));
    }
    put_buffer(w, "reasoning_content", &text);
}

static void put_call(Writing *w, const json_t *block) {
    CLEANUP(buffer_deinit) Buffer arguments = { .account = w->account };

    json_begin_object(&w->json, NULL);
    json_put_value(&w->json, "id", json_object_get(block, "id"));
    json_put_text(&w->json, "type", "function");
    json_begin_object(&w->json, "function");
    json_put_value(&w->json, "name", json_object_get(block, "name"));
    json_write(json_object_get(block, "input"), &arguments);
    put_buffer(w, "arguments", &arguments);
    json_end_object(&w->json);
    json_end_object(&w->json);
}

static void put_calls(Writing *w, const Turn *turn) {
    Walk walk = walk_begin(turn);
    const json_t *block;

    json_begin_array(&w->json, "tool_calls");
    while ((block = walk_next(&walk)))
        if (is_block(block, "tool_use"))
            put_call(w, block);
    json_end_array(&w->json);
}

static bool says_text(const Turn *turn) {
    Walk walk = walk_begin(turn);
    const json_t *block;

    while ((block = walk_next(&walk)))
        if (text_of(block))
            return true;
    return false;
}

static void put_assistant(Writing *w, const Turn *turn) {
    begin_message(w, "assistant");
    if (says_text(turn))
        put_turn_content(w, turn);
    else
        json_put_null(&w->json, "content");
    if (has_block(turn, "thinking"))
        put_thoughts(w, turn);
    if (has_block(turn, "tool_use"))
        put_calls(w, turn);
    json_end_object(&w->json);
}

/* turns */

static void put_turn(Writing *w, const Turn *turn) {
    const json_t *role = json_object_get(turn->first, "role");

    if (json_string_is(role, "assistant")) {
        put_assistant(w, turn);
        return;
    }
    if (has_block(turn, "tool_result")) {
        put_user(w, turn);
        return;
    }
    begin_message(w, json_string_value(role));
    put_turn_content(w, turn);
    json_end_object(&w->json);
}

static void put_messages(Writing *w, const ApiParams *p) {
    Turn turn = { .n = 0 };
    const json_t *message;
    size_t i;

    json_begin_array(&w->json, "messages");
    put_system(w, p->system);
    json_array_foreach(p->messages, i, message) {
        const json_t *role = json_object_get(message, "role");

        if (turn.n && !json_equal(role, json_object_get(turn.first, "role"))) {
            put_turn(w, &turn);
            turn.n = 0;
        }
        if (!turn.n++)
            turn.first = message;
    }
    put_turn(w, &turn);
    json_end_array(&w->json);
}

/* tools */

static void put_member(Writing *w, const char *key, const json_t *value) {
    if (is_given(value))
        json_put_value(&w->json, key, value);
}

static void put_tools(Writing *w, const json_t *tools) {
    const json_t *tool;
    size_t i;

    json_begin_array(&w->json, "tools");
    json_array_foreach(tools, i, tool) {
        json_begin_object(&w->json, NULL);
        json_put_text(&w->json, "type", "function");
        json_begin_object(&w->json, "function");
        put_member(w, "name", json_object_get(tool, "name"));
        put_member(w, "description", json_object_get(tool, "description"));
        put_member(w, "parameters", json_object_get(tool, "input_schema"));
        put_member(w, "strict", json_object_get(tool, "strict"));
        json_end_object(&w->json);
        json_end_object(&w->json);
    }
    json_end_array(&w->json);
}

static void put_choice(Writing *w, const json_t *choice) {
    const json_t *type = json_object_get(choice, "type");

    if (!json_string_is(type, "tool")) {
        json_put_text(&w->json, "tool_choice",
                      json_string_is(type, "any") ? "required" : json_string_value(type));
        return;
    }
    json_begin_object(&w->json, "tool_choice");
    json_put_text(&w->json, "type", "function");
    json_begin_object(&w->json, "function");
    json_put_value(&w->json, "name", json_object_get(choice, "name"));
    json_end_object(&w->json);
    json_end_object(&w->json);
}

/* thinking */

/* Templates have two names for the switch, and some know the budget. */
static void put_thinking(Writing *w, const json_t *thinking) {
    bool is_on = !is_block(thinking, "disabled");

    json_begin_object(&w->json, "kwargs");
    json_put_bool(&w->json, "enable_thinking", is_on);
    json_put_bool(&w->json, "thinking", is_on);
    put_member(w, "thinking_budget", json_object_get(thinking, "budget_tokens"));
    json_end_object(&w->json);
}

/* all of it */

static int read_chat(ApiParams *p, const Buffer *text, Account *account, ApiError *error) {
    Reason why;
    int r = buffer_failed(text) ? -ENOMEM
                                : json_parse_charged(&p->translated, buffer_text(text), text->size,
                                                     0, account, &why);

    if (r == -EINVAL) /* with what stands around them they pass JSON_DEPTH_MAX */
        return api_refuse(error, "tools", "`tools` are nested too deeply.");
    if (r) {
        api_fail_account(error, account);
        return r;
    }
    p->messages = json_object_get(p->translated, "messages");
    p->tools = json_object_get(p->translated, "tools");
    p->tool_choice = json_object_get(p->translated, "tool_choice");
    p->template_kwargs = json_object_get(p->translated, "kwargs");
    return 0;
}

static int write_chat(ApiParams *p, Account *account, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer text = { .account = account };
    Writing w = { .json = JSON_WRITER(&text), .account = account };

    json_begin_object(&w.json, NULL);
    put_messages(&w, p);
    if (p->tools)
        put_tools(&w, p->tools);
    if (p->tool_choice)
        put_choice(&w, p->tool_choice);
    if (p->thinking)
        put_thinking(&w, p->thinking);
    json_end_object(&w.json);
    return read_chat(p, &text, account, error);
}

/* What chats have parameters of their own for. */
static void set_params(ApiParams *p) {
    const json_t *last = json_array_get(p->messages, json_array_size(p->messages) - 1);
    const json_t *effort = json_object_get(p->output_config, "effort");
    const json_t *format = json_object_get(p->output_config, "format");
    const json_t *is_single = json_object_get(p->tool_choice, "disable_parallel_tool_use");

    p->continue_final_message = json_string_is(json_object_get(last, "role"), "assistant");
    p->parallel_tool_calls = !json_is_true(is_single);
    p->include_reasoning = !is_block(p->thinking, "disabled") &&
                           !json_string_is(json_object_get(p->thinking, "display"), "omitted");
    if (is_given(effort))
        p->reasoning_effort = effort;
    if (is_given(format))
        p->grammar = (ApiGrammar){ .param = "output_config.format",
                                   .kind = GRAMMAR_JSON_SCHEMA,
                                   .value = json_object_get(format, "schema") };
}

int api_messages_translate_counted(ApiParams *p, Account *account, ApiError *error) {
    if (api_messages_check(p, error))
        return -EINVAL;
    set_params(p);
    return write_chat(p, account, error);
}

int api_messages_translate(ApiParams *p, Account *account, ApiError *error) {
    if (p->max_tokens < 0)
        return api_refuse(error, "max_tokens", "`max_tokens` is missing.");
    return api_messages_translate_counted(p, account, error);
}

/* words */

static void replace(char *text, const char *from, const char *to) {
    char *at = strstr(text, from);
    size_t n_from = strlen(from), n_to = strlen(to);

    if (!at)
        return;
    memcpy(at, to, n_to);
    memmove(at + n_to, at + n_from, strlen(at + n_from) + 1);
}

/* Names of the body's own are shorter than those of chats. */
void api_messages_name_places(const ApiParams *p, ApiError *error) {
    static const char *const names[][2] = { { ".function.parameters", ".input_schema" },
                                            { ".function.", "." } };

    (void)p;
    if (!strcmp(error->param, "continue_final_message"))
        api_refuse(error, "messages",
                   "The last of `messages` is the assistant's, to be continued, but has no text "
                   "that the model's chat template shows.");
    for (size_t i = 0; i < 2 && !strncmp(error->param, "tools[", strlen("tools[")); i++) {
        replace(error->param, names[i][0], names[i][1]);
        replace(error->why.text, names[i][0], names[i][1]);
    }
}
