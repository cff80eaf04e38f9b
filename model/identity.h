/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which model this is: one hash, the same for every copy of the files wherever they lie, by which
 * a profile is found again and prefixes of different models are told apart.
 *
 * It covers what the decoder is built from (shape, rotary embedding, the formats and shapes of the
 * tensors) and of each tensor's bytes 4 KiB from the start and 4 KiB from the middle, so that
 * it takes no longer for a large model. Two models that differ only in bytes between those are
 * taken for one; training changes all of them.
 */

#include "model/checkpoint.h"
#include "util/hash.h"

/* Writes 32 hexadecimal digits; returns `hex`. Reads pages of the mapped files. */
const char *model_identity(const Checkpoint *checkpoint, char hex[HASH128_HEX_BYTES]);
