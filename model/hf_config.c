/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.json and generation_config.json, understood as Transformers 5 does, older spellings
 * included. The defaults of keys that are missing are those of each model's configuration class
 * there. What would change the model's answers and is not computed here (another activation,
 * partial rotation, quantized weights, an unknown rotary scaling) is refused by name; other keys
 * are ignored.
 */
#include "model/hf_rope.h"
#include "model/model_config.h"

#include "util/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_DEFAULT 4096          /* of mistral, qwen2 and qwen3 */
#define MAX_WINDOW_LAYERS_DEFAULT 28 /* of qwen2 and qwen3 */
#define QWEN3_HEAD_DIM_DEFAULT 128
#define GEMMA3_HEAD_DIM_DEFAULT 256
#define GEMMA3_KV_HEADS_DEFAULT 4

static const char *const causal_classes[MODEL_ARCHS] = {
    [MODEL_ARCH_LLAMA] = "LlamaForCausalLM",   [MODEL_ARCH_MISTRAL] = "MistralForCausalLM",
    [MODEL_ARCH_QWEN2] = "Qwen2ForCausalLM",   [MODEL_ARCH_QWEN3] = "Qwen3ForCausalLM",
    [MODEL_ARCH_GEMMA3] = "Gemma3ForCausalLM",
};

static const char *const model_types[MODEL_ARCHS] = {
    [MODEL_ARCH_LLAMA] = "llama", [MODEL_ARCH_MISTRAL] = "mistral",    [MODEL_ARCH_QWEN2] = "qwen2",
    [MODEL_ARCH_QWEN3] = "qwen3", [MODEL_ARCH_GEMMA3] = "gemma3_text",
};

/* An absent key keeps its default, which is already in place. */
static int optional(int r) {
    return r == JSON_E_ABSENT ? 0 : r;
}

/* architecture */

static int read_arch(const json_t *json, ModelConfig *c, Reason *why) {
    const char *type = NULL;
    const json_t *classes = NULL;
    const json_t *name;
    size_t i;
    int r;

    r = json_required(json_get_word(json, "model_type", &type, why), "model_type", why);
    if (r)
        return r;
    for (c->arch = 0; c->arch < MODEL_ARCHS; c->arch++)
        if (!strcmp(type, model_types[c->arch]))
            break;
    if (c->arch == MODEL_ARCHS && !strcmp(type, "gemma3"))
        return reason_set(why, -EINVAL,
                          "model_type \"gemma3\" is the model that sees images; supported is its "
                          "text model alone, gemma3_text, or either as a GGUF file");
    if (c->arch == MODEL_ARCHS)
        return reason_set(why, -EINVAL, "model_type \"%s\" is not supported; supported are %s",
                          type, model_archs_supported);
    r = json_get_array(json, "architectures", &classes, why);
    if (r)
        return optional(r);
    json_array_foreach(classes, i, name) {
        if (json_string_is(name, causal_classes[c->arch]))
            return 0;
    }
    return json_array_size(classes) ? reason_set(why, -EINVAL,
                                                 "architectures does not list %s: this is no model "
                                                 "that generates text",
                                                 causal_classes[c->arch])
                                    : 0;
}

/* shape */

static void set_shape_defaults(ModelConfig *c) {
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->dim / c->n_heads;
    c->rms_epsilon = 1e-6f;
    if (c->arch == MODEL_ARCH_QWEN3)
        c->head_dim = QWEN3_HEAD_DIM_DEFAULT;
    if (c->arch == MODEL_ARCH_GEMMA3) {
        c->n_kv_heads = GEMMA3_KV_HEADS_DEFAULT;
        c->head_dim = GEMMA3_HEAD_DIM_DEFAULT;
        c->tied_embeddings = true;
    }
}

static int read_shape(const json_t *json, ModelConfig *c, Reason *why) {
    const struct {
        const char *key;
        uint32_t *out, max;
    } required[] = {
        { "num_hidden_layers", &c->n_layers, MODEL_LAYERS_MAX },
        { "num_attention_heads", &c->n_heads, MODEL_HEADS_MAX },
        { "hidden_size", &c->dim, MODEL_DIM_MAX },
        { "intermediate_size", &c->ffn_dim, MODEL_DIM_MAX },
        { "vocab_size", &c->n_vocab, MODEL_VOCAB_MAX },
        { "max_position_embeddings", &c->max_position, MODEL_POSITION_MAX },
    };
    int r;

    for (size_t i = 0; i < sizeof(required) / sizeof(*required); i++) {
        r = json_required(
            json_get_u32(json, required[i].key, 1, required[i].max, required[i].out, why),
            required[i].key, why);
        if (r)
            return r;
    }
    set_shape_defaults(c);
    r = optional(
        json_get_u32(json, "num_key_value_heads", 1, MODEL_HEADS_MAX, &c->n_kv_heads, why));
    if (!r)
        r = optional(json_get_u32(json, "head_dim", 2, MODEL_HEAD_DIM_MAX, &c->head_dim, why));
    if (!r)
        r = optional(json_get_float(json, "rms_norm_eps", &c->rms_epsilon, why));
    if (!r)
        r = optional(json_get_bool(json, "tie_word_embeddings", &c->tied_embeddings, why));
    c->score_divisor = (float)c->head_dim;
    return r;
}

static int read_biases(const json_t *json, ModelConfig *c, Reason *why) {
    int r = 0;

    c->qk_norm |= c->arch == MODEL_ARCH_QWEN3;
    switch (c->arch) {
    case MODEL_ARCH_LLAMA:
        r = optional(json_get_bool(json, "mlp_bias", &c->mlp_bias, why));
        /* fallthrough */
    case MODEL_ARCH_QWEN3:
    case MODEL_ARCH_GEMMA3:
        if (!r)
            r = optional(json_get_bool(json, "attention_bias", &c->qkv_bias, why));
        c->o_bias = c->qkv_bias;
        return r;
    case MODEL_ARCH_QWEN2:
        c->qkv_bias = true;
        return 0;
    default:
        return 0;
    }
}

/* What Gemma 3 has beyond the others. */
static int read_gemma3(const json_t *json, ModelConfig *c, Reason *why) {
    static const char *const caps[] = { "attn_logit_softcapping", "final_logit_softcapping" };
    bool is_bidirectional = false;
    int r = 0;

    if (c->arch != MODEL_ARCH_GEMMA3)
        return 0;
    model_config_set_gemma3(c);
    c->norms_less_one = true;
    c->score_divisor = GEMMA3_HEAD_DIM_DEFAULT;
    for (size_t i = 0; !r && i < sizeof(caps) / sizeof(*caps); i++) {
        float cap;

        r = json_get_float(json, caps[i], &cap, why);
        if (!r)
            return reason_set(why, -EINVAL, "%s is %g; soft caps are not supported, only null is",
                              caps[i], (double)cap);
        r = optional(r);
    }
    if (!r)
        r = optional(json_get_bool(json, "use_bidirectional_attention", &is_bidirectional, why));
    if (!r)
        r = optional(json_get_float(json, "query_pre_attn_scalar", &c->score_divisor, why));
    if (r)
        return r;
    return is_bidirectional ? reason_set(why, -EINVAL,
                                         "use_bidirectional_attention is true: the model does not "
                                         "generate text")
                            : 0;
}

static int check_activation(const json_t *json, const ModelConfig *c, Reason *why) {
    bool is_gemma3 = c->arch == MODEL_ARCH_GEMMA3;
    const char *key = is_gemma3 ? "hidden_activation" : "hidden_act";
    const char *supported = is_gemma3 ? "gelu_pytorch_tanh" : "silu", *activation = supported;
    int r = optional(json_get_word(json, key, &activation, why));

    if (r || !strcmp(activation, supported) || (!is_gemma3 && !strcmp(activation, "swish")))
        return r;
    return reason_set(why, -EINVAL, "%s \"%s\" is not supported; supported is %s", key, activation,
                      supported);
}

static int check_refused(const json_t *json, ModelConfig *c, Reason *why) {
    const json_t *quantization = NULL;
    const char *method = "a method not named";
    int r;

    r = check_activation(json, c, why);
    if (r)
        return r;
    r = json_get_object(json, "quantization_config", &quantization, why);
    if (r)
        return optional(r);
    r = optional(json_get_word(quantization, "quant_method", &method, why));
    if (r)
        return r;
    return reason_set(why, -EINVAL,
                      "quantization_config: weights quantized by %s are not supported; use the "
                      "unquantized model or a GGUF file",
                      method);
}

/* sliding windows */

static int read_layer_types(const json_t *json, ModelConfig *c, Reason *why) {
    const json_t *types = NULL, *type;
    CLEANUP(free) bool *slides = NULL;
    char found[64];
    size_t l;
    int r;

    r = json_get_array(json, "layer_types", &types, why);
    if (r)
        return r;
    if (json_array_size(types) != c->n_layers)
        return reason_set(why, -EINVAL,
                          "layer_types has %zu entries; expected num_hidden_layers, %" PRIu32,
                          json_array_size(types), c->n_layers);
    slides = calloc(c->n_layers, sizeof(*slides));
    if (!slides)
        return -ENOMEM;
    json_array_foreach(types, l, type) {
        slides[l] = json_string_is(type, "sliding_attention");
        if (!slides[l] && !json_string_is(type, "full_attention"))
            return reason_set(why, -EINVAL,
                              "layer_types[%zu] is %s; supported are full_attention and "
                              "sliding_attention",
                              l, json_describe(type, found, sizeof(found)));
        if (slides[l] && !c->sliding_window)
            return reason_set(why, -EINVAL,
                              "layer_types[%zu] slides, but the model has no sliding_window", l);
    }
    c->layer_slides = TAKE(slides);
    return 0;
}

/* Mistral: every layer slides unless sliding_window is null. Its default is for a missing key. */
static int read_mistral_window(const json_t *json, ModelConfig *c, Reason *why) {
    int r;

    if (!json_object_get(json, "sliding_window"))
        c->sliding_window = WINDOW_DEFAULT;
    r = optional(
        json_get_u32(json, "sliding_window", 1, MODEL_POSITION_MAX, &c->sliding_window, why));
    if (r)
        return r;
    return model_config_slide_from(c, c->sliding_window ? 0 : c->n_layers);
}

/* Qwen: only if use_sliding_window, and then the layers of layer_types, or those from
 * max_window_layers on. */
static int read_qwen_window(const json_t *json, ModelConfig *c, Reason *why) {
    uint32_t first = MAX_WINDOW_LAYERS_DEFAULT, window = 0;
    bool use_window = false;
    int r;

    if (!json_object_get(json, "sliding_window"))
        window = WINDOW_DEFAULT;
    r = optional(json_get_bool(json, "use_sliding_window", &use_window, why));
    if (!r && use_window)
        r = optional(json_get_u32(json, "sliding_window", 1, MODEL_POSITION_MAX, &window, why));
    if (!r)
        r = optional(json_get_u32(json, "max_window_layers", 0, UINT32_MAX, &first, why));
    if (r)
        return r;
    c->sliding_window = use_window ? window : 0;
    r = read_layer_types(json, c, why);
    if (r != JSON_E_ABSENT)
        return r;
    return model_config_slide_from(c, c->sliding_window ? first : c->n_layers);
}

/* Gemma 3: the layers of layer_types, or all but each sliding_window_pattern-th. */
static int read_gemma3_window(const json_t *json, ModelConfig *c, Reason *why) {
    uint32_t period = GEMMA3_PERIOD_DEFAULT;
    int r;

    if (!json_object_get(json, "sliding_window"))
        c->sliding_window = WINDOW_DEFAULT;
    r = optional(
        json_get_u32(json, "sliding_window", 1, MODEL_POSITION_MAX, &c->sliding_window, why));
    if (!r)
        r = optional(
            json_get_u32(json, "sliding_window_pattern", 1, MODEL_LAYERS_MAX, &period, why));
    if (r)
        return r;
    r = read_layer_types(json, c, why);
    if (r != JSON_E_ABSENT)
        return r;
    if (!c->sliding_window && period > 1)
        return reason_set(why, -EINVAL,
                          "sliding_window is null, but layers slide; expected a number");
    return model_config_slide_but(c, period);
}

static int read_window(const json_t *json, ModelConfig *c, Reason *why) {
    switch (c->arch) {
    case MODEL_ARCH_MISTRAL:
        return read_mistral_window(json, c, why);
    case MODEL_ARCH_QWEN2:
    case MODEL_ARCH_QWEN3:
        return read_qwen_window(json, c, why);
    case MODEL_ARCH_GEMMA3:
        return read_gemma3_window(json, c, why);
    default:
        return model_config_slide_from(c, c->n_layers);
    }
}

/* generation */

static int add_eos(GenerationDefaults *g, const json_t *value, Reason *why) {
    int64_t id;

    if (!json_as_i64(value, 0, UINT32_MAX - 1, &id))
        return reason_set(why, -EINVAL,
                          "key \"eos_token_id\": expected a token id or an array of token ids");
    if (g->n_eos_ids == MODEL_EOS_MAX)
        return reason_set(why, -EINVAL, "key \"eos_token_id\": more than %d ids", MODEL_EOS_MAX);
    g->eos_ids[g->n_eos_ids++] = (uint32_t)id;
    return 0;
}

/* One id or several; absent or null adds none. */
static int read_eos(const json_t *json, GenerationDefaults *g, Reason *why) {
    const json_t *value = json_object_get(json, "eos_token_id"), *item;
    size_t i;
    int r;

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_array(value))
        return add_eos(g, value, why);
    json_array_foreach(value, i, item) {
        r = add_eos(g, item, why);
        if (r)
            return r;
    }
    return 0;
}

/* As vLLM: the values count whether or not do_sample is set. */
static int read_sampling(const json_t *json, GenerationDefaults *g, Reason *why) {
    const struct {
        const char *key;
        float *out;
        bool *has;
    } floats[] = {
        { "temperature", &g->temperature, &g->has_temperature },
        { "top_p", &g->top_p, &g->has_top_p },
        { "min_p", &g->min_p, &g->has_min_p },
        { "repetition_penalty", &g->repetition_penalty, &g->has_repetition_penalty },
    };
    int64_t top_k = 0;
    int r;

    for (size_t i = 0; i < sizeof(floats) / sizeof(*floats); i++) {
        r = json_get_float(json, floats[i].key, floats[i].out, why);
        if (r < 0)
            return r;
        *floats[i].has = !r;
    }
    r = json_get_i64(json, "top_k", -1, UINT32_MAX, &top_k, why);
    g->has_top_k = !r;
    g->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    return optional(r);
}

static int read_generation(const char *path, const ModelConfig *c, GenerationDefaults *g,
                           Reason *why) {
    CLEANUP(json_unref) json_t *json = NULL;
    int r;

    r = json_load_path(&json, path, 0, why);
    if (r == -ENOENT)
        return 0;
    if (r)
        return r;
    r = json_is_object(json) ? 0 : reason_set(why, -EINVAL, "expected a JSON object");
    if (!r)
        r = read_eos(json, g, why);
    if (!r)
        r = read_sampling(json, g, why);
    if (!r)
        r = generation_check(g, c, why);
    return r ? reason_prefix(why, r, "%s: ", path) : 0;
}

/* the whole */

static int read_config(const json_t *json, ModelConfig *c, Reason *why) {
    static int (*const steps[])(const json_t *, ModelConfig *, Reason *) = {
        read_arch, read_shape, read_gemma3, read_biases, read_window, hf_rope_read, check_refused,
    };
    int r;

    if (!json_is_object(json))
        return reason_set(why, -EINVAL, "expected a JSON object");
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        r = steps[i](json, c, why);
        if (r)
            return r;
    }
    return model_config_check(c, why);
}

int hf_config_read(const char *directory, ModelConfig *config, GenerationDefaults *generation,
                   Reason *why) {
    CLEANUP(free) char *path = NULL, *generation_path = NULL;
    CLEANUP(json_unref) json_t *json = NULL;
    int r;

    if (asprintf(&path, "%s/config.json", directory) < 0 ||
        asprintf(&generation_path, "%s/generation_config.json", directory) < 0)
        return reason_set(why, -ENOMEM, "%s: out of memory", directory);
    r = json_load_path(&json, path, 0, why);
    if (r)
        return r;
    r = read_config(json, config, why);
    if (r)
        return reason_prefix(why, r, "%s: ", path);
    r = read_generation(generation_path, config, generation, why);
    if (r || generation->n_eos_ids)
        return r;
    r = read_eos(json, generation, why);
    if (!r)
        r = generation_check(generation, config, why);
    return r ? reason_prefix(why, r, "%s: ", path) : 0;
}
