/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Filling and checking a ModelConfig, whichever container it comes from. Private to the
 * checkpoint: others read the finished struct through model/checkpoint.h.
 */

#include "model/checkpoint.h"
#include "model/gguf.h"

/* Bounds of what a file may claim: far above any real model, small enough that no product of two
 * of them overflows and no table sized by one of them is a burden. */
#define MODEL_LAYERS_MAX 4096
#define MODEL_HEADS_MAX 4096
#define MODEL_HEAD_DIM_MAX 1024
#define MODEL_DIM_MAX (1u << 20)
#define MODEL_VOCAB_MAX (1u << 22)
#define MODEL_POSITION_MAX (1u << 30)

/* Read a directory's config.json and generation_config.json (the latter may be missing), or a GGUF
 * file's metadata. The config's arrays are allocated and belong to the caller, also after an error:
 * model_config_deinit. The config is zero before, `generation` neutral. -EINVAL, -ENOENT, -ENOMEM;
 * `why` begins with the path of the file at fault. */
int hf_config_read(const char *directory, ModelConfig *config, GenerationDefaults *generation,
                   Reason *why);
int gguf_config_read(const Gguf *gguf, ModelConfig *config, GenerationDefaults *generation,
                     Reason *why);
void model_config_deinit(ModelConfig *config);

/* What must hold between the numbers, and within the bounds of formulas. The sentence does not
 * name the file. */
int model_config_check(const ModelConfig *config, Reason *why);
int generation_check(const GenerationDefaults *generation, const ModelConfig *config, Reason *why);

/* Which layers slide: those from `first` on; or all but each period-th. 0, -ENOMEM. */
int model_config_slide_from(ModelConfig *config, uint32_t first);
int model_config_slide_but(ModelConfig *config, uint32_t period);

/* What all Gemma 3 models have in common, in either container; and how many layers they have to one
 * that does not slide, and the base of the rotation of those that do, where a file says nothing. */
void model_config_set_gemma3(ModelConfig *config);
#define GEMMA3_PERIOD_DEFAULT 6
#define GEMMA3_LOCAL_THETA_DEFAULT 10000

/* "llama, mistral, qwen2, qwen3 and gemma3_text", for error messages. */
extern const char model_archs_supported[];
