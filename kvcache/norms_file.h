/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Norms of a model's W_K and W_V from a file as the repository of "Quantize What Counts" (arXiv
 * 2502.15075) has them: JSON, {"w_k": [...], "w_v": [...]}, one number a layer. It does not say
 * which norm they are, nor of which model.
 */

#include "kvcache/kv_layout.h"
#include "util/reason.h"

#define NORMS_FILE_MAX 1e30 /* so that squares and their sums are finite */

typedef struct NormsFile {
    uint32_t n_layers;
    double norms[KV_SIDES][KV_LAYERS_MAX]; /* [n_layers] used; not negative */
} NormsFile;

/* -EINVAL with the path, the key, the layer and what was found there; -ENOMEM; -errno where the
 * file cannot be read. */
int norms_file_load(NormsFile *out, const char *path, Reason *why);
