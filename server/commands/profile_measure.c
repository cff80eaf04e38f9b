/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring is teacher forced over windows of text, with an f16 cache of its own. The first level
 * stops at the end of the text or after TOKENS_MAX, which make it whole, or when its time is over.
 * One that was cut short goes on at the token where it ended: the window's earlier tokens are read
 * again, and the sums go on from what the profile holds. Moments of a few thousand tokens are
 * within a few percent of those of many more.
 */
#include "server/commands/profile_measure.h"

#include "model/identity.h"
#include "model/profiler.h"
#include "server/commands/progress.h"
#include "server/commands/text_tokens.h"
#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX 16384
#define WINDOW_TOKENS DAMAGES_WINDOW_TOKENS
#define CHUNK_TOKENS 256

static_assert(CHUNK_TOKENS <= DAMAGES_STEP_TOKENS, "sessions for damages measure moments, too");

/* When to leave off, though there is more to read. */
typedef struct Limit {
    uint64_t end_ms;                   /* by clock_ms */
    const volatile sig_atomic_t *stop; /* or when this is not 0; may be NULL */
} Limit;

/* moments */

static void show_progress(size_t n_done, size_t n_all) {
    char words[64];

    snprintf(words, sizeof(words), "%zu of %zu tokens", n_done, n_all);
    progress_show(n_done, n_all, words);
}

/* What of the text a whole profile rests on. */
static size_t tokens_wanted(const TokenIds *tokens) {
    return tokens->n < TOKENS_MAX ? tokens->n : TOKENS_MAX;
}

/* One chunk of the text, from token `at` on; windows begin anew. Returns its size in *np. */
static int run_chunk(SessionCache *cache, const TokenIds *tokens, size_t at, size_t end,
                     uint32_t *np) {
    uint32_t n = end - at < CHUNK_TOKENS ? (uint32_t)(end - at) : CHUNK_TOKENS;

    if (at % WINDOW_TOKENS == 0)
        session_cache_reset(cache);
    *np = n;
    return session_step(cache, tokens->ids + at, n);
}

/* What comes before token `end` in its window. */
static int run_window_until(SessionCache *cache, const TokenIds *tokens, size_t end) {
    int r = 0;

    for (size_t at = end / WINDOW_TOKENS * WINDOW_TOKENS; !r && at < end;) {
        uint32_t n;

        r = run_chunk(cache, tokens, at, end, &n);
        at += n;
    }
    return r;
}

static bool is_over(const Limit *limit) {
    return clock_ms() >= limit->end_ms || (limit->stop && *limit->stop);
}

/* Goes on after *n_donep tokens until all are read or the limit is reached, but for one chunk at
 * least. */
static int run_text(SessionCache *cache, const TokenIds *tokens, const Limit *limit,
                    uint64_t *n_donep) {
    size_t n_all = tokens_wanted(tokens), at = *n_donep;

    while (at < n_all && (at == *n_donep || !is_over(limit))) {
        uint32_t n;
        int r = run_chunk(cache, tokens, at, n_all, &n);

        if (r)
            return r;
        at += n;
        show_progress(at, n_all);
    }
    *n_donep = at;
    return 0;
}

/* Has steps add to the sums on the device. */
static int add_moments(Session *session, SessionCache *cache, DecoderMoments sums,
                       const TokenIds *tokens, const Limit *limit, uint64_t *n_donep) {
    int r = run_window_until(cache, tokens, *n_donep);

    if (r)
        return r;
    decoder_collect_moments(session->decoder, sums);
    r = run_text(cache, tokens, limit, n_donep);
    decoder_collect_moments(session->decoder, (DecoderMoments){ 0 });
    return r;
}

/* Takes the profile's sums, in one piece, to the device, goes on, and brings them back if all went
 * well. */
static int measure_on_device(Session *session, SessionCache *cache, DecoderMoments sums,
                             const TokenIds *tokens, const Limit *limit, Profile *profile) {
    const BackendOps *ops = session->ops;
    size_t bytes = 2 * profile_moments_count(profile) * sizeof(float);
    uint64_t n_done = profile->n_tokens;
    int r;

    r = ops->upload(session->backend, sums.q_moments, profile->q_moments, bytes);
    if (!r)
        r = add_moments(session, cache, sums, tokens, limit, &n_done);
    if (!r)
        r = ops->download(session->backend, profile->q_moments, sums.q_moments, bytes);
    if (!r)
        profile->n_tokens = n_done;
    return r;
}

static int measure_moments(Session *session, const TokenIds *tokens, const Limit *limit,
                           Profile *profile, Reason *why) {
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    size_t bytes = profile_moments_count(profile) * sizeof(float);
    DevAddr memory = 0;
    int r;

    r = session_cache_init(&cache, session, WINDOW_TOKENS, NULL, NULL, why);
    if (!r)
        r = session->ops->memory_new(session->backend, &memory, 2 * bytes, "second moments", why);
    if (r)
        return r;
    r = measure_on_device(session, &cache,
                          (DecoderMoments){ .q_moments = memory, .k_covariances = memory + bytes },
                          tokens, limit, profile);
    session->ops->memory_free(session->backend, memory);
    return r ? reason_set(why, r, "the model could not be run over the text") : 0;
}

/* sessions */

static int open_session(Session *session, TokenIds *tokens, const ProfileStoreOptions *options,
                        const SessionOptions *sizes, Reason *why) {
    SessionOptions all = *sizes;
    int r = text_tokens_read(tokens, options->model_path, options->text_path, WINDOW_TOKENS, why);

    all.model_path = options->model_path;
    all.device = options->device;
    all.gpu_memory_bytes = options->gpu_memory_bytes;
    all.n_threads = options->n_threads;
    return r ? r : session_init(session, &all, why);
}

static int open_first_level(Session *session, TokenIds *tokens, const ProfileStoreOptions *options,
                            Reason *why) {
    return open_session(session, tokens, options,
                        &(SessionOptions){ .max_step_tokens = CHUNK_TOKENS, .max_logit_rows = 1 },
                        why);
}

static Limit time_limit(const ProfileStoreOptions *options) {
    return (Limit){ .end_ms = clock_ms() + options->time_ms_max };
}

static const char *text_name(const ProfileStoreOptions *options) {
    return options->text_path ? options->text_path : PROFILE_BUILTIN_TEXT;
}

/* Of the session's model, with norms and without moments. */
static int begin_profile(Profile **outp, const Session *session, const TokenIds *tokens,
                         const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(profile_free) Profile *profile = NULL;
    KvGeometry geometry = decoder_kv_geometry(session->config);
    int r;

    r = profile_new(&profile, &geometry);
    if (r)
        return reason_set(why, r, "%s: no profile can be made of this shape of model",
                          options->model_path);
    model_identity(session->checkpoint, profile->identity);
    snprintf(profile->text_name, sizeof(profile->text_name), "%s", text_name(options));
    profile->n_tokens_wanted = tokens_wanted(tokens);
    r = profiler_weight_norms(profile, session->checkpoint);
    if (r)
        return reason_set(why, r, "%s: the norms of its weights cannot be had: %s",
                          options->model_path,
                          r == -ERANGE ? "there are weights that are not finite" : strerror(-r));
    *outp = TAKE(profile);
    return 0;
}

/* -ESTALE: it was begun on another text. */
static int check_text(const Profile *profile, const TokenIds *tokens,
                      const ProfileStoreOptions *options, Reason *why) {
    char name[PROFILE_TEXT_NAME_BYTES];

    snprintf(name, sizeof(name), "%s", text_name(options));
    if (!strcmp(profile->text_name, name) && profile->n_tokens_wanted == tokens_wanted(tokens))
        return 0;
    return reason_set(why, -ESTALE, "it was begun on %" PRIu64 " tokens of %s; this is %zu of %s",
                      profile->n_tokens_wanted, profile->text_name, tokens_wanted(tokens), name);
}

int profile_measure(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    Limit limit;
    int r;

    r = open_first_level(&session, &tokens, options, why);
    if (!r)
        r = begin_profile(&profile, &session, &tokens, options, why);
    limit = time_limit(options);
    if (!r)
        r = measure_moments(&session, &tokens, &limit, profile, why);
    if (!r)
        *outp = TAKE(profile);
    return r;
}

int profile_measure_continue(Profile *profile, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    Limit limit;
    int r;

    r = open_first_level(&session, &tokens, options, why);
    if (!r)
        r = check_text(profile, &tokens, options, why);
    limit = time_limit(options);
    return r ? r : measure_moments(&session, &tokens, &limit, profile, why);
}

/* both levels */

/* A profile of this text, new or gone on with, and its first level as far as nobody stops it. */
static int finish_first_level(Profile **profilep, Session *session, const TokenIds *tokens,
                              const ProfileStoreOptions *options, const DamagesOptions *damages,
                              Reason *why) {
    Limit limit = { .end_ms = UINT64_MAX, .stop = damages->stop };
    int r = 0;

    if (*profilep && check_text(*profilep, tokens, options, NULL))
        *profilep = profile_free(*profilep);
    if (!*profilep)
        r = begin_profile(profilep, session, tokens, options, why);
    if (!r && !(*profilep)->has_spectral_norms) /* a file of version 2 */
        r = profiler_weight_norms(*profilep, session->checkpoint);
    if (!r && !profile_is_whole(*profilep))
        r = measure_moments(session, tokens, &limit, *profilep, why);
    if (!r && damages->on_layer)
        damages->on_layer(damages->userdata, *profilep);
    if (!r && !profile_is_whole(*profilep))
        r = DAMAGES_E_STOPPED;
    return r;
}

int profile_measure_levels(Profile **profilep, const ProfileStoreOptions *options,
                           const DamagesOptions *damages, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    int r;

    r = open_session(&session, &tokens, options,
                     &(SessionOptions){ .max_step_tokens = DAMAGES_STEP_TOKENS,
                                        .max_logit_rows = KV_PAGE_TOKENS,
                                        .max_sequences = DAMAGES_SEQUENCES },
                     why);
    if (!r)
        r = finish_first_level(profilep, &session, &tokens, options, damages, why);
    return r ? r : damages_measure(*profilep, &session, &tokens, damages, why);
}
