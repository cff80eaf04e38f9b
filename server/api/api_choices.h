/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Answers as OpenAI's completions and chats have them: an object with `choices` and `usage`, whole
 * or in chunks, the last of which is "[DONE]".
 */

#include "server/api/api_call.h"

typedef struct ApiChoicesKind {
    ApiCallKind call; /* first */
    const char *object, *chunk_object;
    /* The members of a whole choice, between its braces. */
    void (*put_choice)(JsonWriter *writer, ApiChoice *choice);
} ApiChoicesKind;

/* Steps of ApiCallKind. */
void api_choices_put_answer(JsonWriter *writer, ApiCall *call);
void api_choices_end_stream(ApiCall *call);

/* A chunk with one choice, whose members `writer` gets between begin and send. With it the client
 * has n_output tokens of the choice. */
void api_choices_begin_chunk(ApiCall *call, JsonWriter *writer);
void api_choices_send_chunk(ApiChoice *choice, JsonWriter *writer, uint32_t n_output);

/* "stop", "length"; NULL while running. */
const char *api_choices_finish_text(FinishReason finish);
void api_choices_put_stop_reason(JsonWriter *writer, const ApiChoice *choice);

extern const ApiChoicesKind api_completions, api_chat;
