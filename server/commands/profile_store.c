/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring is teacher forced over windows of text, with an f16 cache of its own. It stops at the
 * end of the text, after TOKENS_MAX, or when its time is over, whichever comes first; moments of a
 * few thousand tokens are within a few percent of those of many more.
 */
#include "server/commands/profile_store.h"

#include "model/identity.h"
#include "model/profiler.h"
#include "server/commands/text_tokens.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/output_file.h"

#include <errno.h>
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

/* Feeds the tokens; returns how many were read in time in *n_readp. */
static int run_text(SessionCache *cache, const TokenIds *tokens, uint64_t time_ms_max,
                    size_t *n_readp) {
    size_t n_all = tokens->n < TOKENS_MAX ? tokens->n : TOKENS_MAX, n_done = 0;
    uint64_t end_ms = clock_ms() + time_ms_max;

    while (n_done < n_all && (!n_done || clock_ms() < end_ms)) {
        uint32_t n = n_all - n_done < CHUNK_TOKENS ? (uint32_t)(n_all - n_done) : CHUNK_TOKENS;
        int r;

        if (cache->n_tokens + n > cache->n_tokens_max)
            session_cache_reset(cache);
        r = session_step(cache, tokens->ids + n_done, n);
        if (r)
            return r;
        n_done += n;
        show_progress(n_done, n_all);
    }
    *n_readp = n_done;
    return 0;
}

static int measure_moments(Session *session, const TokenIds *tokens, uint64_t time_ms_max,
                           Profile *profile, Reason *why) {
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    size_t n = profile_moments_count(profile), n_read = 0;
    DevAddr moments = 0;
    int r;

    r = session_cache_init(&cache, session, WINDOW_TOKENS, NULL, NULL, why);
    if (!r)
        r = session->ops->memory_new(session->backend, &moments, n * sizeof(float),
                                     "second moments", why);
    if (r)
        return r;
    decoder_collect_moments(session->decoder, moments);
    r = run_text(&cache, tokens, time_ms_max, &n_read);
    decoder_collect_moments(session->decoder, 0);
    if (!r)
        r = session->ops->download(session->backend, profile->q_moments, moments,
                                   n * sizeof(float));
    session->ops->memory_free(session->backend, moments);
    if (r)
        return reason_set(why, r, "the model could not be run over the text");
    for (size_t i = 0; i < n; i++)
        profile->q_moments[i] /=
            (float)n_read * (float)session->config->n_heads / (float)session->config->n_kv_heads;
    profile->n_tokens = n_read;
    return 0;
}

int profile_store_measure(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    KvGeometry geometry;
    int r;

    r = text_tokens_read(&tokens, options->model_path, options->text_path, why);
    if (!r)
        r = session_init(&session,
                         &(SessionOptions){ .model_path = options->model_path,
                                            .device = options->device,
                                            .n_threads = options->n_threads,
                                            .max_step_tokens = CHUNK_TOKENS,
                                            .max_logit_rows = 1 },
                         why);
    if (r)
        return r;
    geometry = decoder_kv_geometry(session.config);
    r = profile_new(&profile, &geometry);
    if (r)
        return reason_set(why, r, "%s: no profile can be made of this shape of model",
                          options->model_path);
    model_identity(session.checkpoint, profile->identity);
    snprintf(profile->text_name, sizeof(profile->text_name), "%s",
             options->text_path ? options->text_path : "built-in");
    r = profiler_weight_norms(profile, session.checkpoint);
    if (r)
        return reason_set(why, r, "out of memory");
    r = measure_moments(&session, &tokens, options->time_ms_max, profile, why);
    if (!r)
        *outp = TAKE(profile);
    return r;
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

static int measure_and_keep(Profile **outp, const ProfileStoreOptions *options, const char *path,
                            Reason *why) {
    Reason unsaved = REASON_NULL;
    int r;

    log_line(LOG_LEVEL_INFO, "measuring the model's profile, once", "model=%s file=%s",
             options->model_path, path);
    r = profile_store_measure(outp, options, why);
    if (r)
        return r;
    if (profile_store_save(*outp, path, &unsaved)) {
        log_line(LOG_LEVEL_WARNING, "the profile is not kept and will be measured again",
                 "reason=\"%s\"", unsaved.text);
        reason_log_origin(&unsaved);
    }
    return 0;
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
    if (r)
        return r;
    if (!access(buffer_text(&path), F_OK)) {
        r = profile_load(outp, buffer_text(&path), identity, &geometry, why);
        if (!r || r == -ENOMEM)
            return r;
        /* Ours to mend: nobody asked for this file by name. */
        log_line(LOG_LEVEL_WARNING, "the kept profile is of no use and will be replaced",
                 "reason=\"%s\"", why->text);
        reason_log_origin(why);
        *why = (Reason)REASON_NULL;
    }
    return measure_and_keep(outp, options, buffer_text(&path), why);
}
