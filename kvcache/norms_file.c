/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/norms_file.h"

#include "util/json.h"

#include <errno.h>
#include <string.h>

#define SHAPE "expected {\"w_k\": [...], \"w_v\": [...]}, one norm a layer"

static const char *const keys[KV_SIDES] = { "w_k", "w_v" };

/* Numbers of the file are finite: the parser refuses NaN, and what no double can hold. */
static int read_norm(double *out, const json_t *value, Reason *why) {
    char found[64];

    if (!json_is_number(value))
        return reason_set(why, -EINVAL, "expected a norm, found %s",
                          json_describe(value, found, sizeof(found)));
    *out = json_number_value(value);
    if (*out < 0 || *out > NORMS_FILE_MAX)
        return reason_set(why, -EINVAL, "%s is no norm: it must be from 0 to %g",
                          json_describe(value, found, sizeof(found)), NORMS_FILE_MAX);
    return 0;
}

static int read_side(double *out, uint32_t *np, const json_t *root, const char *key, Reason *why) {
    const json_t *values = NULL, *value;
    size_t i;
    int r;

    r = json_required(json_get_array(root, key, &values, why), key, why);
    if (r)
        return r;
    if (!json_array_size(values) || json_array_size(values) > KV_LAYERS_MAX)
        return reason_set(why, -EINVAL, "\"%s\" has %zu norms; a model has 1 to %d layers", key,
                          json_array_size(values), KV_LAYERS_MAX);
    *np = (uint32_t)json_array_size(values);
    json_array_foreach(values, i, value) {
        r = read_norm(&out[i], value, why);
        if (r)
            return reason_prefix(why, r, "\"%s\", layer %zu: ", key, i);
    }
    return 0;
}

static int read_root(NormsFile *out, const json_t *root, Reason *why) {
    uint32_t n[KV_SIDES] = { 0 };

    if (!json_is_object(root))
        return reason_set(why, -EINVAL, SHAPE);
    for (KvSide side = 0; side < KV_SIDES; side++) {
        int r = read_side(out->norms[side], &n[side], root, keys[side], why);

        if (r)
            return r;
    }
    if (n[KV_SIDE_K] != n[KV_SIDE_V])
        return reason_set(why, -EINVAL,
                          "\"w_k\" has %u norms and \"w_v\" has %u; both must have one a layer",
                          n[KV_SIDE_K], n[KV_SIDE_V]);
    out->n_layers = n[KV_SIDE_K];
    return 0;
}

int norms_file_load(NormsFile *out, const char *path, Reason *why) {
    CLEANUP(json_unref) json_t *root = NULL;
    int r;

    memset(out, 0, sizeof(*out));
    r = json_load_path(&root, path, JSON_REJECT_DUPLICATES, why);
    if (r)
        return r;
    r = read_root(out, root, why);
    return r ? reason_prefix(why, r, "%s: ", path) : 0;
}
