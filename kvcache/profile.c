/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file is read mapped and in this order: magic, version, checksum, and only then what the
 * checksum covers. So damage is called damage, and what is wrong behind a right checksum was
 * written wrong. Even then nothing is believed: the head's counts must give the file's size before
 * memory is asked for, and moments must be finite.
 */
#include "kvcache/profile.h"

#include "kvcache/kv_format.h"
#include "util/buffer.h"
#include "util/json.h"
#include "util/json_writer.h"
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

    hasher_init(&hasher, PROFILE_VERSION);
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

static void put_norms(JsonWriter *writer, const char *key, const double *norms, uint32_t n_layers) {
    json_begin_array(writer, key);
    for (uint32_t layer = 0; layer < n_layers; layer++)
        json_put_double(writer, NULL, norms[layer]);
    json_end_array(writer);
}

static void write_head(const Profile *profile, Buffer *out) {
    const KvGeometry *g = &profile->geometry;
    JsonWriter writer = { .out = out, .indent = 1 };

    json_begin_object(&writer, NULL);
    json_put_text(&writer, "model", profile->identity);
    json_put_u64(&writer, "n_layers", g->n_layers);
    json_put_u64(&writer, "n_kv_heads", g->n_kv_heads);
    json_put_u64(&writer, "head_dim", g->head_dim);
    json_put_u64(&writer, "n_tokens", profile->n_tokens);
    json_put_u64(&writer, "n_tokens_wanted", profile->n_tokens_wanted);
    json_put_text(&writer, "text", profile->text_name);
    put_norms(&writer, "k_norms", profile->k_norms, g->n_layers);
    put_norms(&writer, "v_norms", profile->v_norms, g->n_layers);
    json_end_object(&writer);
}

/* Magic to zeros: all that stands before the body. */
static int compose_front(const Profile *profile, Buffer *out, Reason *why) {
    CLEANUP(buffer_deinit) Buffer head = BUFFER_NULL;
    static const char zeros[BODY_ALIGN_BYTES];
    uint32_t version = PROFILE_VERSION, head_bytes;

    if (!utf8_is_valid(profile->text_name, strlen(profile->text_name)))
        return reason_set(why, -EINVAL,
                          "no head can be written: the name of the text is not "
                          "UTF-8");
    write_head(profile, &head);
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
    if (u32_at(file->data + VERSION_AT) != PROFILE_VERSION)
        return reason_set(why, -EINVAL,
                          "a profile of version %" PRIu32 "; this kvasird reads version %d",
                          u32_at(file->data + VERSION_AT), PROFILE_VERSION);
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

/* A short text without NUL into out[size]. */
static int parse_text(const json_t *head, const char *key, char *out, size_t size, Reason *why) {
    const char *text = NULL;
    size_t n = 0;
    int r;

    r = json_required(json_get_text(head, key, &text, &n, why), key, why);
    if (r)
        return r;
    if (n >= size || memchr(text, 0, n))
        return reason_set(why, -EINVAL, "key \"%s\": expected at most %zu bytes without NUL", key,
                          size - 1);
    memcpy(out, text, n + 1);
    return 0;
}

static int parse_u32(const json_t *head, const char *key, uint32_t max, uint32_t *out,
                     Reason *why) {
    return json_required(json_get_u32(head, key, 1, max, out, why), key, why);
}

static int parse_count(const json_t *head, const char *key, uint64_t *out, Reason *why) {
    int64_t n = 0;
    int r = json_required(json_get_i64(head, key, 0, INT64_MAX, &n, why), key, why);

    *out = (uint64_t)n;
    return r;
}

static int parse_norms(const json_t *head, const char *key, uint32_t n_layers, double *out,
                       Reason *why) {
    const json_t *array = NULL, *norm;
    size_t layer;
    int r;

    r = json_required(json_get_array(head, key, &array, why), key, why);
    if (r)
        return r;
    if (json_array_size(array) != n_layers)
        return reason_set(why, -EINVAL,
                          "key \"%s\": expected %" PRIu32 " numbers, one a layer, found %zu", key,
                          n_layers, json_array_size(array));
    json_array_foreach(array, layer, norm) {
        if (!json_is_number(norm))
            return reason_set(why, -EINVAL, "key \"%s\": entry %zu is no number", key, layer);
        out[layer] = json_number_value(norm);
    }
    return 0;
}

/* All but the moments. */
static int parse_head(const MappedFile *file, size_t head_bytes, Profile *out, Reason *why) {
    CLEANUP(json_unref) json_t *head = NULL;
    Hash128 identity;
    int r;

    r = json_parse(&head, (const char *)file->data + PREFIX_BYTES, head_bytes,
                   JSON_REJECT_DUPLICATES, why);
    if (!r && !json_is_object(head))
        r = reason_set(why, -EINVAL, "expected an object");
    if (!r)
        r = parse_text(head, "model", out->identity, sizeof(out->identity), why);
    if (!r && hash128_from_hex(&identity, out->identity))
        r = reason_set(why, -EINVAL, "key \"model\": expected 32 hexadecimal digits");
    if (!r)
        r = parse_u32(head, "n_layers", KV_LAYERS_MAX, &out->geometry.n_layers, why);
    if (!r)
        r = parse_u32(head, "n_kv_heads", UINT32_MAX, &out->geometry.n_kv_heads, why);
    if (!r)
        r = parse_u32(head, "head_dim", KV_HEAD_DIM_MAX, &out->geometry.head_dim, why);
    if (!r)
        r = parse_count(head, "n_tokens", &out->n_tokens, why);
    if (!r)
        r = parse_count(head, "n_tokens_wanted", &out->n_tokens_wanted, why);
    if (!r)
        r = parse_text(head, "text", out->text_name, sizeof(out->text_name), why);
    if (!r)
        r = parse_norms(head, "k_norms", out->geometry.n_layers, out->k_norms, why);
    if (!r)
        r = parse_norms(head, "v_norms", out->geometry.n_layers, out->v_norms, why);
    return r ? reason_prefix(why, r, "its head: ") : 0;
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
    r = parse_head(file, head_bytes, profile, why);
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
