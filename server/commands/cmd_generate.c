/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Greedy continuations of token ids, one prompt after another, without the scheduler: the plainest
 * way to ask a model, to compare others with.
 */
#include "server/commands/commands.h"
#include "server/commands/model_run.h"
#include "server/commands/prompts.h"

#include "text/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef struct Generation {
    const Config *config;
    Session *session;
    SessionCache *cache;
    float *logits; /* [n_vocab] */
} Generation;

static bool is_eos(const Generation *g, uint32_t token) {
    const GenerationDefaults *defaults = checkpoint_generation(g->session->checkpoint);

    for (uint32_t i = 0; !g->config->ignore_eos && i < defaults->n_eos_ids; i++)
        if (defaults->eos_ids[i] == token)
            return true;
    return false;
}

static int feed(Generation *g, const uint32_t *ids, uint32_t n, uint32_t *nextp) {
    uint32_t chunk = g->session->options.max_step_tokens, n_now = 0;
    int r = 0;

    for (uint32_t at = 0; !r && at < n; at += n_now) {
        n_now = n - at < chunk ? n - at : chunk;
        r = session_step(g->cache, ids + at, n_now);
    }
    if (!r)
        r = session_logits(g->session, n_now - 1, 1, g->logits);
    if (!r)
        *nextp = session_argmax(g->logits, g->session->config->n_vocab);
    return r;
}

/* Prints {"ids": [...]}: what follows the prompt, with the token that ended it. */
static int generate(Generation *g, const Prompt *prompt) {
    uint32_t token = 0, n = 0;
    int r;

    session_cache_reset(g->cache);
    r = feed(g, prompt->ids, prompt->n, &token);
    if (r)
        return r;
    printf("{\"ids\": [%u", token);
    while (!r && ++n < g->config->max_tokens && !is_eos(g, token) &&
           g->cache->n_tokens < g->cache->n_tokens_max) {
        r = feed(g, &token, 1, &token);
        if (!r)
            printf(", %u", token);
    }
    printf("]}\n");
    return r;
}

/* The longest prompt with its answer, as far as the model goes. */
static uint32_t tokens_needed(const Config *config, const Session *session, const Prompts *p) {
    uint64_t most = 1;

    for (uint32_t i = 0; i < p->n; i++)
        if (p->items[i].n + (uint64_t)config->max_tokens > most)
            most = p->items[i].n + (uint64_t)config->max_tokens;
    return most < session->config->max_position ? (uint32_t)most : session->config->max_position;
}

static int run(const Config *config, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(prompts_deinit) Prompts prompts = PROMPTS_NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    CLEANUP(free) float *logits = NULL;
    KvPlan plan;
    Generation g;
    int r;

    r = model_run_check(config, model_run_spec(config), why);
    if (!r)
        r = prompts_read_for(&prompts, config->input_path, config->model, why);
    if (!r)
        r = session_init(&session,
                         &(SessionOptions){ .model_path = config->model,
                                            .device = config->device,
                                            .gpu_memory_bytes = config->gpu_memory_bytes,
                                            .n_threads = config->n_threads,
                                            .max_step_tokens = config->chunk
                                                                   ? config->chunk
                                                                   : MODEL_RUN_STEP_TOKENS,
                                            .max_logit_rows = 1 },
                         why);
    if (!r)
        r = model_run_plan(config, model_run_spec(config), session.config->n_layers, &plan,
                           &profile, why);
    if (!r)
        r = session_cache_init(&cache, &session, tokens_needed(config, &session, &prompts), &plan,
                               profile, why);
    if (r)
        return r;
    logits = malloc(session.config->n_vocab * sizeof(*logits));
    if (!logits)
        return reason_set(why, -ENOMEM, "out of memory");
    g = (Generation){ .config = config, .session = &session, .cache = &cache, .logits = logits };
    for (uint32_t i = 0; !r && i < prompts.n; i++)
        r = generate(&g, &prompts.items[i]);
    return r ? reason_set(why, r, "the model could not be run: %s", strerror(-r)) : 0;
}

int cmd_generate(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
