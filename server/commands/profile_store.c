/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring is teacher forced over windows of text, with an f16 cache of its own. It stops at the
 * end of the text or after TOKENS_MAX, which make a whole profile, or when its time is over. One
 * that was cut short goes on at the token where it ended: the window's earlier tokens are read
 * again, and the sums go on from what the profile holds. Moments of a few thousand tokens are
 * within a few percent of those of many more.
 */
#include "server/commands/profile_store.h"

#include "model/identity.h"
#include "model/profiler.h"
#include "server/commands/text_tokens.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKENS_MAX 16384
#define WINDOW_TOKENS 2048
#define CHUNK_TOKENS 256

/* paths */

static int find_state_dir(const ProfileStoreOptions *options, Buffer *out, Reason *why) {
    const char *given = options->state_dir ? options->state_dir : getenv("STATE_DIRECTORY");
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

    if (given)
        buffer_append_text(out, given);
    else if (xdg && *xdg)
        buffer_printf(out, "%s/kvasir", xdg);
    else if (home && *home)
        buffer_printf(out, "%s/.local/state/kvasir", home);
    else
        return reason_set(why, -ENOENT,
                          "there is no place to keep the model's profile: give --state-dir, or "
                          "--profile");
    return buffer_failed(out) ? -ENOMEM : 0;
}

int profile_store_path(const ProfileStoreOptions *options, const char *identity, Buffer *out,
                       Reason *why) {
    int r = find_state_dir(options, out, why);

    if (r)
        return r;
    buffer_printf(out, "/%s.profile", identity);
    return buffer_failed(out) ? -ENOMEM : 0;
}

/* Makes every directory that `path` lies in. */
static void make_directories(const char *path) {
    CLEANUP(free) char *copy = strdup(path);

    for (char *p = copy ? strchr(copy + 1, '/') : NULL; p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(copy, 0755); /* saving says what is wrong, if anything is */
        *p = '/';
    }
}

int profile_store_check(const char *path, Reason *why) {
    make_directories(path);
    return output_file_check(path, why);
}

int profile_store_save(const Profile *profile, const char *path, Reason *why) {
    make_directories(path);
    return profile_save(profile, path, why);
}

/* measuring */

static void show_progress(size_t n_done, size_t n_all) {
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\rprofile: %zu of %zu tokens%s", n_done, n_all,
                n_done == n_all ? "\n" : "");
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

/* Goes on after *n_donep tokens until all are read or time is over, but for one chunk at least. */
static int run_text(SessionCache *cache, const TokenIds *tokens, uint64_t time_ms_max,
                    uint64_t *n_donep) {
    size_t n_all = tokens_wanted(tokens), at = *n_donep;
    uint64_t end_ms = clock_ms() + time_ms_max;

    while (at < n_all && (at == *n_donep || clock_ms() < end_ms)) {
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
                       const TokenIds *tokens, uint64_t time_ms_max, uint64_t *n_donep) {
    int r = run_window_until(cache, tokens, *n_donep);

    if (r)
        return r;
    decoder_collect_moments(session->decoder, sums);
    r = run_text(cache, tokens, time_ms_max, n_donep);
    decoder_collect_moments(session->decoder, (DecoderMoments){ 0 });
    return r;
}

/* Takes the profile's sums, in one piece, to the device, goes on, and brings them back if all went
 * well. */
static int measure_on_device(Session *session, SessionCache *cache, DecoderMoments sums,
                             const TokenIds *tokens, uint64_t time_ms_max, Profile *profile) {
    const BackendOps *ops = session->ops;
    size_t bytes = 2 * profile_moments_count(profile) * sizeof(float);
    uint64_t n_done = profile->n_tokens;
    int r;

    r = ops->upload(session->backend, sums.q_moments, profile->q_moments, bytes);
    if (!r)
        r = add_moments(session, cache, sums, tokens, time_ms_max, &n_done);
    if (!r)
        r = ops->download(session->backend, profile->q_moments, sums.q_moments, bytes);
    if (!r)
        profile->n_tokens = n_done;
    return r;
}

static int measure_moments(Session *session, const TokenIds *tokens, uint64_t time_ms_max,
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
                          tokens, time_ms_max, profile);
    session->ops->memory_free(session->backend, memory);
    return r ? reason_set(why, r, "the model could not be run over the text") : 0;
}

static int open_session(Session *session, TokenIds *tokens, const ProfileStoreOptions *options,
                        Reason *why) {
    int r = text_tokens_read(tokens, options->model_path, options->text_path, WINDOW_TOKENS, why);

    return r ? r
             : session_init(session,
                            &(SessionOptions){ .model_path = options->model_path,
                                               .device = options->device,
                                               .n_threads = options->n_threads,
                                               .max_step_tokens = CHUNK_TOKENS,
                                               .max_logit_rows = 1 },
                            why);
}

static const char *text_name(const ProfileStoreOptions *options) {
    return options->text_path ? options->text_path : "built-in";
}

int profile_store_measure(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    KvGeometry geometry;
    int r;

    r = open_session(&session, &tokens, options, why);
    if (r)
        return r;
    geometry = decoder_kv_geometry(session.config);
    r = profile_new(&profile, &geometry);
    if (r)
        return reason_set(why, r, "%s: no profile can be made of this shape of model",
                          options->model_path);
    model_identity(session.checkpoint, profile->identity);
    snprintf(profile->text_name, sizeof(profile->text_name), "%s", text_name(options));
    profile->n_tokens_wanted = tokens_wanted(&tokens);
    r = profiler_weight_norms(profile, session.checkpoint);
    if (r)
        return reason_set(why, r, "out of memory");
    r = measure_moments(&session, &tokens, options->time_ms_max, profile, why);
    if (!r)
        *outp = TAKE(profile);
    return r;
}

int profile_store_continue(Profile *profile, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    char name[PROFILE_TEXT_NAME_BYTES];
    int r;

    snprintf(name, sizeof(name), "%s", text_name(options));
    r = open_session(&session, &tokens, options, why);
    if (r)
        return r;
    if (strcmp(profile->text_name, name) || profile->n_tokens_wanted != tokens_wanted(&tokens))
        return reason_set(
            why, -ESTALE, "it was begun on %" PRIu64 " tokens of %s; this is %zu of %s",
            profile->n_tokens_wanted, profile->text_name, tokens_wanted(&tokens), name);
    return measure_moments(&session, &tokens, options->time_ms_max, profile, why);
}

/* finding */

static int identify(const ProfileStoreOptions *options, char identity[HASH128_HEX_BYTES],
                    KvGeometry *geometry, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    int r = checkpoint_open(&checkpoint, options->model_path, why);

    if (r)
        return r;
    model_identity(checkpoint, identity);
    *geometry = decoder_kv_geometry(checkpoint_config(checkpoint));
    return 0;
}

/* That a profile is not kept is no reason to do without it. */
static void keep(const Profile *profile, const char *path) {
    Reason why = REASON_NULL;

    if (!profile_store_save(profile, path, &why))
        return;
    log_line(LOG_LEVEL_WARNING, "the profile is not kept and will be measured again",
             "reason=\"%s\"", why.text);
    reason_log_origin(&why);
}

static int measure_and_keep(Profile **outp, const ProfileStoreOptions *options, const char *path,
                            Reason *why) {
    int r;

    log_line(LOG_LEVEL_INFO, "measuring the model's profile, once", "model=%s file=%s",
             options->model_path, path);
    r = profile_store_measure(outp, options, why);
    if (!r)
        keep(*outp, path);
    return r;
}

/* Of the kept profile, where it was cut short. One that was begun on another text is taken as it
 * is: somebody made it. */
static void continue_and_keep(Profile *profile, const ProfileStoreOptions *options,
                              const char *path) {
    Reason why = REASON_NULL;

    log_line(LOG_LEVEL_INFO, "going on with the model's profile",
             "model=%s file=%s tokens=%" PRIu64 " wanted=%" PRIu64, options->model_path, path,
             profile->n_tokens, profile->n_tokens_wanted);
    if (!profile_store_continue(profile, options, &why)) {
        keep(profile, path);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "the profile stays cut short", "reason=\"%s\"", why.text);
    reason_log_origin(&why);
}

/* What is kept for this model. */
static int get_kept(Profile **outp, const ProfileStoreOptions *options, const char *path,
                    const char *identity, const KvGeometry *geometry, Reason *why) {
    int r;

    if (access(path, F_OK))
        return measure_and_keep(outp, options, path, why);
    r = profile_load(outp, path, identity, geometry, why);
    if (!r && !profile_is_whole(*outp))
        continue_and_keep(*outp, options, path);
    if (!r || r == -ENOMEM)
        return r;
    /* Ours to mend: nobody asked for this file by name. */
    log_line(LOG_LEVEL_WARNING, "the kept profile is of no use and will be replaced",
             "reason=\"%s\"", why->text);
    reason_log_origin(why);
    *why = (Reason)REASON_NULL;
    return measure_and_keep(outp, options, path, why);
}

int profile_store_get(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    char identity[HASH128_HEX_BYTES];
    KvGeometry geometry;
    int r;

    r = identify(options, identity, &geometry, why);
    if (r)
        return r;
    if (options->path)
        return profile_load(outp, options->path, identity, &geometry, why);
    r = profile_store_path(options, identity, &path, why);
    return r ? r : get_kept(outp, options, buffer_text(&path), identity, &geometry, why);
}
