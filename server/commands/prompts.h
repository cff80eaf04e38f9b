/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The input of `logits` and `generate`: {"input_ids": [[1, 2, 3], ...]}.
 */

#include "util/cleanup.h"
#include "util/reason.h"

#include <stdint.h>

typedef struct Prompt {
    uint32_t *ids; /* [n], owned */
    uint32_t n;
} Prompt;

typedef struct Prompts {
    Prompt *items; /* [n], owned */
    uint32_t n;
} Prompts;

#define PROMPTS_NULL \
    { .items = NULL }

/* Every prompt has 1 to n_tokens_max ids below n_vocab. -EINVAL says which does not. */
int prompts_read(Prompts *out, const char *path, uint32_t n_vocab, uint32_t n_tokens_max,
                 Reason *why);
/* prompts_read with the bounds of a model, which may then be loaded. */
int prompts_read_for(Prompts *out, const char *path, const char *model_path, Reason *why);
void prompts_deinit(Prompts *prompts);
CLEANUP_DEINIT_DEFINE(Prompts, prompts_deinit);
