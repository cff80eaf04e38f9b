/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The tensors of a directory in Hugging Face layout: `model.safetensors`, or the shards that
 * `model.safetensors.index.json` names. Mapped and checked at open as the format's own reader
 * does: header, types, shapes and offsets, no overlaps and no holes, no name twice. Knows nothing
 * of what a model needs. Immutable after open.
 */

#include "backend/weight_format.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Safetensors Safetensors;

#define SAFETENSORS_DIMS_MAX 8

/* All pointers are borrowed from the Safetensors. */
typedef struct SafetensorsTensor {
    const char *name;
    const char *path;    /* of the file it is in */
    const char *dtype;   /* as written: "BF16" */
    WeightFormat format; /* WEIGHT_FORMATS: a type this program cannot compute with */
    uint32_t n_dims;     /* 0 .. 8 */
    uint64_t dims[SAFETENSORS_DIMS_MAX]; /* slowest first: [rows, columns] */
    const uint8_t *data;                 /* aligned for the format */
    size_t size_bytes;
} SafetensorsTensor;

/* -ENOENT: the directory holds neither file, or a shard is missing; -EINVAL: broken; -ENOMEM; or
 * the errno of opening. `why` begins with the path of the file at fault. */
int safetensors_open(Safetensors **outp, const char *directory, Reason *why);
Safetensors *safetensors_free(Safetensors *st);
CLEANUP_DEFINE(Safetensors, safetensors_free);

/* Sorted by name. */
size_t safetensors_n_tensors(const Safetensors *st);
const SafetensorsTensor *safetensors_tensor(const Safetensors *st, size_t i);
/* NULL if there is none of that name. */
const SafetensorsTensor *safetensors_find(const Safetensors *st, const char *name);
