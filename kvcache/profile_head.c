/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/profile_head.h"

#include "kvcache/kv_format.h"
#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* The formats of a row of a table, in its order; each side has them all. */
typedef struct RowFormats {
    size_t n;
    KvFormat formats[6];
} RowFormats;

static const RowFormats all_formats = {
    6, { KV_FORMAT_8, KV_FORMAT_6, KV_FORMAT_5, KV_FORMAT_4, KV_FORMAT_3, KV_FORMAT_2 }
};
static const RowFormats formats_but_5 = {
    5, { KV_FORMAT_8, KV_FORMAT_6, KV_FORMAT_4, KV_FORMAT_3, KV_FORMAT_2 }
};

static const RowFormats *row_formats(bool lacks_5_bits) {
    return lacks_5_bits ? &formats_but_5 : &all_formats;
}

/* write */

static void put_norms(JsonWriter *writer, const char *key, const double *norms, uint32_t n_layers) {
    json_begin_array(writer, key);
    for (uint32_t layer = 0; layer < n_layers; layer++)
        json_put_double(writer, NULL, norms[layer]);
    json_end_array(writer);
}

static void put_table(JsonWriter *writer, const char *key, const ProfileTable table,
                      const RowFormats *row, uint32_t n_layers) {
    json_begin_array(writer, key);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        json_begin_array(writer, NULL);
        for (size_t i = 0; i < KV_SIDES * row->n; i++)
            json_put_double(writer, NULL, table[layer][i / row->n][row->formats[i % row->n]]);
        json_end_array(writer);
    }
    json_end_array(writer);
}

static void put_damages(JsonWriter *writer, const Profile *profile) {
    const RowFormats *row = row_formats(profile->lacks_5_bits);
    uint32_t n_layers = profile_damage_layers(profile);

    json_begin_object(writer, "damages");
    json_put_u64(writer, "tokens", profile->n_damage_tokens);
    json_begin_array(writer, "measured");
    for (size_t i = 0; i < row->n; i++)
        if (profile->damages_direct[row->formats[i]])
            json_put_u64(writer, NULL, kv_formats[row->formats[i]].bits);
    json_end_array(writer);
    put_table(writer, "values", profile->damages, row, n_layers);
    put_table(writer, "errors", profile->damage_errors, row, n_layers);
    json_end_object(writer);
}

void profile_head_write(const Profile *profile, Buffer *out) {
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
    if (profile->has_spectral_norms) {
        put_norms(&writer, "k_spectral_norms", profile->k_spectral_norms, g->n_layers);
        put_norms(&writer, "v_spectral_norms", profile->v_spectral_norms, g->n_layers);
    }
    if (profile_damage_layers(profile))
        put_damages(&writer, profile);
    if (profile_distortion_layers(profile))
        put_table(&writer, "distortions", profile->distortions, row_formats(profile->lacks_5_bits),
                  profile_distortion_layers(profile));
    json_end_object(&writer);
}

/* parse */

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

/* A row of a table for `layer`. */
static int parse_row(const json_t *row, const RowFormats *formats, const char *key, uint32_t layer,
                     ProfileTable out, Reason *why) {
    const json_t *number;
    size_t i;

    if (!json_is_array(row) || json_array_size(row) != KV_SIDES * formats->n)
        return reason_set(why, -EINVAL,
                          "key \"%s\": row %" PRIu32 ": expected %zu numbers, found %zu", key,
                          layer, KV_SIDES * formats->n, json_array_size(row));
    json_array_foreach(row, i, number) {
        if (!json_is_number(number))
            return reason_set(why, -EINVAL, "key \"%s\": row %" PRIu32 ": entry %zu is no number",
                              key, layer, i);
        out[layer][i / formats->n][formats->formats[i % formats->n]] = json_number_value(number);
    }
    return 0;
}

/* What the row says where it has no 5 bits. */
static void fill_5_bits(double row[KV_SIDES][KV_FORMATS]) {
    for (int side = 0; side < KV_SIDES; side++)
        row[side][KV_FORMAT_5] = sqrt(fmax(row[side][KV_FORMAT_6] * row[side][KV_FORMAT_4], 0));
}

/* Up to n_layers_max rows, whose count goes to *n_layersp. */
static int parse_table(const json_t *object, const char *key, bool lacks_5_bits,
                       uint32_t n_layers_max, ProfileTable out, uint32_t *n_layersp, Reason *why) {
    const json_t *rows = NULL, *row;
    size_t layer;
    int r;

    r = json_required(json_get_array(object, key, &rows, why), key, why);
    if (r)
        return r;
    if (!json_array_size(rows) || json_array_size(rows) > n_layers_max)
        return reason_set(why, -EINVAL,
                          "key \"%s\": expected 1 to %" PRIu32 " rows, one a layer, found %zu", key,
                          n_layers_max, json_array_size(rows));
    json_array_foreach(rows, layer, row) {
        r = parse_row(row, row_formats(lacks_5_bits), key, (uint32_t)layer, out, why);
        if (r)
            return r;
        if (lacks_5_bits)
            fill_5_bits(out[layer]);
    }
    *n_layersp = (uint32_t)json_array_size(rows);
    return 0;
}

static int parse_measured(const json_t *damages, bool lacks_5_bits, bool out[KV_FORMATS],
                          Reason *why) {
    const json_t *formats = NULL, *item;
    size_t i;
    int r;

    r = json_required(json_get_array(damages, "measured", &formats, why), "measured", why);
    if (r)
        return r;
    json_array_foreach(formats, i, item) {
        int64_t bits;
        KvFormat format =
            json_as_i64(item, 2, 8, &bits) ? kv_format_of_bits((uint32_t)bits) : KV_FORMATS;

        if (format == KV_FORMATS || (lacks_5_bits && format == KV_FORMAT_5))
            return reason_set(why, -EINVAL,
                              "key \"measured\": entry %zu is none of 8, 6, %s4, 3 and 2", i,
                              lacks_5_bits ? "" : "5, ");
        out[format] = true;
    }
    return 0;
}

static int parse_damages(const json_t *head, Profile *out, Reason *why) {
    const json_t *damages = NULL;
    uint32_t n_errors = 0, n_layers = out->geometry.n_layers;
    int r = json_get_object(head, "damages", &damages, why);

    if (r)
        return r == JSON_E_ABSENT ? 0 : r;
    r = parse_count(damages, "tokens", &out->n_damage_tokens, why);
    if (!r)
        r = parse_measured(damages, out->lacks_5_bits, out->damages_direct, why);
    if (!r)
        r = parse_table(damages, "values", out->lacks_5_bits, n_layers, out->damages,
                        &out->n_layers_measured, why);
    if (!r)
        r = parse_table(damages, "errors", out->lacks_5_bits, n_layers, out->damage_errors,
                        &n_errors, why);
    if (!r && n_errors != out->n_layers_measured)
        r = reason_set(why, -EINVAL, "%" PRIu32 " rows of values, but %" PRIu32 " of errors",
                       out->n_layers_measured, n_errors);
    out->has_damages = out->n_layers_measured == n_layers;
    return r ? reason_prefix(why, r, "damages: ") : 0;
}

static int parse_distortions(const json_t *head, Profile *out, Reason *why) {
    uint32_t n_rows = 0, n_layers = out->geometry.n_layers;
    bool is_partial = out->n_layers_measured && !out->has_damages;
    int r;

    if (!is_partial && !json_object_get(head, "distortions"))
        return 0;
    r = parse_table(head, "distortions", out->lacks_5_bits, n_layers, out->distortions, &n_rows,
                    why);
    if (r)
        return r;
    if (n_rows != (is_partial ? out->n_layers_measured : n_layers))
        return reason_set(why, -EINVAL,
                          "key \"distortions\": expected %" PRIu32 " rows, found %" PRIu32,
                          is_partial ? out->n_layers_measured : n_layers, n_rows);
    out->has_distortions = n_rows == n_layers;
    return 0;
}

static int parse_spectral_norms(const json_t *head, Profile *out, Reason *why) {
    uint32_t n_layers = out->geometry.n_layers;
    int r;

    if (!json_object_get(head, "k_spectral_norms") && !json_object_get(head, "v_spectral_norms"))
        return 0;
    out->has_spectral_norms = true;
    r = parse_norms(head, "k_spectral_norms", n_layers, out->k_spectral_norms, why);
    return r ? r : parse_norms(head, "v_spectral_norms", n_layers, out->v_spectral_norms, why);
}

/* What all versions have in common. */
static int parse_first_level(const json_t *head, Profile *out, Reason *why) {
    KvGeometry *g = &out->geometry;
    Hash128 identity;
    int r;

    r = parse_text(head, "model", out->identity, sizeof(out->identity), why);
    if (!r && hash128_from_hex(&identity, out->identity))
        r = reason_set(why, -EINVAL, "key \"model\": expected 32 hexadecimal digits");
    if (!r)
        r = parse_u32(head, "n_layers", KV_LAYERS_MAX, &g->n_layers, why);
    if (!r)
        r = parse_u32(head, "n_kv_heads", UINT32_MAX, &g->n_kv_heads, why);
    if (!r)
        r = parse_u32(head, "head_dim", KV_HEAD_DIM_MAX, &g->head_dim, why);
    if (!r)
        r = parse_count(head, "n_tokens", &out->n_tokens, why);
    if (!r)
        r = parse_count(head, "n_tokens_wanted", &out->n_tokens_wanted, why);
    if (!r)
        r = parse_text(head, "text", out->text_name, sizeof(out->text_name), why);
    if (!r)
        r = parse_norms(head, "k_norms", g->n_layers, out->k_norms, why);
    return r ? r : parse_norms(head, "v_norms", g->n_layers, out->v_norms, why);
}

/* Whether tables are of the formats but 5 bits: a file's rows are all alike, so the first one that
 * is found tells. */
static bool has_short_rows(const json_t *head, uint32_t version) {
    const json_t *table = json_object_get(json_object_get(head, "damages"), "values");

    if (!table)
        table = json_object_get(head, "distortions");
    return table && (version < PROFILE_VERSION ||
                     json_array_size(json_array_get(table, 0)) == KV_SIDES * formats_but_5.n);
}

static int parse_second_level(const json_t *head, uint32_t version, Profile *out, Reason *why) {
    int r = parse_spectral_norms(head, out, why);

    out->lacks_5_bits = has_short_rows(head, version);
    if (!r)
        r = parse_damages(head, out, why);
    return r ? r : parse_distortions(head, out, why);
}

int profile_head_parse(Profile *out, uint32_t version, const char *text, size_t size, Reason *why) {
    CLEANUP(json_unref) json_t *head = NULL;
    int r;

    r = json_parse(&head, text, size, JSON_REJECT_DUPLICATES, why);
    if (!r && !json_is_object(head))
        r = reason_set(why, -EINVAL, "expected an object");
    if (!r)
        r = parse_first_level(head, out, why);
    if (!r && version != PROFILE_VERSION_OLDEST)
        r = parse_second_level(head, version, out, why);
    return r ? reason_prefix(why, r, "its head: ") : 0;
}
