/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The rotary positions of a config.json, in the spellings that published checkpoints and
 * Transformers 5 have for them. Private to model/hf_config.c.
 */

#include "model/model_config.h"
#include "util/json.h"

/* Fills in `rope`, and `local_rope` where the config has that; max_position must be there. -EINVAL.
 */
int hf_rope_read(const json_t *json, ModelConfig *config, Reason *why);
