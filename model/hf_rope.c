/* SPDX-License-Identifier: Apache-2.0 */
#include "model/hf_rope.h"

#include "util/json.h"

#include <errno.h>
#include <string.h>

#define GEMMA3_THETA_DEFAULT 1000000

/* An absent key keeps its default, which is already in place. */
static int optional(int r) {
    return r == JSON_E_ABSENT ? 0 : r;
}

/* The object that holds the scaling: published checkpoints call it rope_scaling, Transformers 5
 * writes rope_parameters; the older name wins there too. NULL: neither. */
static int find_rope_object(const json_t *json, const json_t **out, Reason *why) {
    static const char *const keys[] = { "rope_scaling", "rope_parameters" };
    int r;

    *out = NULL;
    for (size_t i = 0; i < 2 && !(*out && json_object_size(*out)); i++) {
        r = optional(json_get_object(json, keys[i], out, why));
        if (r)
            return r;
    }
    if (*out &&
        (json_object_get(*out, "full_attention") || json_object_get(*out, "sliding_attention")))
        return reason_set(why, -EINVAL, "rotary parameters per layer type are not supported");
    return 0;
}

static int read_rope_type(const json_t *rope, RopeScaling *out, Reason *why) {
    static const char *const names[] = {
        [ROPE_DEFAULT] = "default",
        [ROPE_LINEAR] = "linear",
        [ROPE_LLAMA3] = "llama3",
        [ROPE_YARN] = "yarn",
    };
    const char *name = "default";
    int r;

    r = json_get_word(rope, "rope_type", &name, why);
    if (r == JSON_E_ABSENT)
        r = json_get_word(rope, "type", &name, why);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (!strcmp(name, names[i])) {
            *out = (RopeScaling)i;
            return 0;
        }
    return reason_set(
        why, -EINVAL,
        "rotary scaling \"%s\" is not supported; supported are default, linear, llama3 "
        "and yarn",
        name);
}

/* A value of the rope object, or else of the whole config. */
static int get_either(const json_t *rope, const json_t *json, const char *key, float *out,
                      Reason *why) {
    int r = rope ? json_get_float(rope, key, out, why) : JSON_E_ABSENT;

    return r == JSON_E_ABSENT ? json_get_float(json, key, out, why) : r;
}

/* The length before scaling: at top level it overrides; absent, it is max_position_embeddings. */
static int read_original_length(const json_t *rope, const json_t *json, const ModelConfig *c,
                                RopeConfig *config, Reason *why) {
    const char *key = "original_max_position_embeddings";
    uint32_t *out = &config->original_max_position;
    int r;

    *out = c->max_position;
    r = json_get_u32(json, key, 1, MODEL_POSITION_MAX, out, why);
    return r == JSON_E_ABSENT ? optional(json_get_u32(rope, key, 1, MODEL_POSITION_MAX, out, why))
                              : r;
}

static int read_yarn(const json_t *rope, RopeConfig *out, Reason *why) {
    const struct {
        const char *key;
        float *out;
    } floats[] = {
        { "attention_factor", &out->attention_factor },
        { "mscale", &out->mscale },
        { "mscale_all_dim", &out->mscale_all_dim },
        { "beta_fast", &out->beta_fast },
        { "beta_slow", &out->beta_slow },
    };
    int r = 0;

    for (size_t i = 0; !r && i < sizeof(floats) / sizeof(*floats); i++)
        r = optional(json_get_float(rope, floats[i].key, floats[i].out, why));
    if (!out->beta_fast)
        out->beta_fast = 32;
    if (!out->beta_slow)
        out->beta_slow = 1;
    return r ? r : optional(json_get_bool(rope, "truncate", &out->truncate, why));
}

static int read_llama3(const json_t *rope, RopeConfig *out, Reason *why) {
    int r;

    r = json_required(json_get_float(rope, "low_freq_factor", &out->low_freq_factor, why),
                      "low_freq_factor", why);
    if (r)
        return r;
    return json_required(json_get_float(rope, "high_freq_factor", &out->high_freq_factor, why),
                         "high_freq_factor", why);
}

static int read_scaling(const json_t *rope, const json_t *json, const ModelConfig *c,
                        RopeConfig *out, Reason *why) {
    int r;

    r = read_rope_type(rope, &out->scaling, why);
    if (r || out->scaling == ROPE_DEFAULT)
        return r;
    r = read_original_length(rope, json, c, out, why);
    if (r)
        return r;
    r = json_get_float(rope, "factor", &out->factor, why);
    if (r == JSON_E_ABSENT && out->scaling == ROPE_YARN)
        out->factor = (float)c->max_position / (float)out->original_max_position;
    else if (r)
        return json_required(r, "factor", why);
    if (out->scaling == ROPE_LLAMA3)
        return read_llama3(rope, out, why);
    return out->scaling == ROPE_YARN ? read_yarn(rope, out, why) : 0;
}

/* From an object that may be missing, and the whole config. */
static int read_rope_object(const json_t *rope, const json_t *json, const ModelConfig *c,
                            RopeConfig *out, Reason *why) {
    float partial = 1;
    int r;

    r = optional(get_either(rope, json, "rope_theta", &out->theta, why));
    if (!r)
        r = optional(get_either(rope, json, "partial_rotary_factor", &partial, why));
    if (r)
        return r;
    if (partial != 1)
        return reason_set(
            why, -EINVAL,
            "partial_rotary_factor is %g; only models that rotate all channels (1) are "
            "supported",
            (double)partial);
    return rope ? read_scaling(rope, json, c, out, why) : 0;
}

/* Gemma 3's: one set of parameters for layers that slide, one for those that do not. Published
 * checkpoints have a base for each at top level, and a scaling for the latter; Transformers 5
 * writes an object for each into rope_parameters. */
static int read_gemma3_rope(const json_t *json, ModelConfig *c, Reason *why) {
    const json_t *both = NULL, *full = NULL, *local = NULL, *scaling = NULL;
    int r;

    c->rope.theta = GEMMA3_THETA_DEFAULT;
    c->local_rope = c->rope;
    c->local_rope.theta = GEMMA3_LOCAL_THETA_DEFAULT;
    r = optional(json_get_object(json, "rope_scaling", &scaling, why));
    if (!r)
        r = optional(json_get_object(json, "rope_parameters", &both, why));
    if (!r && both) {
        r = json_required(json_get_object(both, "full_attention", &full, why), "full_attention",
                          why);
        if (!r)
            r = json_required(json_get_object(both, "sliding_attention", &local, why),
                              "sliding_attention", why);
        if (r)
            return reason_prefix(why, r, "rope_parameters: ");
    }
    if (!r)
        r = read_rope_object(full, json, c, &c->rope, why);
    if (!r && json_object_size(scaling))
        r = read_rope_object(scaling, json, c, &c->rope, why);
    if (!r)
        r = optional(json_get_float(json, "rope_local_base_freq", &c->local_rope.theta, why));
    if (!r && local)
        r = read_rope_object(local, local, c, &c->local_rope, why);
    return r;
}

int hf_rope_read(const json_t *json, ModelConfig *c, Reason *why) {
    const json_t *rope;
    int r;

    c->rope = (RopeConfig){ .theta = 10000, .factor = 1, .truncate = true };
    if (c->arch == MODEL_ARCH_GEMMA3)
        return read_gemma3_rope(json, c, why);
    r = find_rope_object(json, &rope, why);
    return r ? r : read_rope_object(rope, json, c, &c->rope, why);
}
