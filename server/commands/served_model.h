/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Everything of one model that a server needs, loaded step by step. Loading may take long and runs
 * on any thread; what it made is constant afterwards.
 */

#include "config/config.h"
#include "model/checkpoint.h"
#include "server/commands/cache_plan.h"
#include "server/engine/engine.h"
#include "text/chat_template.h"
#include "text/output_parser.h"
#include "text/tokenizer.h"

typedef struct ServedModel {
    Checkpoint *checkpoint;
    Tokenizer *tokenizer;
    ChatTemplate *chat_template; /* NULL: the model has none */
    OutputForms forms;           /* of calls and reasoning */
    const BackendOps *ops;
    Backend *backend;
    CachePlan *plan;         /* owned */
    Profile *profile;        /* owned; NULL where nothing is quantized */
    Engine *engine;          /* not started */
    GrammarEngine *grammars; /* NULL: the program was built without */
    Buffer tokenizer_info;   /* what GET /tokenizer_info answers */
    Buffer plan_text;        /* ledger, plan and expected damage, for people */
    Buffer plan_json;        /* what GET /v1/kv answers */
} ServedModel;

#define SERVED_MODEL_NULL \
    { .checkpoint = NULL }

/* Called before each step with what it is, for people: "loading the weights". */
typedef void (*ServedModelPhaseFn)(const char *phase, void *userdata);

/* `events` is where the engine's events will go, `account` what grammars are charged to; borrowed.
 */
int served_model_load(ServedModel *model, const Config *config, Mailbox *events, Account *account,
                      ServedModelPhaseFn on_phase, void *userdata, Reason *why);
void served_model_unload(ServedModel *model); /* the engine stopped, or never started */
