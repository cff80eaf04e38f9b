/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_turn.h"

#include "server/api/api_tools.h"

#include <errno.h>

/* preparing, on the pool */

/* How the answer is to be read; the prompt may have begun its reasoning. */
static void note_prompt(ApiCall *call) {
    const Buffer *prompt = &call->job.prompts.items[0].text;
    bool continues = call->job.params.continue_final_message;

    if (call->forms.reasoning)
        call->forms.reasoning_begun = (continues ? reasoning_is_open : reasoning_is_begun)(
            call->forms.reasoning, buffer_text(prompt), prompt->size);
}

int api_turn_prepare(ApiJob *job) {
    ApiCall *call = container_of(job, ApiCall, job);
    const ApiModel *model = &job->api->model;
    int r = api_tools_choose_forms(&call->forms, &model->forms, model->grammars != NULL,
                                   &job->params, &job->error);

    if (!r)
        r = api_prompts_of_chat(&job->prompts, &job->params, &job->context, &job->error);
    if (r)
        return r;
    note_prompt(call);
    return api_call_prepare(call);
}

/* reading */

typedef struct Reader {
    ApiChoice *choice;
    ApiTurnSink sink;
    void *userdata;
} Reader;

/* Whether the answer is to have it; ends the choice behind its only call. */
static bool is_wanted(ApiChoice *choice, const OutputEvent *event) {
    const ApiParams *params = &choice->call->job.params;
    bool is_first = event->kind <= OUTPUT_REASONING || !event->call;

    if (choice->is_enough || (event->kind == OUTPUT_REASONING && !params->include_reasoning))
        return false;
    if (!params->parallel_tool_calls && event->kind == OUTPUT_CALL_END)
        api_choice_end(choice);
    return is_first || params->parallel_tool_calls;
}

static int take_piece(void *userdata, const OutputEvent *event) {
    const Reader *reader = userdata;

    return is_wanted(reader->choice, event) ? reader->sink(reader->choice, event, reader->userdata)
                                            : 0;
}

int api_turn_read(ApiChoice *choice, const EngineEvent *event, ApiTurnSink sink, void *userdata) {
    Reader reader = { .choice = choice, .sink = sink, .userdata = userdata };

    if (choice->is_enough)
        return 0;
    return api_output_push(&choice->output, &event->text, event->n_tokens,
                           event->finish != FINISH_NONE, take_piece, &reader);
}

int api_turn_keep_piece(ApiChoice *choice, const OutputEvent *event, void *userdata) {
    (void)userdata;
    if (event->kind != OUTPUT_CONTENT)
        return api_output_keep(&choice->output, event);
    buffer_append(&choice->text, event->text, event->size);
    return buffer_failed(&choice->text) ? -ENOMEM : 0;
}

int api_turn_keep(ApiChoice *choice, const EngineEvent *event) {
    return api_turn_read(choice, event, api_turn_keep_piece, NULL);
}
