/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model_config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

const char model_archs_supported[] = "llama, mistral, qwen2, qwen3 and gemma3_text";

const char *model_arch_name(ModelArch arch) {
    static const char *const names[MODEL_ARCHS] = {
        [MODEL_ARCH_LLAMA] = "llama",   [MODEL_ARCH_MISTRAL] = "mistral",
        [MODEL_ARCH_QWEN2] = "qwen2",   [MODEL_ARCH_QWEN3] = "qwen3",
        [MODEL_ARCH_GEMMA3] = "gemma3",
    };

    return names[arch];
}

void model_config_deinit(ModelConfig *config) {
    free((void *)(uintptr_t)config->layer_slides);
    free((void *)(uintptr_t)config->rope.freq_factors);
    *config = (ModelConfig){ 0 };
}

int model_config_slide_from(ModelConfig *config, uint32_t first) {
    bool *slides = calloc(config->n_layers, sizeof(*slides));

    if (!slides)
        return -ENOMEM;
    for (uint32_t l = first; l < config->n_layers; l++)
        slides[l] = true;
    config->layer_slides = slides;
    return 0;
}

int model_config_slide_but(ModelConfig *config, uint32_t period) {
    bool *slides = calloc(config->n_layers, sizeof(*slides));

    if (!slides)
        return -ENOMEM;
    for (uint32_t l = 0; l < config->n_layers; l++)
        slides[l] = (l + 1) % period != 0;
    config->layer_slides = slides;
    return 0;
}

void model_config_set_gemma3(ModelConfig *config) {
    config->qk_norm = true;
    config->post_norms = true;
    config->scaled_embeddings = true;
    config->activation = ACTIVATION_GELU_TANH;
    config->has_local_rope = true;
}

static bool is_positive(float x) {
    return x > 0 && isfinite(x);
}

static int check_rope(const RopeConfig *rope, uint32_t head_dim, Reason *why) {
    if (!(rope->theta > 1))
        return reason_set(why, -EINVAL, "the rotary base (theta) is %g; expected more than 1",
                          (double)rope->theta);
    if (rope->scaling != ROPE_DEFAULT && !is_positive(rope->factor))
        return reason_set(why, -EINVAL, "the rotary scaling factor is %g; expected more than 0",
                          (double)rope->factor);
    if (rope->scaling == ROPE_LLAMA3 &&
        !(is_positive(rope->low_freq_factor) && rope->high_freq_factor > rope->low_freq_factor))
        return reason_set(
            why, -EINVAL,
            "rotary scaling \"llama3\" has low_freq_factor %g and high_freq_factor %g; "
            "expected 0 < low < high",
            (double)rope->low_freq_factor, (double)rope->high_freq_factor);
    if (rope->scaling == ROPE_YARN &&
        !(is_positive(rope->beta_slow) && is_positive(rope->beta_fast)))
        return reason_set(
            why, -EINVAL,
            "rotary scaling \"yarn\" has beta_fast %g and beta_slow %g; expected more "
            "than 0",
            (double)rope->beta_fast, (double)rope->beta_slow);
    for (uint32_t i = 0; rope->freq_factors && i < head_dim / 2; i++)
        if (!is_positive(rope->freq_factors[i]))
            return reason_set(why, -EINVAL,
                              "rotary frequency factor %" PRIu32 " is %g; expected more than 0", i,
                              (double)rope->freq_factors[i]);
    return 0;
}

int model_config_check(const ModelConfig *c, Reason *why) {
    if (!c->n_kv_heads || c->n_heads % c->n_kv_heads)
        return reason_set(why, -EINVAL,
                          "%" PRIu32 " attention heads cannot share %" PRIu32
                          " key-value heads evenly",
                          c->n_heads, c->n_kv_heads);
    if (!c->head_dim || c->head_dim % 2 || c->head_dim > MODEL_HEAD_DIM_MAX)
        return reason_set(why, -EINVAL,
                          "the attention heads have %" PRIu32
                          " channels; expected an even number up to %d",
                          c->head_dim, MODEL_HEAD_DIM_MAX);
    if (!(c->rms_epsilon >= 0 && c->rms_epsilon < 1))
        return reason_set(why, -EINVAL, "the norms' epsilon is %g; expected 0 to 1",
                          (double)c->rms_epsilon);
    if (!is_positive(c->score_divisor))
        return reason_set(
            why, -EINVAL,
            "attention's scores are divided by the root of %g (query_pre_attn_scalar);"
            " expected more than 0",
            (double)c->score_divisor);
    if (c->has_local_rope && check_rope(&c->local_rope, c->head_dim, why))
        return reason_prefix(why, -EINVAL, "layers with a sliding window: ");
    return check_rope(&c->rope, c->head_dim, why);
}

int generation_check(const GenerationDefaults *g, const ModelConfig *c, Reason *why) {
    for (uint32_t i = 0; i < g->n_eos_ids; i++)
        if (g->eos_ids[i] >= c->n_vocab)
            return reason_set(why, -EINVAL,
                              "end-of-text id %" PRIu32 " is outside the vocabulary of %" PRIu32,
                              g->eos_ids[i], c->n_vocab);
    if (g->has_temperature && !(g->temperature >= 0 && isfinite(g->temperature)))
        return reason_set(why, -EINVAL, "temperature is %g; expected 0 or more",
                          (double)g->temperature);
    if (g->has_top_p && !(g->top_p > 0 && g->top_p <= 1))
        return reason_set(why, -EINVAL, "top_p is %g; expected more than 0, up to 1",
                          (double)g->top_p);
    if (g->has_min_p && !(g->min_p >= 0 && g->min_p <= 1))
        return reason_set(why, -EINVAL, "min_p is %g; expected 0 to 1", (double)g->min_p);
    if (g->has_repetition_penalty && !is_positive(g->repetition_penalty))
        return reason_set(why, -EINVAL, "repetition_penalty is %g; expected more than 0",
                          (double)g->repetition_penalty);
    return 0;
}
