/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model on disk, opened: its shape, its tensors, its generation defaults. Two containers, one
 * answer: a `.gguf` file, or a directory in Hugging Face layout (config.json, *.safetensors).
 * Everything is mapped, nothing is copied, and nothing in the file is trusted: every length,
 * offset, count, shape and type is checked before use.
 */

#include "backend/activation.h"
#include "backend/weight_format.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ModelArch {
    MODEL_ARCH_LLAMA,
    MODEL_ARCH_MISTRAL,
    MODEL_ARCH_QWEN2,
    MODEL_ARCH_QWEN3,
    MODEL_ARCH_GEMMA3,
    MODEL_ARCHS
} ModelArch;

typedef enum RopeScaling {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
} RopeScaling;

typedef struct RopeConfig {
    RopeScaling scaling;
    float theta;
    float factor;
    float low_freq_factor, high_freq_factor;        /* llama3 */
    float beta_fast, beta_slow;                     /* yarn: 32, 1 where not given */
    float attention_factor, mscale, mscale_all_dim; /* yarn; 0: not given */
    bool truncate;                                  /* yarn: round the ramp's ends; default true */
    uint32_t original_max_position;                 /* llama3, yarn */
    const float *freq_factors; /* [head_dim / 2] divisors of the frequencies (GGUF
                                  rope_freqs.weight), or NULL; owned by the checkpoint */
} RopeConfig;

typedef struct ModelConfig {
    ModelArch arch;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim;
    uint32_t dim;     /* hidden size */
    uint32_t ffn_dim; /* intermediate size */
    uint32_t n_vocab; /* rows of the embedding table */
    uint32_t max_position;
    float rms_epsilon;
    uint32_t sliding_window;  /* of the layers that have one; 0: none has */
    const bool *layer_slides; /* [n_layers]; owned by the checkpoint */
    bool tied_embeddings;     /* the output head is the embedding table */
    bool qkv_bias, o_bias;    /* attention projections carry biases */
    bool mlp_bias;
    bool qk_norm;               /* RMS norm of each query and key head before rotation */
    bool post_norms;            /* RMS norms of what attention and MLP give, before it is added */
    bool norms_less_one;        /* norms are stored as their weights less 1 */
    bool scaled_embeddings;     /* embeddings are multiplied by the root of dim, rounded to the
                                   type of their table */
    Activation activation;      /* of the MLP's gate */
    float score_divisor;        /* scores are divided by the root of this, usually head_dim */
    bool rope_interleaved_rows; /* GGUF llama: rows of q and k are stored in pairs (0, 1), (2, 3),
                                   ... where this tree uses halves (c, c + head_dim / 2) */
    RopeConfig rope;
    bool has_local_rope;   /* layers that slide have frequencies of their own: */
    RopeConfig local_rope; /* freq_factors NULL */
} ModelConfig;

#define MODEL_EOS_MAX 16

/* From generation_config.json, and the ids that end a text from config.json where the former gives
 * none; from the metadata in GGUF. What is not there has its neutral value. Every id is below
 * n_vocab, every value within the bounds of sampling. As in vLLM, do_sample does not matter. */
typedef struct GenerationDefaults {
    uint32_t eos_ids[MODEL_EOS_MAX];
    uint32_t n_eos_ids;
    bool has_temperature, has_top_p, has_top_k, has_min_p, has_repetition_penalty;
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k;
} GenerationDefaults;

typedef struct TensorView {
    const char *name; /* borrowed from the checkpoint */
    WeightFormat format;
    uint32_t n_dims;   /* 1 or 2 */
    uint32_t shape[2]; /* [rows, columns], or [n, 1] */
    const void *data;  /* mapped; lives as long as the checkpoint */
    size_t size_bytes;
} TensorView;

/* The tensors of a decoder, by role instead of by each container's names. */
typedef enum TensorRole {
    TENSOR_EMBED,          /* [n_vocab, dim] */
    TENSOR_OUTPUT_NORM,    /* [dim] */
    TENSOR_OUTPUT,         /* [n_vocab, dim] */
    TENSOR_ATTENTION_NORM, /* from here on per layer; [dim] */
    TENSOR_Q,              /* [n_heads * head_dim, dim] */
    TENSOR_K,              /* [n_kv_heads * head_dim, dim] */
    TENSOR_V,
    TENSOR_O, /* [dim, n_heads * head_dim] */
    TENSOR_Q_BIAS,
    TENSOR_K_BIAS,
    TENSOR_V_BIAS,
    TENSOR_O_BIAS,
    TENSOR_Q_NORM, /* [head_dim] */
    TENSOR_K_NORM,
    TENSOR_ATTENTION_POST_NORM, /* [dim] */
    TENSOR_FFN_NORM,            /* [dim] */
    TENSOR_GATE,                /* [ffn_dim, dim] */
    TENSOR_UP,                  /* [ffn_dim, dim] */
    TENSOR_DOWN,                /* [dim, ffn_dim] */
    TENSOR_GATE_BIAS,
    TENSOR_UP_BIAS,
    TENSOR_DOWN_BIAS,
    TENSOR_FFN_POST_NORM, /* [dim] */
    TENSOR_ROLES
} TensorRole;

typedef struct Checkpoint Checkpoint;

/* Opens and checks everything: an unsupported architecture or type, a missing tensor, one that
 * belongs to no role, a wrong shape or a cut file is -EINVAL (or the errno of opening; -ENOENT for
 * a missing shard) with the file, the tensor and what was expected in `why`. Norms and biases are
 * f32, f16 or bf16. The files must not shrink while they are open (util/mapped_file.h). */
int checkpoint_open(Checkpoint **outp, const char *path, Reason *why);
Checkpoint *checkpoint_free(Checkpoint *checkpoint);
CLEANUP_DEFINE(Checkpoint, checkpoint_free);

const ModelConfig *checkpoint_config(const Checkpoint *checkpoint);
const GenerationDefaults *checkpoint_generation(const Checkpoint *checkpoint);
/* The tensor of a role (`layer` ignored for the first three); NULL if this model has none there
 * (no bias, tied output). Shapes were checked at open. */
const TensorView *checkpoint_tensor(const Checkpoint *checkpoint, TensorRole role, uint32_t layer);

const char *model_arch_name(ModelArch arch);
