/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_output.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define ID_LETTERS 24
#define SHORT_ID_LETTERS 9

/* Where in `call_text` things stand. */
typedef struct KeptCall {
    char id[API_CALL_ID_BYTES];
    size_t name_size;
    size_t at, arguments_size; /* of the name; the arguments stand behind it */
} KeptCall;

void api_output_init(ApiOutput *output, const OutputForms *forms, Account *account) {
    *output = (ApiOutput){ .reasoning.account = account,
                           .calls.account = account,
                           .call_text.account = account };
    output_parser_init(&output->parser, forms, account);
}

void api_output_deinit(ApiOutput *output) {
    output_parser_deinit(&output->parser);
    buffer_deinit(&output->reasoning);
    buffer_deinit(&output->calls);
    buffer_deinit(&output->call_text);
}

/* marks that are tokens */

static int keep_marks(const char *const *marks, const Tokenizer *tokenizer, TokenIds *out) {
    int r = 0;

    for (; *marks && !r; marks++) {
        uint32_t id = tokenizer_find_special(tokenizer, *marks, strlen(*marks));

        if (id != TOKEN_NONE)
            r = token_ids_append(out, &id, 1);
    }
    return r;
}

int api_output_kept_tokens(const OutputForms *forms, const Tokenizer *tokenizer, Account *account,
                           TokenIds *out) {
    const ToolFamily *tools = forms->tools;
    const ReasoningFamily *reasoning = forms->reasoning;
    int r = 0;

    out->account = account;
    if (tools) {
        const char *const end[] = { tools->end, NULL };

        r = keep_marks(tools->begins, tokenizer, out);
        if (!r)
            r = keep_marks(tools->other_marks, tokenizer, out);
        if (!r)
            r = keep_marks(end, tokenizer, out);
    }
    if (reasoning && !r)
        r = keep_marks(reasoning->begins, tokenizer, out);
    if (reasoning && !r)
        r = keep_marks(reasoning->ends, tokenizer, out);
    if (reasoning && !r)
        r = keep_marks(reasoning->others, tokenizer, out);
    return r;
}

/* text */

/* Whether tokens were reasoning is known once they are past the start. */
static void count_reasoning(ApiOutput *output, OutputPlace before, uint32_t n_tokens) {
    const OutputParser *parser = &output->parser;

    if (before == OUTPUT_IN_REASONING)
        output->n_reasoning_tokens += n_tokens;
    if (before != OUTPUT_AT_START)
        return;
    output->n_start_tokens += n_tokens;
    if (parser->place != OUTPUT_AT_START && parser->had_reasoning)
        output->n_reasoning_tokens += output->n_start_tokens;
}

int api_output_push(ApiOutput *output, const Buffer *text, uint32_t n_tokens, bool ends,
                    OutputSink sink, void *userdata) {
    OutputPlace before = output->parser.place;
    int r = output_parser_push(&output->parser, buffer_text(text), text->size, sink, userdata);

    count_reasoning(output, before, n_tokens);
    return r || !ends ? r : output_parser_finish(&output->parser, sink, userdata);
}

/* calls */

void api_output_make_id(const ApiOutput *output, char id[API_CALL_ID_BYTES]) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    bool is_short = output->parser.forms.tools->has_short_ids;
    size_t at = is_short ? 0 : strlen("call_"), n = is_short ? SHORT_ID_LETTERS : ID_LETTERS;
    uint8_t random[ID_LETTERS];

    while (getrandom(random, sizeof(random), 0) != sizeof(random))
        ;
    memcpy(id, "call_", at);
    for (size_t i = 0; i < n; i++)
        id[at + i] = letters[random[i] % (sizeof(letters) - 1)];
    id[at + n] = 0;
}

static void begin_call(ApiOutput *output, const OutputEvent *event) {
    KeptCall call = { .at = output->call_text.size, .name_size = event->size };

    api_output_make_id(output, call.id);
    buffer_append(&output->call_text, event->text, event->size);
    buffer_append(&output->calls, &call, sizeof(call));
}

static void add_arguments(ApiOutput *output, const OutputEvent *event) {
    KeptCall *call;

    buffer_append(&output->call_text, event->text, event->size);
    if (buffer_failed(&output->calls))
        return;
    call = (KeptCall *)(void *)(output->calls.data + output->calls.size) - 1;
    call->arguments_size += event->size;
}

int api_output_keep(ApiOutput *output, const OutputEvent *event) {
    switch (event->kind) {
    case OUTPUT_REASONING:
        buffer_append(&output->reasoning, event->text, event->size);
        break;
    case OUTPUT_CALL:
        begin_call(output, event);
        break;
    case OUTPUT_ARGUMENTS:
        add_arguments(output, event);
        break;
    default:
        break;
    }
    return buffer_failed(&output->reasoning) || buffer_failed(&output->calls) ||
                   buffer_failed(&output->call_text)
               ? -ENOMEM
               : 0;
}

size_t api_output_n_calls(const ApiOutput *output) {
    return output->calls.size / sizeof(KeptCall);
}

ApiOutputCall api_output_call(const ApiOutput *output, size_t i) {
    const KeptCall *call = (const KeptCall *)(const void *)output->calls.data + i;
    const char *name = buffer_text(&output->call_text) + call->at;

    return (ApiOutputCall){ .id = call->id,
                            .name = name,
                            .name_size = call->name_size,
                            .arguments = name + call->name_size,
                            .arguments_size = call->arguments_size };
}

/* the members of a chat's message */

static void put_call(JsonWriter *w, const ApiOutputCall *call) {
    json_begin_object(w, NULL);
    json_put_text(w, "id", call->id);
    json_put_text(w, "type", "function");
    json_begin_object(w, "function");
    json_put_string(w, "name", call->name, call->name_size);
    json_put_string(w, "arguments", call->arguments, call->arguments_size);
    json_end_object(w);
    json_end_object(w);
}

void api_output_put(JsonWriter *w, const ApiOutput *output) {
    const Buffer *reasoning = &output->reasoning;
    size_t n_calls = api_output_n_calls(output);

    if (reasoning->size) {
        json_put_string(w, "reasoning_content", reasoning->data, reasoning->size);
        json_put_string(w, "reasoning", reasoning->data, reasoning->size);
    }
    if (!n_calls)
        return;
    json_begin_array(w, "tool_calls");
    for (size_t i = 0; i < n_calls; i++) {
        ApiOutputCall call = api_output_call(output, i);

        put_call(w, &call);
    }
    json_end_array(w);
}
