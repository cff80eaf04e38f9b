/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The transformer decoder, written once against the op table: weights, workspace, and one step as
 * a sequence of ops. Knows nothing of requests; the cache is the caller's.
 */

#include "backend/ops.h"
#include "model/checkpoint.h"
#include "util/cleanup.h"

typedef struct Decoder Decoder;

typedef struct DecoderLimits {
    uint32_t max_batched_tokens; /* most rows of one step */
    uint32_t max_logit_rows;     /* most rows of one decoder_logits call */
} DecoderLimits;

/* `checkpoint` is borrowed and must outlive the decoder (backends may use weights in place);
 * `backend` likewise. */
int decoder_new(Decoder **outp, const BackendOps *ops, Backend *backend,
                const Checkpoint *checkpoint, const DecoderLimits *limits, Reason *why);
Decoder *decoder_free(Decoder *decoder);
CLEANUP_DEFINE(Decoder, decoder_free);

/* Geometry of the cache this model needs. */
KvGeometry decoder_kv_geometry(const ModelConfig *config);
/* Device bytes by purpose, for the ledger; the workspace includes the backend's scratch. */
size_t decoder_weight_bytes(const Decoder *decoder);
size_t decoder_workspace_bytes(const Decoder *decoder);

/* Has the backend take what steps of this decoder need beyond weights and workspace: scratch, and
 * slots, for at most max_sequences at once and page tables of max_pages. Before the first step; and
 * again, between steps, to ask for more. */
int decoder_reserve(Decoder *decoder, uint32_t max_sequences, uint32_t max_pages, Reason *why);

/* Runs one step: fills the cache and keeps the hidden states of all rows until the next step. */
int decoder_step(Decoder *decoder, const KvStore *store, const StepInput *input);

/* A step in parts, for those who look between its layers: decoder_begin, then of each layer
 * decoder_attend and decoder_feed; decoder_step is that with the layers of a store. Hidden states
 * may be downloaded and uploaded in between, and a layer may be run several times. */

/* Begins the step, with the embeddings of its tokens as hidden states. */
int decoder_begin(Decoder *decoder, const StepInput *input);
/* The layer's attention, and its MLP; each adds to the hidden states. `kept` is where the cache of
 * this layer is, which may be any store's of the model's heads and channels. */
int decoder_attend(Decoder *decoder, uint32_t layer, const KvLayer *kept);
int decoder_feed(Decoder *decoder, uint32_t layer);
/* Hidden states of the step's rows, residual [rows, dim]; the address is always the same. */
DevAddr decoder_hidden(const Decoder *decoder);

/* What profiles are made of (backend/ops.h: MomentsArgs, CovariancesArgs), on the device, f32
 * [n_layers, n_kv_heads, head_dim, head_dim] each. */
typedef struct DecoderMoments {
    DevAddr q_moments, k_covariances;
} DecoderMoments;

/* From now on steps add to `moments`; all 0 ends it. The store must not quantize, and steps are of
 * one sequence and begin where a page does. */
void decoder_collect_moments(Decoder *decoder, DecoderMoments moments);
/* Logits of the last step's rows logit_rows[first .. first + n_rows - 1]: f32 [n_rows, n_vocab] on
 * the device, valid until the next call. n_rows <= max_logit_rows. */
int decoder_logits(Decoder *decoder, uint32_t first, uint32_t n_rows, DevAddr *logitsp);
/* The same, and what those rows ask for is drawn or scored: the results come with step_wait. */
int decoder_sample(Decoder *decoder, uint32_t first, uint32_t n_rows);
