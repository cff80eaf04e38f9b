/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api_prompt.h"

#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <string.h>

#define PATH_BYTES_MAX 96

void api_prompts_deinit(ApiPrompts *prompts) {
    for (uint32_t i = 0; i < prompts->n; i++) {
        token_ids_deinit(&prompts->items[i].ids);
        buffer_deinit(&prompts->items[i].text);
    }
    free(prompts->items);
    account_release(prompts->account, prompts->n * sizeof(*prompts->items));
    *prompts = (ApiPrompts)API_PROMPTS_NULL;
}

static int allocate(ApiPrompts *prompts, size_t n, const ApiPromptContext *context,
                    ApiError *error) {
    if (account_charge(context->account, n * sizeof(*prompts->items)))
        return api_fail_memory(error);
    prompts->account = context->account;
    prompts->n = (uint32_t)n;
    prompts->items = calloc(n, sizeof(*prompts->items));
    if (!prompts->items) {
        account_release(context->account, n * sizeof(*prompts->items));
        *prompts = (ApiPrompts)API_PROMPTS_NULL;
        return api_fail_memory(error);
    }
    for (size_t i = 0; i < n; i++)
        prompts->items[i].ids.account = prompts->items[i].text.account = context->account;
    return 0;
}

EncodeOptions api_encode_options(const ApiPromptContext *context, bool add_special) {
    return (EncodeOptions){
        .add_special = add_special,
        .parse_special = true,
        .ids_max = context->ids_max,
        .account = context->account,
    };
}

int api_refuse_text(ApiError *error, const char *name, const ApiPromptContext *context, int r) {
    switch (r) {
    case -ENOMEM:
    case -ECANCELED: /* nobody reads the answer */
        return api_fail_memory(error);
    case -E2BIG:
        return api_fail(error, 400, name, "context_length_exceeded",
                        "The text of `%s` has more than %zu tokens, which is all that this model "
                        "can take of one request here; shorten it.",
                        name, context->ids_max);
    default:
        return api_refuse(error, name, "The text of `%s` cannot be tokenized: %s.", name,
                          r == -EILSEQ ? "it is not UTF-8"
                                       : "it has a word of megabytes, or is too involved");
    }
}

static int encode(ApiPrompt *prompt, const char *name, bool add_special,
                  const ApiPromptContext *context, ApiError *error) {
    EncodeOptions options = api_encode_options(context, add_special);
    int r = buffer_failed(&prompt->text)
                ? -ENOMEM
                : tokenizer_encode(context->tokenizer, buffer_text(&prompt->text),
                                   prompt->text.size, &options, &prompt->ids);

    if (r)
        return api_refuse_text(error, name, context, r);
    if (!prompt->ids.n)
        return api_refuse(error, name, "`%s` is empty: it has no tokens.", name);
    return 0;
}

/* completions */

int api_read_ids(TokenIds *ids, const char *name, const json_t *array, uint32_t n_vocab,
                 ApiError *error) {
    char found[64];
    size_t i;
    const json_t *item;

    if (token_ids_reserve(ids, json_array_size(array)))
        return api_fail_memory(error);
    json_array_foreach(array, i, item) {
        int64_t id;

        if (!json_as_i64(item, 0, (int64_t)n_vocab - 1, &id))
            return api_refuse(error, name,
                              "`%s` holds %s, which is no token id of this model (0 to %u).", name,
                              json_describe(item, found, sizeof(found)), n_vocab - 1);
        token_ids_push(ids, (uint32_t)id);
    }
    return 0;
}

static int take_text(ApiPrompt *prompt, const char *name, const json_t *value, bool add_special,
                     const ApiPromptContext *context, ApiError *error) {
    buffer_append(&prompt->text, json_string_value(value), json_string_length(value));
    return encode(prompt, name, add_special, context, error);
}

static int take_ids(ApiPrompt *prompt, const char *name, const json_t *value,
                    const ApiParams *params, const ApiPromptContext *context, ApiError *error) {
    int r = api_read_ids(&prompt->ids, name, value, context->n_vocab, error);

    if (r)
        return r;
    if (!prompt->ids.n)
        return api_refuse(error, name, "`%s` is empty: it has no tokens.", name);
    if (!params->echo)
        return 0;
    r = tokenizer_decode(context->tokenizer, prompt->ids.ids, prompt->ids.n,
                         params->skip_special_tokens, &prompt->text);
    return r == -ENOMEM || buffer_failed(&prompt->text) ? api_fail_memory(error) : 0;
}

static int take_one(ApiPrompt *prompt, const char *name, const json_t *value,
                    const ApiParams *params, const ApiPromptContext *context, ApiError *error) {
    char found[64];

    if (json_is_string(value))
        return take_text(prompt, name, value, params->add_special_tokens != 0, context, error);
    if (json_is_array(value))
        return take_ids(prompt, name, value, params, context, error);
    return api_refuse(error, name, "`%s` must be a string or an array of token ids; it is %s.",
                      name, json_describe(value, found, sizeof(found)));
}

int api_prompts_of_completion(ApiPrompts *prompts, const ApiParams *params,
                              const ApiPromptContext *context, ApiError *error) {
    const json_t *prompt = params->prompt, *first = json_array_get(prompt, 0), *item;
    bool is_list = json_is_string(first) || json_is_array(first);
    size_t n = is_list ? json_array_size(prompt) : 1, i;
    int r;

    if (!prompt)
        return api_refuse(error, "prompt", "`prompt` is missing.");
    if (n > context->prompts_max)
        return api_refuse(error, "prompt",
                          "`prompt` holds %zu prompts; at most %u are allowed (option "
                          "max_prompts).",
                          n, context->prompts_max);
    r = allocate(prompts, n, context, error);
    if (r)
        return r;
    if (!is_list)
        return take_one(&prompts->items[0], "prompt", prompt, params, context, error);
    json_array_foreach(prompt, i, item) {
        char name[PATH_BYTES_MAX];

        snprintf(name, sizeof(name), "prompt[%zu]", i);
        r = take_one(&prompts->items[i], name, item, params, context, error);
        if (r)
            return r;
    }
    return 0;
}

/* chat: messages */

/* The request as the template's Python reads it, written member by member: what clients send in
 * several ways has one in there. */
typedef struct ChatText {
    JsonWriter writer;
    Buffer content; /* of the message written last */
    ApiError *error;
} ChatText;

/* The text parts of a content joined by line ends, as templates expect one text (vLLM does so). */
static int join_parts(ChatText *chat, size_t i_message, const json_t *parts) {
    const json_t *part;
    size_t i;

    json_array_foreach(parts, i, part) {
        const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
        char name[PATH_BYTES_MAX], found[64];

        snprintf(name, sizeof(name), "messages[%zu].content[%zu]", i_message, i);
        if (!json_is_string(type))
            return api_refuse(chat->error, name, "`%s` must be an object with a `type`.", name);
        if (!json_string_is(type, "text"))
            return api_refuse(chat->error, name,
                              "`%s` is of type %s; this model reads parts of type \"text\" only.",
                              name, json_describe(type, found, sizeof(found)));
        if (!json_is_string(text))
            return api_refuse(chat->error, name, "`%s.text` must be a string.", name);
        if (i)
            buffer_append_char(&chat->content, '\n');
        buffer_append(&chat->content, json_string_value(text), json_string_length(text));
    }
    return 0;
}

static int put_content(ChatText *chat, size_t i_message, const json_t *content) {
    char name[PATH_BYTES_MAX], found[64];
    int r;

    if (json_is_null(content)) {
        json_put_null(&chat->writer, NULL);
        return 0;
    }
    snprintf(name, sizeof(name), "messages[%zu].content", i_message);
    if (!json_is_array(content) && !json_is_string(content))
        return api_refuse(chat->error, name,
                          "`%s` must be a string or an array of parts; it is %s.", name,
                          json_describe(content, found, sizeof(found)));
    buffer_append(&chat->content, json_string_value(content), json_string_length(content));
    r = join_parts(chat, i_message, content);
    if (!r)
        json_put_string(&chat->writer, NULL, buffer_text(&chat->content), chat->content.size);
    return r;
}

/* Clients send the arguments of a call as the text of a JSON object; templates expect the object
 * (they write it out themselves). */
static int put_arguments(ChatText *chat, const char *name, const json_t *text) {
    CLEANUP(json_unref) json_t *arguments = NULL;
    Reason why;

    if (json_parse(&arguments, json_string_value(text), json_string_length(text), JSON_DECODE_ANY,
                   &why))
        return api_refuse(chat->error, name, "The arguments of `%s` are %s.", name, why.text);
    json_put_value(&chat->writer, NULL, arguments);
    return 0;
}

/* Writes `value`, in which `name` is only for errors: calls, functions and arguments of a message's
 * tool_calls; `key` says which of them. */
static int put_calls(ChatText *chat, const char *name, const json_t *key, const json_t *value) {
    const json_t *member, *item;
    int r = 0;

    if (json_string_is(key, "arguments") && json_is_string(value))
        return put_arguments(chat, name, value);
    if (!json_is_object(value) || json_string_is(key, "arguments")) {
        json_put_value(&chat->writer, NULL, value);
        return 0;
    }
    json_begin_object(&chat->writer, NULL);
    json_object_foreach(value, member, item) {
        json_put_key(&chat->writer, json_string_value(member), json_string_length(member));
        if (json_string_is(member, key ? "arguments" : "function"))
            r = put_calls(chat, name, member, item);
        else
            json_put_value(&chat->writer, NULL, item);
        if (r)
            return r;
    }
    json_end_object(&chat->writer);
    return 0;
}

static int put_tool_calls(ChatText *chat, size_t i_message, const json_t *calls) {
    const json_t *call;
    size_t i;

    if (!json_is_array(calls)) {
        json_put_value(&chat->writer, NULL, calls);
        return 0;
    }
    json_begin_array(&chat->writer, NULL);
    json_array_foreach(calls, i, call) {
        char name[PATH_BYTES_MAX];
        int r;

        snprintf(name, sizeof(name), "messages[%zu].tool_calls[%zu]", i_message, i);
        r = put_calls(chat, name, NULL, call);
        if (r)
            return r;
    }
    json_end_array(&chat->writer);
    return 0;
}

static int put_message(ChatText *chat, size_t i_message, const json_t *message) {
    const json_t *key, *value;

    buffer_clear(&chat->content);
    json_begin_object(&chat->writer, NULL);
    json_object_foreach(message, key, value) {
        int r = 0;

        json_put_key(&chat->writer, json_string_value(key), json_string_length(key));
        if (json_string_is(key, "content"))
            r = put_content(chat, i_message, value);
        else if (json_string_is(key, "tool_calls"))
            r = put_tool_calls(chat, i_message, value);
        else
            json_put_value(&chat->writer, NULL, value);
        if (r)
            return r;
    }
    json_end_object(&chat->writer);
    return 0;
}

static int put_messages(ChatText *chat, const json_t *messages) {
    const json_t *message;
    size_t i;

    if (!json_array_size(messages))
        return api_refuse(chat->error, "messages", "`messages` must hold at least one message.");
    json_begin_array(&chat->writer, "messages");
    json_array_foreach(messages, i, message) {
        char name[PATH_BYTES_MAX];
        int r;

        snprintf(name, sizeof(name), "messages[%zu]", i);
        if (!json_is_string(json_object_get(message, "role")))
            return api_refuse(chat->error, name, "`%s` must be an object with a `role`.", name);
        r = put_message(chat, i, message);
        if (r)
            return r;
    }
    json_end_array(&chat->writer);
    return 0;
}

static int put_request(ChatText *chat, const ApiParams *params) {
    const struct {
        const char *key;
        const json_t *value;
    } others[] = {
        { "tools", params->tools },
        { "documents", params->documents },
        { "kwargs", params->template_kwargs },
    };
    bool add_prompt = params->add_generation_prompt < 0 ? !params->continue_final_message
                                                        : params->add_generation_prompt;
    int r;

    json_begin_object(&chat->writer, NULL);
    r = put_messages(chat, params->messages);
    if (r)
        return r;
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        json_put_value(&chat->writer, others[i].key, others[i].value);
    json_put_bool(&chat->writer, "add_generation_prompt", add_prompt);
    json_end_object(&chat->writer);
    return 0;
}

/* chat: the template */

static int render(Buffer *out, const Buffer *request, const ApiPromptContext *context,
                  ApiError *error) {
    Reason why = REASON_NULL;

    if (buffer_failed(request))
        return api_fail_memory(error);
    switch (chat_template_render(context->chat_template, request->data, request->size, out, &why)) {
    case 0:
        return buffer_failed(out) ? api_fail_memory(error) : 0;
    case CHAT_TEMPLATE_E_RAISED:
        return api_refuse(error, "messages", "The model's chat template refused: %s", why.text);
    case CHAT_TEMPLATE_E_LIMIT:
        return api_refuse(error, "messages", "The model's chat template was stopped: %s", why.text);
    case -ENOMEM:
        return api_fail_memory(error);
    default:
        return api_fail(error, 500, NULL, NULL, "The chat template could not be run: %s", why.text);
    }
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts the prompt behind the last message's text, so that the model goes on with it; spaces at the
 * text's ends may be the template's to keep or drop. */
static int cut_behind_final_message(Buffer *prompt, const Buffer *content, ApiError *error) {
    const char *text = buffer_text(content), *found = NULL, *from;
    size_t n = content->size, n_whole;

    for (; n && is_space(*text); text++)
        n--;
    n_whole = n;
    while (n && is_space(text[n - 1]))
        n--;
    for (from = prompt->data; n && from;) {
        const char *next = memmem(from, prompt->size - (size_t)(from - prompt->data), text, n);

        if (!next)
            break;
        found = next;
        from = next + 1;
    }
    if (!found)
        return api_refuse(error, "continue_final_message",
                          "The final message has no text, or the chat template does not show it: "
                          "there is nothing to continue.");
    if (prompt->size - (size_t)(found - prompt->data) >= n_whole && !memcmp(found, text, n_whole))
        n = n_whole;
    prompt->size = (size_t)(found - prompt->data) + n;
    prompt->data[prompt->size] = 0;
    return 0;
}

int api_prompts_of_chat(ApiPrompts *prompts, const ApiParams *params,
                        const ApiPromptContext *context, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer request = BUFFER_NULL;
    ChatText chat = { .writer = JSON_WRITER(&request), .error = error };
    Buffer *text;
    int r;

    if (!params->messages)
        return api_refuse(error, "messages", "`messages` is missing.");
    if (!context->chat_template)
        return api_refuse(error, "messages",
                          "This model has no chat template; use /v1/completions, or start the "
                          "server with the option chat_template.");
    r = put_request(&chat, params);
    if (!r)
        r = allocate(prompts, 1, context, error);
    if (r)
        goto out;
    text = &prompts->items[0].text;
    r = render(text, &request, context, error);
    if (!r && params->continue_final_message)
        r = cut_behind_final_message(text, &chat.content, error);
    if (!r)
        r = encode(&prompts->items[0], "messages", params->add_special_tokens > 0, context, error);
out:
    buffer_deinit(&chat.content);
    return r;
}
