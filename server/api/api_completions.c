/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/completions.
 */
#include "server/api/api_choices.h"
#include "server/api/api_logprobs.h"

#include <errno.h>

#define MAX_TOKENS_DEFAULT 16 /* OpenAI's */

static int prepare(ApiJob *job) {
    int r = api_prompts_of_completion(&job->prompts, &job->params, &job->context, &job->error);

    return r ? r : api_call_prepare(container_of(job, ApiCall, job));
}

static bool wants_logprobs(const ApiChoice *choice) {
    return choice->call->job.params.n_logprobs >= 0;
}

static void put_choice(JsonWriter *w, ApiChoice *choice) {
    CLEANUP(buffer_deinit) Buffer text = { .account = choice->call->job.account };
    LogprobRun runs[] = { { choice->prompt_logprobs, choice->n_prompt_logprobs, true },
                          { .is_prompt = false } };

    runs[1].items = api_choice_logprobs(choice, &runs[1].n);
    if (choice->call->job.params.echo)
        buffer_append(&text, buffer_text(&choice->prompt->text), choice->prompt->text.size);
    buffer_append(&text, buffer_text(&choice->text), choice->text.size);
    if (buffer_failed(&text))
        w->out->failed = true;

    json_put_u64(w, "index", choice->index);
    json_put_string(w, "text", buffer_text(&text), text.size);
    if (wants_logprobs(choice))
        api_put_completion_logprobs(w, "logprobs", choice, runs, 2);
    else
        json_put_null(w, "logprobs");
    json_put_text(w, "finish_reason", api_choices_finish_text(choice->finish));
    api_choices_put_stop_reason(w, choice);
}

static void put_chunk(JsonWriter *w, ApiChoice *choice, const Buffer *text, const LogprobRun *run) {
    json_put_u64(w, "index", choice->index);
    json_put_string(w, "text", buffer_text(text), text->size);
    if (wants_logprobs(choice))
        api_put_completion_logprobs(w, "logprobs", choice, run, 1);
    else
        json_put_null(w, "logprobs");
}

/* `echo`: the prompt comes first, in a chunk of its own. */
static void stream_prompt(ApiChoice *choice, const EngineEvent *event) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);
    LogprobRun run = { event->prompt_logprobs, event->n_prompt_logprobs, true };

    api_choices_begin_chunk(choice->call, &w);
    put_chunk(&w, choice, &choice->prompt->text, &run);
    json_put_null(&w, "finish_reason");
    json_put_null(&w, "stop_reason");
    api_choices_send_chunk(choice, &w, 0);
}

static void stream_event(ApiChoice *choice, const EngineEvent *event) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);
    LogprobRun run = { event->logprobs, event->logprobs ? event->n_tokens : 0, false };

    if (choice->call->job.params.echo && !choice->begun)
        stream_prompt(choice, event);
    choice->begun = true;
    if (!event->text.size && !run.n && event->finish == FINISH_NONE)
        return;
    api_choices_begin_chunk(choice->call, &w);
    put_chunk(&w, choice, &event->text, &run);
    json_put_text(&w, "finish_reason", api_choices_finish_text(event->finish));
    api_choices_put_stop_reason(&w, choice);
    api_choices_send_chunk(choice, &w, event->n_output);
}

static int keep_text(ApiChoice *choice, const EngineEvent *event) {
    buffer_append(&choice->text, buffer_text(&event->text), event->text.size);
    return buffer_failed(&choice->text) ? -ENOMEM : 0;
}

const ApiChoicesKind api_completions = {
    .call = { .job = { .endpoint = API_COMPLETIONS,
                       .size = sizeof(ApiCall),
                       .prepare = prepare,
                       .run = api_call_run,
                       .cancel = api_call_cancel,
                       .deinit = api_call_deinit },
              .id_prefix = "cmpl-",
              .prompt_param = "prompt",
              .default_max_tokens = MAX_TOKENS_DEFAULT,
              .put_answer = api_choices_put_answer,
              .keep_text = keep_text,
              .stream_event = stream_event,
              .end_stream = api_choices_end_stream },
    .object = "text_completion",
    .chunk_object = "text_completion",
    .put_choice = put_choice,
};
