/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fields go into the hash one by one: structs have padding, and pointers.
 */
#include "model/identity.h"

#include <string.h>

#define IDENTITY_VERSION 2 /* the seed: what is hashed, and in which order */
#define SAMPLE_BYTES 4096

static void hash_u32(Hasher *hasher, uint32_t value) {
    hasher_update(hasher, &value, sizeof(value));
}

static void hash_float(Hasher *hasher, float value) {
    hasher_update(hasher, &value, sizeof(value));
}

static void hash_text(Hasher *hasher, const char *text) {
    hasher_update(hasher, text, strlen(text) + 1);
}

static void hash_rope(Hasher *hasher, const RopeConfig *rope, uint32_t head_dim) {
    hash_u32(hasher, rope->scaling);
    hash_float(hasher, rope->theta);
    hash_float(hasher, rope->factor);
    hash_float(hasher, rope->low_freq_factor);
    hash_float(hasher, rope->high_freq_factor);
    hash_float(hasher, rope->beta_fast);
    hash_float(hasher, rope->beta_slow);
    hash_float(hasher, rope->attention_factor);
    hash_float(hasher, rope->mscale);
    hash_float(hasher, rope->mscale_all_dim);
    hash_u32(hasher, rope->truncate);
    hash_u32(hasher, rope->original_max_position);
    hash_u32(hasher, rope->freq_factors != NULL);
    if (rope->freq_factors)
        hasher_update(hasher, rope->freq_factors, head_dim / 2 * sizeof(*rope->freq_factors));
}

static void hash_config(Hasher *hasher, const ModelConfig *config) {
    hash_text(hasher, model_arch_name(config->arch));
    hash_u32(hasher, config->n_layers);
    hash_u32(hasher, config->n_heads);
    hash_u32(hasher, config->n_kv_heads);
    hash_u32(hasher, config->head_dim);
    hash_u32(hasher, config->dim);
    hash_u32(hasher, config->ffn_dim);
    hash_u32(hasher, config->n_vocab);
    hash_u32(hasher, config->max_position);
    hash_float(hasher, config->rms_epsilon);
    hash_u32(hasher, config->sliding_window);
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        hash_u32(hasher, config->layer_slides && config->layer_slides[layer]);
    hash_u32(hasher, config->tied_embeddings);
    hash_u32(hasher, config->qkv_bias);
    hash_u32(hasher, config->o_bias);
    hash_u32(hasher, config->mlp_bias);
    hash_u32(hasher, config->qk_norm);
    hash_u32(hasher, config->post_norms);
    hash_u32(hasher, config->norms_less_one);
    hash_u32(hasher, config->scaled_embeddings);
    hash_u32(hasher, config->activation);
    hash_float(hasher, config->score_divisor);
    hash_u32(hasher, config->rope_interleaved_rows);
    hash_rope(hasher, &config->rope, config->head_dim);
    hash_u32(hasher, config->has_local_rope);
    hash_rope(hasher, &config->local_rope, config->head_dim);
}

static void hash_sample(Hasher *hasher, const TensorView *tensor, size_t offset) {
    size_t n = tensor->size_bytes - offset;

    hasher_update(hasher, (const uint8_t *)tensor->data + offset,
                  n < SAMPLE_BYTES ? n : SAMPLE_BYTES);
}

static void hash_tensor(Hasher *hasher, const Checkpoint *checkpoint, TensorRole role,
                        uint32_t layer) {
    const TensorView *tensor = checkpoint_tensor(checkpoint, role, layer);
    uint64_t size_bytes = tensor ? tensor->size_bytes : 0;

    hasher_update(hasher, &size_bytes, sizeof(size_bytes));
    if (!tensor)
        return;
    hash_text(hasher, tensor->name);
    hash_text(hasher, weight_formats[tensor->format].name);
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        hash_u32(hasher, tensor->shape[i]);
    hash_sample(hasher, tensor, 0);
    hash_sample(hasher, tensor, tensor->size_bytes / 2);
}

const char *model_identity(const Checkpoint *checkpoint, char hex[HASH128_HEX_BYTES]) {
    const ModelConfig *config = checkpoint_config(checkpoint);
    Hasher hasher;

    hasher_init(&hasher, IDENTITY_VERSION);
    hash_config(&hasher, config);
    for (TensorRole role = 0; role < TENSOR_ATTENTION_NORM; role++)
        hash_tensor(&hasher, checkpoint, role, 0);
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        for (TensorRole role = TENSOR_ATTENTION_NORM; role < TENSOR_ROLES; role++)
            hash_tensor(&hasher, checkpoint, role, layer);
    return hash128_to_hex(hasher_digest(&hasher), hex);
}
