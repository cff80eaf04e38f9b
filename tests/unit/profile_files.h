/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Profile files for tests: a profile of random numbers, and files made around it, right or wrong.
 */

#include "kvcache/kv_format.h"
#include "kvcache/profile.h"
#include "tests/unit/random.h"
#include "util/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define IDENTITY "0123456789abcdef0123456789abcdef"
#define OTHER_IDENTITY "0123456789abcdef0123456789abcdee"
#define HEAD_AT 16
#define CHECKSUM_BYTES sizeof(Hash128)
#define BODY_FLOATS (2 * 2 * 3 * 16) /* of what is measured of queries and of keys */

static const KvGeometry geometry = { .n_layers = 2, .n_kv_heads = 3, .head_dim = 4 };

static char directory[] = "/tmp/kvasir-profile-XXXXXX";
static char path[64];

static inline int make_directory(void **state) {
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/profile", directory);
    return 0;
}

static inline int remove_directory(void **state) {
    (void)state;
    unlink(path);
    return rmdir(directory);
}

static inline Profile *new_profile(void) {
    Random random = random_start("profile");
    Profile *profile = NULL;
    uint32_t n = geometry.head_dim;

    assert_int_equal(profile_new(&profile, &geometry), 0);
    memcpy(profile->identity, IDENTITY, sizeof(IDENTITY));
    profile->n_tokens = 768;
    profile->n_tokens_wanted = 16384;
    strcpy(profile->text_name, "built-in, \xc3\xa9t\xc3\xa9");
    random_normals(&random, profile->q_moments, profile_moments_count(profile));
    random_normals(&random, profile->k_covariances, profile_moments_count(profile));
    for (size_t i = 0; i < profile_moments_count(profile); i++)
        if (i % (n * n) % (n + 1) == 0) {
            profile->q_moments[i] = fabsf(profile->q_moments[i]);
            profile->k_covariances[i] = fabsf(profile->k_covariances[i]);
        }
    for (uint32_t layer = 0; layer < geometry.n_layers; layer++) {
        profile->k_norms[layer] = random_uniform(&random) * 100;
        profile->v_norms[layer] = random_uniform(&random) / 3;
    }
    return profile;
}

/* files */

static inline void read_file(Buffer *out) {
    FILE *file = fopen(path, "rb");
    char chunk[4096];
    size_t n;

    assert_non_null(file);
    buffer_clear(out);
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        buffer_append(out, chunk, n);
    fclose(file);
}

/* In place: a file that is emptied and written again is flushed to disk by some file systems, and
 * these tests write thousands. */
static inline void write_file(const void *data, size_t size) {
    CLEANUP(fd_close) int fd = open(path, O_WRONLY | O_CREAT, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
}

/* The last 16 bytes made right for what stands before them. */
static inline void write_checksummed(Buffer *content) {
    size_t hashed = content->size - CHECKSUM_BYTES;
    Hash128 checksum = hash128(content->data, hashed, 0);

    memcpy(content->data + hashed, &checksum, sizeof(checksum));
    write_file(content->data, content->size);
}

/* A whole file of a version around a head and `n_floats` of body. */
static inline void write_version(uint32_t version, const char *head, size_t head_bytes,
                                 const float *body, size_t n_floats) {
    CLEANUP(buffer_deinit) Buffer content = BUFFER_NULL;
    uint32_t size = (uint32_t)head_bytes;

    buffer_append(&content, "KVASPROF", 8);
    buffer_append(&content, &version, sizeof(version));
    buffer_append(&content, &size, sizeof(size));
    buffer_append(&content, head, head_bytes);
    while (content.size % 64)
        buffer_append_char(&content, 0);
    buffer_append(&content, body, n_floats * sizeof(*body));
    buffer_append(&content, "0123456789abcdef", CHECKSUM_BYTES);
    write_checksummed(&content);
}

static inline void write_composed(const char *head, size_t head_bytes, const float *body,
                                  size_t n_floats) {
    write_version(PROFILE_VERSION, head, head_bytes, body, n_floats);
}

static inline void save(const Profile *profile) {
    Reason why = REASON_NULL;

    if (profile_save(profile, path, &why))
        fail_msg("%s", why.text);
}

static inline int load(Reason *why) {
    CLEANUP(profile_free) Profile *profile = NULL;
    int r = profile_load(&profile, path, IDENTITY, &geometry, why);

    assert_true(!profile == !!r);
    return r;
}

/* Refused, naming the file, the fault and what to do. */
static inline void assert_refused(const char *fault) {
    Reason why = REASON_NULL;

    assert_int_equal(load(&why), -EINVAL);
    if (strncmp(why.text, path, strlen(path)) || !strstr(why.text, fault) ||
        !strstr(why.text, "kvasird profile --model"))
        fail_msg("expected \"%s\" in: %s", fault, why.text);
}
