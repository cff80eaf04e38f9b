/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and events: the two kinds of message of the engine. Made on one thread, freed on
 * another, never shared.
 */

#include "server/engine/engine.h"

#include <stdlib.h>

EngineRequest *engine_request_new(void) {
    CLEANUP(engine_request_free) EngineRequest *request = calloc(1, sizeof(*request));

    if (!request)
        return NULL;
    list_init(&request->link);
    request->params = (SampleParams)SAMPLE_PARAMS_GREEDY;
    request->n_top_logprobs = request->n_prompt_logprobs = -1;
    request->skip_special_tokens = true;
    request->last_event = calloc(1, sizeof(*request->last_event));
    if (!request->last_event)
        return NULL;
    return TAKE(request);
}

EngineRequest *engine_request_free(EngineRequest *request) {
    if (!request)
        return NULL;
    engine_event_free(request->last_event);
    mask_work_free(request->mask);
    account_release(request->account, request->charged_bytes);
    free(request);
    return NULL;
}

int engine_request_charge(EngineRequest *request, uint64_t n_bytes) {
    int r = account_charge(request->account, n_bytes);

    if (!r)
        request->charged_bytes += n_bytes;
    return r;
}

EngineEvent *engine_event_free(EngineEvent *event) {
    if (!event)
        return NULL;
    free(event->tokens);
    buffer_deinit(&event->text);
    free(event->logprobs);
    free(event->prompt_logprobs);
    free(event);
    return NULL;
}
