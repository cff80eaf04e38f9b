/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logits of every token of every prompt, teacher forced, as safetensors. Rows are written as they
 * are computed; the header comes first, since all shapes are known.
 */
#include "server/commands/commands.h"
#include "server/commands/model_run.h"
#include "server/commands/prompts.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int write_header(FILE *file, const Prompts *prompts, uint32_t n_vocab) {
    CLEANUP(buffer_deinit) Buffer head = BUFFER_NULL;
    uint64_t offset = 0, size;
    uint8_t prefix[8];

    for (uint32_t i = 0; i < prompts->n; i++) {
        uint64_t bytes = (uint64_t)prompts->items[i].n * n_vocab * sizeof(float);

        buffer_printf(&head,
                      "%c\"logits.%u\":{\"dtype\":\"F32\",\"shape\":[%u,%u],"
                      "\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                      i ? ',' : '{', i, prompts->items[i].n, n_vocab, offset, offset + bytes);
        offset += bytes;
    }
    buffer_append_text(&head, prompts->n ? "}" : "{}");
    while (head.size % 8)
        buffer_append_char(&head, ' ');
    if (buffer_failed(&head))
        return -ENOMEM;
    size = head.size;
    for (int i = 0; i < 8; i++)
        prefix[i] = (uint8_t)(size >> 8 * i);
    return fwrite(prefix, 1, 8, file) == 8 && fwrite(head.data, 1, head.size, file) == head.size
               ? 0
               : -errno;
}

static int write_prompt(FILE *file, Session *session, SessionCache *cache, const Prompt *prompt,
                        uint32_t chunk, float *rows) {
    size_t n_vocab = session->config->n_vocab;

    session_cache_reset(cache);
    for (uint32_t at = 0; at < prompt->n; at += chunk) {
        uint32_t n = prompt->n - at < chunk ? prompt->n - at : chunk;
        int r = session_step(cache, prompt->ids + at, n);

        for (uint32_t i = 0; !r && i < n; i += KV_PAGE_TOKENS) {
            uint32_t n_rows = n - i < KV_PAGE_TOKENS ? n - i : KV_PAGE_TOKENS;

            r = session_logits(session, i, n_rows, rows);
            if (!r && fwrite(rows, n_vocab * sizeof(*rows), n_rows, file) != n_rows)
                r = -errno;
        }
        if (r)
            return r;
    }
    return 0;
}

static uint32_t longest(const Prompts *prompts) {
    uint32_t n = 1;

    for (uint32_t i = 0; i < prompts->n; i++)
        n = prompts->items[i].n > n ? prompts->items[i].n : n;
    return n;
}

static int write_all(FILE *file, const Config *config, Session *session, SessionCache *cache,
                     const Prompts *prompts, Reason *why) {
    uint32_t chunk = session->options.max_step_tokens;
    CLEANUP(free)
    float *rows = malloc((size_t)KV_PAGE_TOKENS * session->config->n_vocab * sizeof(*rows));
    int r = rows ? write_header(file, prompts, session->config->n_vocab) : -ENOMEM;

    for (uint32_t i = 0; !r && i < prompts->n; i++)
        r = write_prompt(file, session, cache, &prompts->items[i], chunk, rows);
    return r ? reason_set(why, r, "%s: %s", config->output_path, strerror(-r)) : 0;
}

/* Where a prompt is fed at once, one step is as long as the longest. */
static int open_session(const Config *config, Session *session, Prompts *prompts, Reason *why) {
    uint32_t step = config->chunk;
    int r;

    r = model_run_check(config, model_run_spec(config), why);
    if (!r)
        r = prompts_read_for(prompts, config->input_path, config->model, why);
    if (r)
        return r;
    if (!step || step > longest(prompts))
        step = longest(prompts);
    return session_init(session,
                        &(SessionOptions){ .model_path = config->model,
                                           .device = config->device,
                                           .gpu_memory_bytes = config->gpu_memory_bytes,
                                           .n_threads = config->n_threads,
                                           .max_step_tokens = step,
                                           .max_logit_rows = KV_PAGE_TOKENS },
                        why);
}

static int run(const Config *config, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(prompts_deinit) Prompts prompts = PROMPTS_NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    CLEANUP(output_file_deinit) OutputFile file = OUTPUT_FILE_NULL;
    KvPlan plan;
    int r;

    r = output_file_open(&file, config->output_path, why);
    if (!r)
        r = open_session(config, &session, &prompts, why);
    if (!r)
        r = model_run_plan(config, model_run_spec(config), session.config->n_layers, &plan,
                           &profile, why);
    if (!r)
        r = session_cache_init(&cache, &session, longest(&prompts), &plan, profile, why);
    if (!r)
        r = write_all(file.stream, config, &session, &cache, &prompts, why);
    return r ? r : output_file_commit(&file, why);
}

int cmd_logits(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
