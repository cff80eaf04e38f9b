/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata of a GGUF file, understood as llama.cpp does. Keys are "<architecture>.name".
 * "llama" also covers mistral; its queries and keys are stored for the interleaved rotation.
 * Norms of "gemma3" have been given their one by the converter; what that file does not say (which
 * layers slide, the divisor of the largest model's scores) is known of the models there are.
 * llama3's rotary scaling comes as a tensor of divisors. What llama.cpp computes for these
 * architectures and this program does not (experts, partial rotation, longrope) is refused by name.
 */
#include "model/model_config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GEMMA3_LARGEST_LAYERS 62 /* of 27B, whose query_pre_attn_scalar is not head_dim */

typedef struct Source {
    const Gguf *gguf;
    const char *arch; /* prefix of the keys */
    char key[96];     /* the last one asked for */
    ModelConfig *config;
    Reason *why;
} Source;

/* Keys that are missing keep their default, which is already in place. */
static int optional(int r) {
    return r == GGUF_E_ABSENT ? 0 : r;
}

static const char *key_of(Source *s, const char *name) {
    snprintf(s->key, sizeof(s->key), "%s.%s", s->arch, name);
    return s->key;
}

static int get_u32(Source *s, const char *name, uint32_t max, uint32_t *out) {
    return gguf_get_u32(s->gguf, key_of(s, name), 1, max, out, s->why);
}

static int get_float(Source *s, const char *name, float *out) {
    return gguf_get_float(s->gguf, key_of(s, name), out, s->why);
}

static int refuse(const Source *s, const char *format, ...)
    __attribute__((__format__(__printf__, 2, 3)));

static int refuse(const Source *s, const char *format, ...) {
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return reason_set(s->why, -EINVAL, "%s: %s", gguf_path(s->gguf), text);
}

/* architecture */

static bool text_is(const GgufText *text, const char *wanted) {
    return text->size == strlen(wanted) && !memcmp(text->data, wanted, text->size);
}

static int read_arch(Source *s) {
    static const ModelArch archs[] = { MODEL_ARCH_LLAMA, MODEL_ARCH_QWEN2, MODEL_ARCH_QWEN3,
                                       MODEL_ARCH_GEMMA3 };
    const char *key = "general.architecture";
    GgufText name = { .size = 0 };
    int r;

    r = gguf_required(s->gguf, gguf_get_text(s->gguf, key, &name, s->why), key, s->why);
    if (r)
        return r;
    for (size_t i = 0; i < sizeof(archs) / sizeof(*archs); i++)
        if (text_is(&name, model_arch_name(archs[i]))) {
            s->config->arch = archs[i];
            s->arch = model_arch_name(archs[i]);
            return 0;
        }
    return refuse(s,
                  "general.architecture \"%.*s\" is not supported; supported are llama (with "
                  "mistral), qwen2, qwen3 and gemma3",
                  (int)(name.size < 64 ? name.size : 64), name.data);
}

static int check_refused(Source *s) {
    uint32_t n_parts = 1, n_experts = 0;
    float attention_cap = 0, logit_cap = 0;
    bool causal = true;
    int r;

    r = optional(gguf_get_u32(s->gguf, "split.count", 0, UINT32_MAX, &n_parts, s->why));
    if (!r)
        r = optional(
            gguf_get_u32(s->gguf, key_of(s, "expert_count"), 0, UINT32_MAX, &n_experts, s->why));
    if (!r)
        r = optional(gguf_get_bool(s->gguf, key_of(s, "attention.causal"), &causal, s->why));
    if (!r)
        r = optional(get_float(s, "attn_logit_softcapping", &attention_cap));
    if (!r)
        r = optional(get_float(s, "final_logit_softcapping", &logit_cap));
    if (r)
        return r;
    if (attention_cap != 0 || logit_cap != 0)
        return refuse(
            s,
            "attention's scores are capped at %g and logits at %g (attn_logit_softcapping, "
            "final_logit_softcapping; 0: not); soft caps are not supported",
            (double)attention_cap, (double)logit_cap);
    if (n_parts > 1)
        return refuse(s,
                      "it is one of %" PRIu32 " parts of a split model; merge them into one file "
                      "(llama-gguf-split --merge)",
                      n_parts);
    if (n_experts)
        return refuse(s, "the model has %" PRIu32 " experts; mixtures of experts are not supported",
                      n_experts);
    if (!causal)
        return refuse(s, "the model's attention is not causal: it does not generate text");
    return 0;
}

/* shape */

static bool has_tensor(const Source *s, const char *name) {
    return gguf_find_tensor(s->gguf, name) != NULL;
}

static int read_vocabulary(Source *s) {
    const GgufTensor *embed = gguf_find_tensor(s->gguf, "token_embd.weight");

    if (!embed)
        return refuse(s,
                      "tensor \"token_embd.weight\" is missing; a file with the vocabulary alone "
                      "is no model");
    if (embed->dims[1] > MODEL_VOCAB_MAX)
        return refuse(s, "tensor \"token_embd.weight\" has %" PRIu64 " rows; expected at most %u",
                      embed->dims[1], MODEL_VOCAB_MAX);
    s->config->n_vocab = (uint32_t)embed->dims[1];
    s->config->tied_embeddings = !has_tensor(s, "output.weight");
    return 0;
}

static int read_required(Source *s) {
    ModelConfig *c = s->config;
    const struct {
        const char *name;
        uint32_t *out, max;
    } required[] = {
        { "block_count", &c->n_layers, MODEL_LAYERS_MAX },
        { "attention.head_count", &c->n_heads, MODEL_HEADS_MAX },
        { "embedding_length", &c->dim, MODEL_DIM_MAX },
        { "feed_forward_length", &c->ffn_dim, MODEL_DIM_MAX },
        { "context_length", &c->max_position, MODEL_POSITION_MAX },
    };
    int r;

    for (size_t i = 0; i < sizeof(required) / sizeof(*required); i++) {
        r = gguf_required(s->gguf, get_u32(s, required[i].name, required[i].max, required[i].out),
                          s->key, s->why);
        if (r)
            return r;
    }
    return gguf_required(s->gguf, get_float(s, "attention.layer_norm_rms_epsilon", &c->rms_epsilon),
                         s->key, s->why);
}

static int read_heads(Source *s) {
    ModelConfig *c = s->config;
    uint32_t value_dim, rotated;
    int r;

    c->n_kv_heads = c->n_heads;
    c->head_dim = c->dim / c->n_heads;
    r = optional(get_u32(s, "attention.head_count_kv", MODEL_HEADS_MAX, &c->n_kv_heads));
    if (!r)
        r = optional(get_u32(s, "attention.key_length", MODEL_HEAD_DIM_MAX, &c->head_dim));
    value_dim = rotated = c->head_dim;
    if (!r)
        r = optional(get_u32(s, "attention.value_length", MODEL_HEAD_DIM_MAX, &value_dim));
    if (!r)
        r = optional(get_u32(s, "rope.dimension_count", MODEL_HEAD_DIM_MAX, &rotated));
    if (r)
        return r;
    if (value_dim != c->head_dim)
        return refuse(s,
                      "keys have %" PRIu32 " channels and values %" PRIu32
                      "; only equal sizes are supported",
                      c->head_dim, value_dim);
    if (rotated != c->head_dim)
        return refuse(s,
                      "%" PRIu32 " of %" PRIu32
                      " channels are rotated; only models that rotate all are supported",
                      rotated, c->head_dim);
    return 0;
}

static int read_biases(Source *s) {
    ModelConfig *c = s->config;

    c->score_divisor = (float)c->head_dim;
    if (c->arch == MODEL_ARCH_GEMMA3)
        model_config_set_gemma3(c);
    if (c->arch == MODEL_ARCH_GEMMA3 && c->n_layers == GEMMA3_LARGEST_LAYERS)
        c->score_divisor = (float)c->dim / (float)c->n_heads;
    c->qk_norm |= c->arch == MODEL_ARCH_QWEN3;
    c->qkv_bias = c->arch == MODEL_ARCH_QWEN2 || has_tensor(s, "blk.0.attn_q.bias");
    c->o_bias = has_tensor(s, "blk.0.attn_output.bias");
    c->mlp_bias = has_tensor(s, "blk.0.ffn_gate.bias");
    c->rope_interleaved_rows = c->arch == MODEL_ARCH_LLAMA;
    return 0;
}

/* The period of full layers, or a flag for each layer, of which later files have one. */
static int read_pattern(Source *s) {
    ModelConfig *c = s->config;
    uint32_t period = GEMMA3_PERIOD_DEFAULT;
    GgufArray flags;
    int r;

    key_of(s, "attention.sliding_window_pattern");
    if (gguf_is_array(s->gguf, s->key)) {
        r = gguf_get_integers(s->gguf, s->key, &flags, s->why);
        if (r)
            return r;
        if (flags.n != c->n_layers)
            return refuse(s, "key \"%s\" has %zu entries; expected %" PRIu32 ", one a layer",
                          s->key, flags.n, c->n_layers);
        r = model_config_slide_from(c, c->n_layers);
        for (uint32_t l = 0; !r && l < c->n_layers; l++)
            ((bool *)(uintptr_t)c->layer_slides)[l] = gguf_array_i64(&flags, l) != 0;
        return r;
    }
    r = optional(gguf_get_u32(s->gguf, s->key, 1, MODEL_LAYERS_MAX, &period, s->why));
    return r ? r : model_config_slide_but(c, period);
}

/* In llama, every layer slides where the key is; in gemma3, most do; no other architecture here has
 * one. */
static int read_window(Source *s) {
    ModelConfig *c = s->config;
    int r;

    r = optional(gguf_get_u32(s->gguf, key_of(s, "attention.sliding_window"), 0, MODEL_POSITION_MAX,
                              &c->sliding_window, s->why));
    if (r)
        return r;
    if (c->sliding_window && c->arch == MODEL_ARCH_GEMMA3)
        return read_pattern(s);
    if (c->sliding_window && c->arch != MODEL_ARCH_LLAMA)
        return refuse(
            s,
            "key \"%s\": sliding windows are supported in llama and gemma3 only; the file "
            "does not say which layers slide",
            s->key);
    return model_config_slide_from(c, c->sliding_window ? 0 : c->n_layers);
}

/* rotary positions */

static int read_scaling_type(Source *s, RopeScaling *out) {
    GgufText type = { .size = 0 };
    int r;

    *out = ROPE_LINEAR;
    r = gguf_get_text(s->gguf, key_of(s, "rope.scaling.type"), &type, s->why);
    if (r || text_is(&type, "linear"))
        return optional(r);
    if (text_is(&type, "none"))
        *out = ROPE_DEFAULT;
    else if (text_is(&type, "yarn"))
        *out = ROPE_YARN;
    else
        return refuse(s,
                      "rotary scaling \"%.*s\" is not supported; supported are none, linear and "
                      "yarn",
                      (int)(type.size < 64 ? type.size : 64), type.data);
    return 0;
}

static int read_yarn(Source *s) {
    RopeConfig *rope = &s->config->rope;
    float extrapolation = 1, log_multiplier = 0, attention = 1, yarn_attention = 1;
    const struct {
        const char *name;
        float *out;
    } floats[] = {
        { "rope.scaling.yarn_beta_fast", &rope->beta_fast },
        { "rope.scaling.yarn_beta_slow", &rope->beta_slow },
        { "rope.scaling.yarn_ext_factor", &extrapolation },
        { "rope.scaling.yarn_log_multiplier", &log_multiplier },
        { "rope.scaling.attn_factor", &attention },
        { "rope.scaling.yarn_attn_factor", &yarn_attention },
    };
    int r = 0;

    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    rope->original_max_position = s->config->max_position;
    for (size_t i = 0; !r && i < sizeof(floats) / sizeof(*floats); i++)
        r = optional(get_float(s, floats[i].name, floats[i].out));
    if (!r)
        r = optional(get_u32(s, "rope.scaling.original_context_length", MODEL_POSITION_MAX,
                             &rope->original_max_position));
    if (r)
        return r;
    if (extrapolation != 1 || log_multiplier != 0)
        return refuse(s,
                      "yarn_ext_factor %g and yarn_log_multiplier %g are not supported; supported "
                      "are 1 and 0",
                      (double)extrapolation, (double)log_multiplier);
    /* The file's factor multiplies yarn's own, 0.1 ln(factor) + 1. */
    attention *= yarn_attention;
    if (attention != 1 && rope->factor > 1)
        rope->attention_factor = attention * (0.1f * logf(rope->factor) + 1);
    else if (attention != 1)
        rope->attention_factor = attention;
    return 0;
}

/* Divisors of the frequencies, as the converter makes them for llama3's scaling. */
static int read_freq_factors(Source *s) {
    const GgufTensor *t = gguf_find_tensor(s->gguf, "rope_freqs.weight");
    uint32_t n = s->config->head_dim / 2;
    float *factors;

    if (!t)
        return 0;
    if (t->format != WEIGHT_F32 || t->n_dims != 1 || t->dims[0] != n)
        return refuse(
            s, "tensor \"rope_freqs.weight\": expected f32 [%" PRIu32 "], found %s [%" PRIu64 "%s]",
            n, t->type_name, t->dims[0], t->n_dims > 1 ? ", ..." : "");
    factors = malloc(n * sizeof(*factors));
    if (!factors)
        return -ENOMEM;
    memcpy(factors, t->data, n * sizeof(*factors));
    s->config->rope.freq_factors = factors;
    return 0;
}

static int read_rope(Source *s) {
    RopeConfig *rope = &s->config->rope, *local = &s->config->local_rope;
    int r;

    *rope = (RopeConfig){ .theta = 10000 };
    *local = (RopeConfig){ .theta = GEMMA3_LOCAL_THETA_DEFAULT, .factor = 1 };
    r = optional(get_float(s, "rope.freq_base", &rope->theta));
    if (!r && s->config->has_local_rope)
        r = optional(get_float(s, "rope.freq_base_swa", &local->theta));
    if (!r)
        r = read_scaling_type(s, &rope->scaling);
    if (!r) {
        r = get_float(s, "rope.scaling.factor", &rope->factor);
        if (r == GGUF_E_ABSENT)
            r = optional(get_float(s, "rope.scale_linear", &rope->factor));
    }
    if (r)
        return r;
    if (!rope->factor)
        rope->factor = 1;
    if (rope->scaling == ROPE_LINEAR && rope->factor == 1)
        rope->scaling = ROPE_DEFAULT;
    if (rope->scaling == ROPE_YARN)
        r = read_yarn(s);
    return r ? r : read_freq_factors(s);
}

/* generation */

static int read_eos(const Gguf *g, GenerationDefaults *out, Reason *why) {
    static const char *const keys[] = { "tokenizer.ggml.eos_token_id",
                                        "tokenizer.ggml.eot_token_id",
                                        "tokenizer.ggml.eom_token_id" };
    int r;

    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        uint32_t id = 0;
        bool is_new = true;

        r = gguf_get_u32(g, keys[i], 0, UINT32_MAX - 1, &id, why);
        if (r < 0)
            return r;
        for (uint32_t j = 0; j < out->n_eos_ids; j++)
            is_new &= out->eos_ids[j] != id;
        if (!r && is_new)
            out->eos_ids[out->n_eos_ids++] = id;
    }
    return 0;
}

static int read_sampling(const Gguf *g, GenerationDefaults *out, Reason *why) {
    const struct {
        const char *key;
        float *out;
        bool *has;
    } floats[] = {
        { "general.sampling.temp", &out->temperature, &out->has_temperature },
        { "general.sampling.top_p", &out->top_p, &out->has_top_p },
        { "general.sampling.min_p", &out->min_p, &out->has_min_p },
        { "general.sampling.penalty_repeat", &out->repetition_penalty,
          &out->has_repetition_penalty },
    };
    int64_t top_k = 0;
    int r;

    for (size_t i = 0; i < sizeof(floats) / sizeof(*floats); i++) {
        r = gguf_get_float(g, floats[i].key, floats[i].out, why);
        if (r < 0)
            return r;
        *floats[i].has = !r;
    }
    r = gguf_get_i64(g, "general.sampling.top_k", INT32_MIN, INT32_MAX, &top_k, why);
    out->has_top_k = !r;
    out->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    return optional(r);
}

/* the whole */

int gguf_config_read(const Gguf *gguf, ModelConfig *config, GenerationDefaults *generation,
                     Reason *why) {
    static int (*const steps[])(Source *) = {
        read_arch,  check_refused, read_vocabulary, read_required,
        read_heads, read_biases,   read_window,     read_rope,
    };
    Source s = { .gguf = gguf, .config = config, .why = why };
    int r;

    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        r = steps[i](&s);
        if (r)
            return r;
    }
    r = read_eos(gguf, generation, why);
    if (!r)
        r = read_sampling(gguf, generation, why);
    if (r)
        return r;
    r = model_config_check(config, why);
    if (!r)
        r = generation_check(generation, config, why);
    return r ? reason_prefix(why, r, "%s: ", gguf_path(gguf)) : 0;
}
