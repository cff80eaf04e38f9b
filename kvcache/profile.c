/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file is read mapped and in this order: magic, version, checksum, and only then what the
 * checksum covers. So damage is called damage, and what is wrong behind a right checksum was
 * written wrong. Even then nothing is believed: the head's counts must give the file's size before
 * memory is asked for, and moments must be finite.
 */
#include "kvcache/profile.h"

#include "kvcache/kv_format.h"
#include "kvcache/profile_head.h"
#include "util/buffer.h"
#include "util/mapped_file.h"
#include "util/output_file.h"
#include "util/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define MAGIC "KVASPROF"
#define MAGIC_BYTES 8
#define VERSION_AT 8
#define HEAD_BYTES_AT 12
#define PREFIX_BYTES 16 /* magic, version, head size */
#define BODY_ALIGN_BYTES 64
#define HASH_SEED 2 /* the version that hashes were first made in; what they cover is the same */
#define REMEDY "; make a new one with: kvasird profile --model PATH"

/* life */

static bool geometry_valid(const KvGeometry *g) {
    return g->n_layers && g->n_layers <= KV_LAYERS_MAX && g->n_kv_heads && g->head_dim &&
           g->head_dim <= KV_HEAD_DIM_MAX;
}

/* Of a valid geometry; its bounds keep the bytes below 2^63. */
static size_t moments_count(const KvGeometry *g) {
    return (size_t)g->n_layers * g->n_kv_heads * g->head_dim * g->head_dim;
}

static int allocate_moments(Profile *profile) {
    size_t n = moments_count(&profile->geometry);

    profile->q_moments = calloc(2 * n, sizeof(*profile->q_moments));
    if (!profile->q_moments)
        return -ENOMEM;
    profile->k_covariances = profile->q_moments + n;
    return 0;
}

int profile_new(Profile **outp, const KvGeometry *geometry) {
    CLEANUP(profile_free) Profile *profile = NULL;
    int r;

    if (!geometry_valid(geometry))
        return -EINVAL;
    profile = calloc(1, sizeof(*profile));
    if (!profile)
        return -ENOMEM;
    profile->geometry = *geometry;
    r = allocate_moments(profile);
    if (!r)
        *outp = TAKE(profile);
    return r;
}

Profile *profile_free(Profile *profile) {
    if (!profile)
        return NULL;
    free(profile->q_moments); /* and k_covariances */
    free(profile);
    return NULL;
}

bool profile_is_whole(const Profile *profile) {
    return profile->n_tokens == profile->n_tokens_wanted;
}

size_t profile_moments_count(const Profile *profile) {
    return moments_count(&profile->geometry);
}

Hash128 profile_hash(const Profile *profile) {
    size_t norms_bytes = profile->geometry.n_layers * sizeof(double);
    size_t moments_bytes = profile_moments_count(profile) * sizeof(float);
    Hasher hasher;

    hasher_init(&hasher, HASH_SEED);
    hasher_update(&hasher, &profile->geometry, sizeof(profile->geometry));
    hasher_update(&hasher, profile->identity, sizeof(profile->identity));
    hasher_update(&hasher, &profile->n_tokens, sizeof(profile->n_tokens));
    hasher_update(&hasher, profile->k_norms, norms_bytes);
    hasher_update(&hasher, profile->v_norms, norms_bytes);
    hasher_update(&hasher, profile->q_moments, 2 * moments_bytes);
    return hasher_digest(&hasher);
}

/* what a profile may hold */

/* Finite, and a diagonal that can be one of squares. */
static int check_moments(const float *moments, const KvGeometry *g, const char *name, Reason *why) {
    size_t n = g->head_dim, n_heads = (size_t)g->n_layers * g->n_kv_heads;

    for (size_t head = 0; head < n_heads; head++, moments += n * n)
        for (size_t i = 0; i < n * n; i++)
            if (!isfinite(moments[i]) || (i % (n + 1) == 0 && moments[i] < 0))
                return reason_set(why, -EINVAL,
                                  "%s of layer %zu, KV head %zu hold %g at row %zu, column %zu: "
                                  "no second moment",
                                  name, head / g->n_kv_heads, head % g->n_kv_heads,
                                  (double)moments[i], i / n, i % n);
    return 0;
}

static int check_norms(const double *norms, uint32_t n_layers, const char *name, Reason *why) {
    for (uint32_t layer = 0; layer < n_layers; layer++)
        if (!isfinite(norms[layer]) || norms[layer] < 0)
            return reason_set(why, -EINVAL, "%s of layer %" PRIu32 " is %g: no norm", name, layer,
                              norms[layer]);
    return 0;
}

static int check_table(const ProfileTable table, uint32_t n_layers, const char *name, Reason *why) {
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (int side = 0; side < KV_SIDES; side++)
            for (int format = 0; format < KV_FORMATS; format++) {
                double x = table[layer][side][format];

                if (!isfinite(x) || x < 0 || (x > 0 && !kv_format_quantizes((KvFormat)format)))
                    return reason_set(why, -EINVAL,
                                      "%s of layer %" PRIu32 ", %s in %s are %g: expected a number "
                                      "of 0 or more, and 0 for 16 bits",
                                      name, layer, side == KV_SIDE_K ? "keys" : "values",
                                      kv_formats[format].name, x);
            }
    return 0;
}

static int check_second_level(const Profile *profile, Reason *why) {
    uint32_t n_layers = profile->geometry.n_layers, n_damages = profile_damage_layers(profile);
    int r;

    if (profile->n_layers_measured > n_layers)
        return reason_set(why, -EINVAL, "damages of %" PRIu32 " layers where there are %" PRIu32,
                          profile->n_layers_measured, n_layers);
    if (n_damages && !profile->n_damage_tokens)
        return reason_set(why, -EINVAL, "damages are means over 0 tokens");
    r = check_table(profile->damages, n_damages, "damages", why);
    if (!r)
        r = check_table(profile->damage_errors, n_damages, "damage_errors", why);
    if (!r)
        r = check_table(profile->distortions, profile_distortion_layers(profile), "distortions",
                        why);
    return r;
}

static int check_content(const Profile *profile, Reason *why) {
    const KvGeometry *g = &profile->geometry;
    int r;

    if (profile->n_tokens > profile->n_tokens_wanted)
        return reason_set(why, -EINVAL,
                          "n_tokens is %" PRIu64 ", more than the %" PRIu64 " of n_tokens_wanted",
                          profile->n_tokens, profile->n_tokens_wanted);
    r = check_norms(profile->k_norms, g->n_layers, "k_norms", why);
    if (!r)
        r = check_norms(profile->v_norms, g->n_layers, "v_norms", why);
    if (!r && profile->has_spectral_norms)
        r = check_norms(profile->k_spectral_norms, g->n_layers, "k_spectral_norms", why);
    if (!r && profile->has_spectral_norms)
        r = check_norms(profile->v_spectral_norms, g->n_layers, "v_spectral_norms", why);
    if (!r)
        r = check_second_level(profile, why);
    if (!r)
        r = check_moments(profile->q_moments, g, "q_moments", why);
    if (!r)
        r = check_moments(profile->k_covariances, g, "k_covariances", why);
    return r;
}

static size_t body_offset(size_t head_bytes) {
    return (PREFIX_BYTES + head_bytes + BODY_ALIGN_BYTES - 1) / BODY_ALIGN_BYTES * BODY_ALIGN_BYTES;
}

/* save */

/* Magic to zeros: all that stands before the body. */
static int compose_front(const Profile *profile, Buffer *out, Reason *why) {
    CLEANUP(buffer_deinit) Buffer head = BUFFER_NULL;
    static const char zeros[BODY_ALIGN_BYTES];
    uint32_t version = PROFILE_VERSION, head_bytes;

    if (!utf8_is_valid(profile->text_name, strlen(profile->text_name)))
        return reason_set(why, -EINVAL,
                          "no head can be written: the name of the text is not "
                          "UTF-8");
    profile_head_write(profile, &head);
    if (buffer_failed(&head))
        return reason_set(why, -ENOMEM, "no memory for the head");
    head_bytes = (uint32_t)head.size;
    buffer_append(out, MAGIC, MAGIC_BYTES);
    buffer_append(out, &version, sizeof(version));
    buffer_append(out, &head_bytes, sizeof(head_bytes));
    buffer_append(out, head.data, head_bytes);
    buffer_append(out, zeros, body_offset(head_bytes) - PREFIX_BYTES - head_bytes);
    return buffer_failed(out) ? reason_set(why, -ENOMEM, "no memory for the head") : 0;
}

static int write_hashed(FILE *file, Hasher *hasher, const void *data, size_t size) {
    hasher_update(hasher, data, size);
    return fwrite(data, 1, size, file) == size ? 0 : -errno;
}

static int write_profile(FILE *file, const Profile *profile, const Buffer *front) {
    size_t moments_bytes = profile_moments_count(profile) * sizeof(float);
    Hash128 checksum;
    Hasher hasher;
    int r;

    hasher_init(&hasher, 0);
    r = write_hashed(file, &hasher, front->data, front->size);
    if (!r)
        r = write_hashed(file, &hasher, profile->q_moments, 2 * moments_bytes);
    checksum = hasher_digest(&hasher);
    return r ? r : write_hashed(file, &hasher, &checksum, sizeof(checksum));
}

static void make_directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    CLEANUP(free) char *directory = slash ? strndup(path, (size_t)(slash - path)) : NULL;

    if (directory)
        mkdir(directory, 0755); /* writing says what is wrong, if anything is */
}

int profile_save(const Profile *profile, const char *path, Reason *why) {
    CLEANUP(output_file_deinit) OutputFile file = OUTPUT_FILE_NULL;
    CLEANUP(buffer_deinit) Buffer front = BUFFER_NULL;
    Hash128 identity;
    int r;

    r = hash128_from_hex(&identity, profile->identity);
    if (r)
        return reason_set(why, r, "%s: a profile needs its model's identity to be saved", path);
    r = check_content(profile, why);
    if (!r)
        r = compose_front(profile, &front, why);
    if (r)
        return reason_prefix(why, r, "%s: ", path);
    make_directory_of(path);
    r = output_file_open(&file, path, why);
    if (r)
        return r;
    r = write_profile(file.stream, profile, &front);
    if (r)
        return reason_set(why, r, "%s: cannot be written: %s", path, strerror(-r));
    return output_file_commit(&file, why);
}

/* load */

static uint32_t u32_at(const uint8_t *data) {
    uint32_t value;

    memcpy(&value, data, sizeof(value));
    return value;
}

/* Everything that can be told without reading the head. */
static int check_envelope(const MappedFile *file, Reason *why) {
    Hash128 stored, computed;
    char stored_hex[HASH128_HEX_BYTES], computed_hex[HASH128_HEX_BYTES];
    size_t hashed_bytes;

    if (file->size < MAGIC_BYTES || memcmp(file->data, MAGIC, MAGIC_BYTES))
        return reason_set(why, -EINVAL, "not a profile: it does not begin with \"" MAGIC "\"");
    if (file->size < PREFIX_BYTES + sizeof(stored))
        return reason_set(why, -EINVAL, "cut: only %zu bytes are left of the profile", file->size);
    if (u32_at(file->data + VERSION_AT) > PROFILE_VERSION ||
        u32_at(file->data + VERSION_AT) < PROFILE_VERSION_OLDEST)
        return reason_set(why, -EINVAL,
                          "a profile of version %" PRIu32 "; this kvasird reads versions %d to %d",
                          u32_at(file->data + VERSION_AT), PROFILE_VERSION_OLDEST, PROFILE_VERSION);
    hashed_bytes = file->size - sizeof(stored);
    memcpy(&stored, file->data + hashed_bytes, sizeof(stored));
    computed = hash128(file->data, hashed_bytes, 0);
    if (!hash128_equal(stored, computed))
        return reason_set(
            why, -EINVAL, "cut or changed: its checksum says %s, its content gives %s",
            hash128_to_hex(stored, stored_hex), hash128_to_hex(computed, computed_hex));
    if (u32_at(file->data + HEAD_BYTES_AT) > hashed_bytes - PREFIX_BYTES)
        return reason_set(why, -EINVAL, "its head would take %" PRIu32 " of %zu bytes",
                          u32_at(file->data + HEAD_BYTES_AT), file->size);
    return 0;
}

static int check_model(const Profile *found, const char *identity, const KvGeometry *geometry,
                       Reason *why) {
    const KvGeometry *g = &found->geometry;

    if (identity && strcmp(found->identity, identity))
        return reason_set(why, -EINVAL, "the profile of another model: of %s, while this one is %s",
                          found->identity, identity);
    if (geometry && memcmp(g, geometry, sizeof(*g)))
        return reason_set(why, -EINVAL,
                          "a profile of %" PRIu32 " layers, %" PRIu32 " KV heads of %" PRIu32
                          " channels; the model has %" PRIu32 ", %" PRIu32 " of %" PRIu32,
                          g->n_layers, g->n_kv_heads, g->head_dim, geometry->n_layers,
                          geometry->n_kv_heads, geometry->head_dim);
    return 0;
}

/* The file must be exactly as long as its head says. */
static int check_size(const MappedFile *file, size_t head_bytes, const KvGeometry *g, Reason *why) {
    size_t front_bytes = PREFIX_BYTES + head_bytes, offset = body_offset(head_bytes);
    size_t size = offset + 2 * moments_count(g) * sizeof(float) + sizeof(Hash128);

    if (file->size != size)
        return reason_set(why, -EINVAL,
                          "%zu bytes long; %" PRIu32 " layers, %" PRIu32 " KV heads of %" PRIu32
                          " channels need %zu",
                          file->size, g->n_layers, g->n_kv_heads, g->head_dim, size);
    for (; front_bytes < offset; front_bytes++)
        if (file->data[front_bytes])
            return reason_set(why, -EINVAL, "byte %zu, before its body, is not zero", front_bytes);
    return 0;
}

static int read_body(Profile *profile, const MappedFile *file, size_t head_bytes, Reason *why) {
    const uint8_t *body = file->data + body_offset(head_bytes);
    size_t bytes = profile_moments_count(profile) * sizeof(float);
    int r;

    r = allocate_moments(profile);
    if (r)
        return reason_set(why, r, "no memory for its moments");
    memcpy(profile->q_moments, body, 2 * bytes);
    return check_content(profile, why);
}

static int read_profile(Profile *profile, const MappedFile *file, const char *identity,
                        const KvGeometry *geometry, Reason *why) {
    size_t head_bytes;
    int r;

    r = check_envelope(file, why);
    if (r)
        return r;
    head_bytes = u32_at(file->data + HEAD_BYTES_AT);
    r = profile_head_parse(profile, u32_at(file->data + VERSION_AT),
                           (const char *)file->data + PREFIX_BYTES, head_bytes, why);
    if (!r)
        r = check_model(profile, identity, geometry, why);
    if (!r)
        r = check_size(file, head_bytes, &profile->geometry, why);
    if (!r)
        r = read_body(profile, file, head_bytes, why);
    return r;
}

int profile_load(Profile **outp, const char *path, const char *identity, const KvGeometry *geometry,
                 Reason *why) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    CLEANUP(profile_free) Profile *profile = calloc(1, sizeof(*profile));
    Reason found = REASON_NULL;
    int r;

    if (!profile)
        return reason_set(why, -ENOMEM, "%s: no memory for the profile", path);
    r = mapped_file_open(&file, path, why);
    if (r)
        return r;
    r = read_profile(profile, &file, identity, geometry, &found);
    if (r)
        return reason_set_at(why, r, found.origin, "%s: %s%s", path, found.text,
                             r == -EINVAL ? REMEDY : "");
    *outp = TAKE(profile);
    return 0;
}
