/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * POST /v1/responses: a call whose answer is OpenAI's response, an object with the items that the
 * model's turn came to. Nothing is stored.
 *
 * Items are kept as they come, of streams, too: the events that end them say all of their text
 * again, and the last event says all items.
 */

#include "server/api/api_call.h"

typedef enum ResponseItemKind {
    RESPONSE_REASONING,
    RESPONSE_MESSAGE,
    RESPONSE_CALL,
} ResponseItemKind;

typedef struct ResponseItem {
    ResponseItemKind kind;
    bool is_open;     /* more of it may come */
    bool is_complete; /* nothing of it is missing; known once it is not open */
    char call_id[API_CALL_ID_BYTES];
    size_t at;            /* in ApiResponse.text */
    size_t name_size;     /* calls: the name stands first, then the arguments */
    size_t size;          /* of the text, or the arguments */
    size_t first_logprob; /* in ApiResponse.logprobs */
    size_t n_logprobs;
} ResponseItem;

typedef struct ApiResponse {
    ApiCall call;      /* first */
    Buffer echo;       /* members of the answer that the request says, as JSON; from preparing on */
    Buffer items;      /* ResponseItem after ResponseItem */
    Buffer text;       /* of all items */
    Buffer logprobs;   /* TokenLogprob after TokenLogprob, of messages */
    Buffer pending;    /* likewise, of tokens that have not come to anything yet */
    uint64_t n_events; /* of a stream, that went out */
} ApiResponse;

typedef enum ResponseStatus {
    RESPONSE_IN_PROGRESS,
    RESPONSE_COMPLETED,
    RESPONSE_INCOMPLETE,
    RESPONSE_FAILED,
} ResponseStatus;

static inline ApiResponse *api_response_of(ApiCall *call) {
    return container_of(call, ApiResponse, call);
}

/* items (api_responses_output.c) */

size_t api_response_n_items(const ApiResponse *response);
ResponseItem *api_response_item(const ApiResponse *response, size_t i);

/* What an engine's event adds, as the events of a stream, too, where `events` is not NULL. 0, or
 * -ENOMEM. */
int api_response_take(ApiChoice *choice, const EngineEvent *event, Buffer *events);

#define RESPONSE_ITEM_ID_BYTES 64
void api_response_item_id(const ApiResponse *response, size_t i, char id[RESPONSE_ITEM_ID_BYTES]);

/* The item; that which has only begun where `is_new`. */
void api_response_put_item(JsonWriter *writer, const char *key, const ApiResponse *response,
                           size_t i, bool is_new);
/* The one part of its content, likewise. */
void api_response_put_part(JsonWriter *writer, const char *key, const ApiResponse *response,
                           size_t i, bool is_new);
void api_response_put_logprobs(JsonWriter *writer, const ApiResponse *response, size_t first,
                               size_t n);
/* The object of the whole answer. */
void api_response_put(JsonWriter *writer, const char *key, const ApiResponse *response,
                      ResponseStatus status);

/* events of streams (api_responses_stream.c): appended to `events` */

void api_response_tell_item(ApiResponse *response, size_t i, Buffer *events);
/* The last item has `size` more bytes of text, and `n` more logprobs. */
void api_response_tell_delta(ApiResponse *response, const char *text, size_t size, size_t n,
                             Buffer *events);
void api_response_tell_end(ApiResponse *response, size_t i, Buffer *events);

/* Steps of ApiCallKind. */
void api_response_stream_event(ApiChoice *choice, const EngineEvent *event);
void api_response_end_stream(ApiCall *call);

extern const ApiCallKind api_responses;
