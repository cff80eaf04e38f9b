/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_logprobs.h"

#include "util/utf8.h"

#include <math.h>
#include <string.h>

/* JSON has no infinity; this is what vLLM writes for it. */
#define LOGPROB_MIN (-9999.0f)

static const Tokenizer *tokenizer_of(const ApiChoice *choice) {
    return choice->call->job.context.tokenizer;
}

/* A token as text. */
static void name_token(const ApiChoice *choice, uint32_t id, Buffer *bytes, Buffer *name) {
    buffer_clear(bytes);
    buffer_clear(name);
    tokenizer_token_bytes(tokenizer_of(choice), id, bytes);
    if (utf8_is_valid(buffer_text(bytes), bytes->size)) {
        buffer_append(name, buffer_text(bytes), bytes->size);
        return;
    }
    buffer_append_text(name, "bytes:");
    for (size_t i = 0; i < bytes->size; i++)
        buffer_printf(name, "\\x%02x", (unsigned char)bytes->data[i]);
}

static void put_logprob(JsonWriter *w, const char *key, float logprob) {
    if (isnan(logprob))
        json_put_null(w, key);
    else
        json_put_float(w, key, logprob > LOGPROB_MIN ? logprob : LOGPROB_MIN);
}

/* completions */

static size_t count_chars(const char *text, size_t n) {
    size_t n_chars = 0;

    for (size_t i = 0; i < n; i++)
        n_chars += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n_chars;
}

/* How many bytes of the prompt's text this token stands for: none if the text does not have it
 * there (a BOS), and without the space that some tokenizers put before a text. */
static size_t bytes_in_prompt(const ApiChoice *choice, const Buffer *bytes) {
    const Buffer *text = &choice->prompt->text;
    const char *at = buffer_text(text) + choice->n_text_bytes, *token = buffer_text(bytes);
    size_t rest = text->size - choice->n_text_bytes, n = bytes->size;

    if (n <= rest && !memcmp(at, token, n))
        return n;
    if (n && *token == ' ' && n - 1 <= rest && !memcmp(at, token + 1, n - 1))
        return n - 1;
    return 0;
}

static void pass_token(ApiChoice *choice, uint32_t id, bool is_prompt, const Buffer *bytes) {
    size_t n = bytes->size;

    if (!is_prompt) {
        if (!choice->call->job.params.skip_special_tokens ||
            !tokenizer_is_special(tokenizer_of(choice), id))
            choice->n_text_chars += count_chars(buffer_text(bytes), n);
        return;
    }
    n = bytes_in_prompt(choice, bytes);
    choice->n_text_chars +=
        count_chars(buffer_text(&choice->prompt->text) + choice->n_text_bytes, n);
    choice->n_text_bytes += n;
}

static void put_offsets(JsonWriter *w, ApiChoice *choice, const LogprobRun *runs, size_t n_runs) {
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;

    json_begin_array(w, "text_offset");
    for (size_t i = 0; i < n_runs; i++) {
        for (size_t j = 0; j < runs[i].n; j++) {
            buffer_clear(&bytes);
            tokenizer_token_bytes(tokenizer_of(choice), runs[i].items[j].token, &bytes);
            json_put_u64(w, NULL, choice->n_text_chars);
            pass_token(choice, runs[i].items[j].token, runs[i].is_prompt, &bytes);
        }
    }
    json_end_array(w);
}

static void put_tokens(JsonWriter *w, const ApiChoice *choice, const LogprobRun *runs,
                       size_t n_runs) {
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer name = BUFFER_NULL;

    json_begin_array(w, "tokens");
    for (size_t i = 0; i < n_runs; i++) {
        for (size_t j = 0; j < runs[i].n; j++) {
            name_token(choice, runs[i].items[j].token, &bytes, &name);
            json_put_string(w, NULL, buffer_text(&name), name.size);
        }
    }
    json_end_array(w);
}

static void put_token_logprobs(JsonWriter *w, const LogprobRun *runs, size_t n_runs) {
    json_begin_array(w, "token_logprobs");
    for (size_t i = 0; i < n_runs; i++)
        for (size_t j = 0; j < runs[i].n; j++)
            put_logprob(w, NULL, runs[i].items[j].logprob);
    json_end_array(w);
}

static bool is_in_top(const TokenLogprob *logprob) {
    for (uint32_t i = 0; i < logprob->n_top; i++)
        if (logprob->top_tokens[i] == logprob->token)
            return true;
    return false;
}

/* Texts of a token's alternatives, one behind the other. */
typedef struct TopNames {
    Buffer text;
    size_t starts[SAMPLE_TOP_LOGPROBS_MAX + 2]; /* [n + 1] */
    uint32_t n;
} TopNames;

/* Whether the one just added has a text that none before it has. */
static bool top_name_is_new(TopNames *names, const Buffer *name) {
    bool is_new = true;

    for (uint32_t i = 0; i < names->n; i++) {
        size_t start = names->starts[i], n = names->starts[i + 1] - start;

        if (n == name->size && !memcmp(names->text.data + start, buffer_text(name), n))
            is_new = false;
    }
    buffer_append(&names->text, buffer_text(name), name->size);
    names->starts[++names->n] = names->text.size;
    return is_new;
}

/* {"text": logprob}: the best ones, and the token itself. Where two have one text, the better one
 * is written: members of an object must differ. */
static void put_top(JsonWriter *w, const ApiChoice *choice, const TokenLogprob *logprob) {
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer name = BUFFER_NULL;
    TopNames names = { .text = BUFFER_NULL };
    uint32_t n = logprob->n_top;

    json_begin_object(w, NULL);
    for (uint32_t i = 0; i < n + !is_in_top(logprob); i++) {
        name_token(choice, i < n ? logprob->top_tokens[i] : logprob->token, &bytes, &name);
        if (buffer_failed(&names.text) || !top_name_is_new(&names, &name))
            continue;
        json_put_key(w, buffer_text(&name), name.size);
        put_logprob(w, NULL, i < n ? logprob->top_logprobs[i] : logprob->logprob);
    }
    json_end_object(w);
    buffer_deinit(&names.text);
}

void api_put_completion_logprobs(JsonWriter *w, const char *key, ApiChoice *choice,
                                 const LogprobRun *runs, size_t n_runs) {
    json_begin_object(w, key);
    put_offsets(w, choice, runs, n_runs);
    put_token_logprobs(w, runs, n_runs);
    put_tokens(w, choice, runs, n_runs);
    json_begin_array(w, "top_logprobs");
    for (size_t i = 0; i < n_runs; i++) {
        for (size_t j = 0; j < runs[i].n; j++) {
            if (isnan(runs[i].items[j].logprob))
                json_put_null(w, NULL);
            else
                put_top(w, choice, &runs[i].items[j]);
        }
    }
    json_end_array(w);
    json_end_object(w);
}

/* chat */

static void put_chat_token(JsonWriter *w, const ApiChoice *choice, uint32_t id, float logprob) {
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer name = BUFFER_NULL;

    name_token(choice, id, &bytes, &name);
    json_put_string(w, "token", buffer_text(&name), name.size);
    put_logprob(w, "logprob", logprob);
    json_begin_array(w, "bytes");
    for (size_t i = 0; i < bytes.size; i++)
        json_put_u64(w, NULL, (unsigned char)bytes.data[i]);
    json_end_array(w);
}

void api_put_token_logprobs(JsonWriter *w, const char *key, const ApiChoice *choice,
                            const TokenLogprob *logprobs, size_t n) {
    json_begin_array(w, key);
    for (size_t i = 0; i < n; i++) {
        json_begin_object(w, NULL);
        put_chat_token(w, choice, logprobs[i].token, logprobs[i].logprob);
        json_begin_array(w, "top_logprobs");
        for (uint32_t j = 0; j < logprobs[i].n_top; j++) {
            json_begin_object(w, NULL);
            put_chat_token(w, choice, logprobs[i].top_tokens[j], logprobs[i].top_logprobs[j]);
            json_end_object(w);
        }
        json_end_array(w);
        json_end_object(w);
    }
    json_end_array(w);
}

void api_put_chat_logprobs(JsonWriter *w, const char *key, const ApiChoice *choice,
                           const TokenLogprob *logprobs, size_t n) {
    json_begin_object(w, key);
    api_put_token_logprobs(w, "content", choice, logprobs, n);
    json_put_null(w, "refusal");
    json_end_object(w);
}
