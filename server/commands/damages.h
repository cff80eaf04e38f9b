/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The second level of a profile: what each format costs in each layer and side.
 *
 * Damages are measured directly for some formats: the model is run with that one side of that one
 * layer in that format, everything else in f16, teacher forced in chunks of one page, and what it
 * predicts is compared with what it does on f16 alone (server/commands/eval.h). Only layers above
 * the changed one are run: below it nothing has changed. Distortions, which need the one layer
 * alone, are measured for all formats, and give the formats without a damage of their own theirs:
 * that of the nearest measured format, times the ratio of distortions.
 */

#include "kvcache/profile.h"
#include "server/commands/session.h"
#include "text/tokenizer.h"

#include <signal.h>

typedef enum DamagesLevel {
    DAMAGES_QUICK, /* 2 bits directly, on 1,024 tokens */
    DAMAGES_FULL,  /* 4, 3 and 2 bits directly, on 4,096 tokens */
} DamagesLevel;

/* Rows of the largest step, and sequences of it: what the session must have been made for. */
#define DAMAGES_STEP_TOKENS (6 * KV_PAGE_TOKENS)
#define DAMAGES_SEQUENCES 6

/* Tokens of one window; windows know nothing of each other. */
#define DAMAGES_WINDOW_TOKENS 2048

typedef struct DamagesOptions {
    DamagesLevel level;
    uint32_t n_tokens_max; /* 0: the level's; in either case fewer if the text is shorter */
    const volatile sig_atomic_t *stop; /* not 0: stop as soon as may be; NULL: never */
    /* Called now and then, and when a layer is done, which is when a profile is worth keeping. Both
     * may be NULL. */
    void (*on_progress)(void *userdata, uint64_t n_done, uint64_t n_all);
    void (*on_layer)(void *userdata, const Profile *profile);
    void *userdata;
} DamagesOptions;

enum {
    _DAMAGES_E_SUCCESS,
    DAMAGES_E_STOPPED,
};

/* Measures what `profile` does not have yet: goes on behind its last layer if what it has was
 * measured in the same way and is not all, else begins anew. The profile gives what keys are
 * rounded by, and must be whole. Gives the same bits on any number of threads, in one go or in
 * pieces. DAMAGES_E_STOPPED: the layers that are done are in the profile. -EINVAL: the text is too
 * short. */
int damages_measure(Profile *profile, Session *session, const TokenIds *tokens,
                    const DamagesOptions *options, Reason *why);
