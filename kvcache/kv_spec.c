/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_spec.h"

#include "kvcache/kv_format.h"
#include "util/json.h"

#include <errno.h>
#include <string.h>

#define WIDTHS "16 (f16), 8, 6, 5, 4, 3 or 2"

static int layer_side(KvFormat *out, const json_t *layer, const char *side, Reason *why) {
    uint32_t bits = 0;
    int r;

    r = json_required(json_get_u32(layer, side, 0, UINT32_MAX, &bits, why), side, why);
    if (r)
        return r;
    *out = kv_format_of_bits(bits);
    if (*out == KV_FORMATS)
        return reason_set(why, -EINVAL, "\"%s\" is %u bits; there is " WIDTHS, side, bits);
    return 0;
}

static int parse_plan(KvPlan *plan, const json_t *root, uint32_t n_layers, Reason *why) {
    const json_t *layers = NULL, *layer;
    size_t i;
    int r;

    r = json_required(json_get_array(root, "layers", &layers, why), "layers", why);
    if (r)
        return r;
    if (json_array_size(layers) != n_layers)
        return reason_set(why, -EINVAL, "\"layers\" has %zu entries; the model has %u layers",
                          json_array_size(layers), n_layers);
    json_array_foreach(layers, i, layer) {
        if (!json_is_object(layer))
            return reason_set(why, -EINVAL, "layer %zu: expected {\"k\": bits, \"v\": bits}", i);
        r = layer_side(&plan->formats[i][KV_SIDE_K], layer, "k", why);
        if (!r)
            r = layer_side(&plan->formats[i][KV_SIDE_V], layer, "v", why);
        if (r)
            return reason_prefix(why, r, "layer %zu: ", i);
    }
    return 0;
}

static int parse_plan_file(KvPlan *plan, const char *file, uint32_t n_layers, Reason *why) {
    CLEANUP(json_unref) json_t *root = NULL;
    int r;

    r = json_load_path(&root, file, JSON_REJECT_DUPLICATES, why);
    if (r)
        return r;
    if (!json_is_object(root))
        return reason_set(why, -EINVAL, "%s: expected an object with \"layers\"", file);
    r = parse_plan(plan, root, n_layers, why);
    return r ? reason_prefix(why, r, "%s: ", file) : 0;
}

static void fill_plan(KvPlan *plan, uint32_t n_layers, KvFormat k, KvFormat v) {
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        plan->formats[layer][KV_SIDE_K] = k;
        plan->formats[layer][KV_SIDE_V] = v;
    }
}

/* The digits after `letter`; moves *textp past them. */
static KvFormat parse_side(const char **textp, char letter) {
    const char *text = *textp;
    uint32_t bits = 0;

    if (*text++ != letter || *text == '0')
        return KV_FORMATS;
    while (*text >= '0' && *text <= '9' && bits < 100)
        bits = bits * 10 + (uint32_t)(*text++ - '0');
    *textp = text;
    return kv_format_of_bits(bits);
}

int kv_spec_parse(KvPlan *plan, const char *spec, uint32_t n_layers, Reason *why) {
    const char *rest = spec;
    KvFormat k, v;

    memset(plan, 0, sizeof(*plan));
    if (n_layers > KV_LAYERS_MAX)
        return reason_set(why, -EINVAL, "the model has %u layers; a KV cache has at most %d",
                          n_layers, KV_LAYERS_MAX);
    for (KvFormat format = KV_FORMAT_BF16; format <= KV_FORMAT_F16; format++)
        if (!strcmp(spec, kv_formats[format].name)) {
            fill_plan(plan, n_layers, format, format);
            return 0;
        }
    if (!strncmp(spec, "plan:", 5))
        return parse_plan_file(plan, spec + 5, n_layers, why);
    if (!strcmp(spec, "auto"))
        return reason_set(why, -EINVAL,
                          "kv is \"auto\", which chooses for a budget: serve and plan have one; "
                          "kvasird plan -o FILE writes what they choose, for plan:FILE");
    k = parse_side(&rest, 'k');
    v = k == KV_FORMATS ? KV_FORMATS : parse_side(&rest, 'v');
    if (v == KV_FORMATS || *rest)
        return reason_set(
            why, -EINVAL,
            "kv is \"%s\"; it must be f16, bf16, a pair like k4v2 (each side one of " WIDTHS
            " bits), or plan:FILE",
            spec);
    fill_plan(plan, n_layers, k, v);
    return 0;
}
