/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: weight handles by layer, small f32 vectors (norms, biases, rotary frequencies) in one
 * allocation, and one workspace allocation cut into the activations of a step. Runs on the
 * engine's thread. Leaves out: the cache (the caller's store), sampling, and what a request is.
 */
#include "model/decoder.h"

#include "model/rope.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE_ALIGN_BYTES 64

/* Frequencies of rotary positions, and what a step makes of them. */
typedef struct Rotation {
    DevAddr inv_freq; /* f32 [head_dim / 2] */
    float scale;
    DevAddr table; /* a slice of the workspace: f32 [T, 2, head_dim / 2] */
} Rotation;

typedef struct DecoderLayer {
    DevAddr attention_norm, ffn_norm;           /* f32 [dim] */
    DevAddr attention_post_norm, ffn_post_norm; /* f32 [dim] or 0 */
    DevAddr q_norm, k_norm;                     /* f32 [head_dim] or 0 */
    Weight *q, *k, *v, *o;                      /* shapes: model/checkpoint.h, by role */
    Weight *gate, *up, *down;
    DevAddr q_bias, k_bias, v_bias, o_bias; /* f32 or 0 */
    DevAddr gate_bias, up_bias, down_bias;
    uint32_t window;
    const Rotation *rotation; /* one of the decoder's */
} DecoderLayer;

struct Decoder {
    const BackendOps *ops;
    Backend *backend;
    const Checkpoint *checkpoint;
    const ModelConfig *config;
    DecoderLimits limits;

    Weight *embed;  /* [n_vocab, dim] */
    Weight *output; /* [n_vocab, dim]; the same handle as `embed` if tied */
    DecoderLayer *layers;
    DevAddr output_norm; /* f32 [dim] */
    float embed_scale;
    Rotation rotation;
    Rotation local_rotation; /* of layers that slide, where the model has it; else zeros */

    DevAddr vectors; /* all norms, biases and frequencies */
    size_t vectors_bytes, vectors_used;
    size_t weight_bytes;

    DecoderMoments moments; /* the caller's; or 0 */
    uint32_t n_rows;        /* of the step */

    DevAddr workspace;
    size_t workspace_bytes;
    size_t scratch_bytes; /* the backend's own, by decoder_reserve */
    /* slices of the workspace; T = max_batched_tokens, R = max_logit_rows */
    DevAddr x;           /* residual [T, dim] */
    DevAddr h;           /* act [T, dim], normed */
    DevAddr q, attended; /* act [T, n_heads * head_dim] */
    DevAddr k, v;        /* act [T, n_kv_heads * head_dim] */
    DevAddr k_16bit, v_16bit;
    DevAddr gate, up; /* act [T, ffn_dim] */
    DevAddr rows;     /* residual [R, dim] */
    DevAddr logits;   /* f32 [R, n_vocab] */
};

KvGeometry decoder_kv_geometry(const ModelConfig *config) {
    return (KvGeometry){
        .n_layers = config->n_layers,
        .n_kv_heads = config->n_kv_heads,
        .head_dim = config->head_dim,
    };
}

size_t decoder_weight_bytes(const Decoder *d) {
    return d->weight_bytes + d->vectors_bytes;
}

size_t decoder_workspace_bytes(const Decoder *d) {
    return d->workspace_bytes + d->scratch_bytes;
}

/* workspace */

static size_t padded(size_t size_bytes) {
    return (size_bytes + WORKSPACE_ALIGN_BYTES - 1) / WORKSPACE_ALIGN_BYTES * WORKSPACE_ALIGN_BYTES;
}

/* Counts and places: with base 0 it only counts. */
static size_t workspace_place(Decoder *d, DevAddr base) {
    const ModelConfig *c = d->config;
    size_t act = d->ops->act_bytes, residual = d->ops->residual_bytes;
    size_t t = d->limits.max_batched_tokens, r = d->limits.max_logit_rows;
    size_t q_dim = (size_t)c->n_heads * c->head_dim, kv_dim = (size_t)c->n_kv_heads * c->head_dim;
    const struct {
        DevAddr *slice;
        size_t size_bytes;
    } slices[] = {
        { &d->x, t * c->dim * residual },
        { &d->h, t * c->dim * act },
        { &d->q, t * q_dim * act },
        { &d->attended, t * q_dim * act },
        { &d->k, t * kv_dim * act },
        { &d->v, t * kv_dim * act },
        { &d->k_16bit, t * kv_dim * 2 },
        { &d->v_16bit, t * kv_dim * 2 },
        { &d->gate, t * c->ffn_dim * act },
        { &d->up, t * c->ffn_dim * act },
        { &d->rotation.table, t * c->head_dim * sizeof(float) },
        { &d->local_rotation.table, c->has_local_rope ? t * c->head_dim * sizeof(float) : 0 },
        { &d->rows, r * c->dim * residual },
        { &d->logits, r * c->n_vocab * sizeof(float) },
    };
    size_t offset = 0;

    for (size_t i = 0; i < sizeof(slices) / sizeof(*slices); i++) {
        *slices[i].slice = base + offset;
        offset += padded(slices[i].size_bytes);
    }
    return offset;
}

static int init_workspace(Decoder *d, Reason *why) {
    int r;

    d->workspace_bytes = workspace_place(d, 0);
    r = d->ops->memory_new(d->backend, &d->workspace, d->workspace_bytes, "workspace", why);
    if (r)
        return r;
    workspace_place(d, d->workspace);
    return 0;
}

static uint32_t widest_input(const ModelConfig *c) {
    uint32_t q_dim = c->n_heads * c->head_dim, widest = c->dim;

    widest = q_dim > widest ? q_dim : widest;
    return c->ffn_dim > widest ? c->ffn_dim : widest;
}

/* weights */

/* Source row of every row of a projection whose heads the file stores as pairs (0, 1), (2, 3), ...
 * where RopeArgs wants halves (c, c + head_dim / 2). */
static uint32_t *deinterleaved_rows(uint32_t n_rows, uint32_t head_dim) {
    uint32_t *order = malloc(n_rows * sizeof(*order)), half = head_dim / 2;

    if (!order)
        return NULL;
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t c = r % head_dim;

        order[r] = r - c + (c < half ? 2 * c : 2 * (c - half) + 1);
    }
    return order;
}

static bool role_is_interleaved(const ModelConfig *c, TensorRole role) {
    return c->rope_interleaved_rows &&
           (role == TENSOR_Q || role == TENSOR_K || role == TENSOR_Q_BIAS || role == TENSOR_K_BIAS);
}

/* A weight of the decoder's, by what it does. */
typedef struct Role {
    Weight **weight;
    TensorRole role;
} Role;

#define GROUP_WEIGHTS_MAX 3

/* Weights that share their input. */
static int load_group(Decoder *d, uint32_t layer, const Role *roles, uint32_t n, Reason *why) {
    CLEANUP(free) uint32_t *order_q = NULL, *order_k = NULL;
    uint32_t **orders[GROUP_WEIGHTS_MAX] = { &order_q, &order_k };
    WeightSource sources[GROUP_WEIGHTS_MAX] = { 0 };
    Weight *weights[GROUP_WEIGHTS_MAX];
    int r;

    assert(n <= GROUP_WEIGHTS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        const TensorView *t = checkpoint_tensor(d->checkpoint, roles[i].role, layer);

        sources[i] = (WeightSource){ .name = t->name,
                                     .format = t->format,
                                     .n_rows = t->shape[0],
                                     .n_cols = t->shape[1],
                                     .data = t->data };
        if (!role_is_interleaved(d->config, roles[i].role))
            continue;
        *orders[i] = deinterleaved_rows(t->shape[0], d->config->head_dim);
        if (!*orders[i])
            return -ENOMEM;
        sources[i].row_order = *orders[i];
    }
    r = d->ops->weights_new(d->backend, weights, sources, n, why);
    for (uint32_t i = 0; !r && i < n; i++) {
        *roles[i].weight = weights[i];
        d->weight_bytes += d->ops->weight_bytes(weights[i]);
    }
    return r;
}

static int load_weight(Decoder *d, Weight **outp, TensorRole role, Reason *why) {
    return load_group(d, 0, &(Role){ outp, role }, 1, why);
}

static int load_layer_weights(Decoder *d, uint32_t l, Reason *why) {
    DecoderLayer *layer = &d->layers[l];
    const Role qkv[] = { { &layer->q, TENSOR_Q },
                         { &layer->k, TENSOR_K },
                         { &layer->v, TENSOR_V } };
    const Role o = { &layer->o, TENSOR_O };
    const Role gate_up[] = { { &layer->gate, TENSOR_GATE }, { &layer->up, TENSOR_UP } };
    const Role down = { &layer->down, TENSOR_DOWN };
    int r;

    r = load_group(d, l, qkv, 3, why);
    if (!r)
        r = load_group(d, l, &o, 1, why);
    if (!r)
        r = load_group(d, l, gate_up, 2, why);
    return r ? r : load_group(d, l, &down, 1, why);
}

static DevAddr vectors_take(Decoder *d, size_t n) {
    DevAddr at = d->vectors + d->vectors_used;

    d->vectors_used += padded(n * sizeof(float));
    assert(d->vectors_used <= d->vectors_bytes);
    return at;
}

static bool role_is_norm(TensorRole role) {
    switch (role) {
    case TENSOR_OUTPUT_NORM:
    case TENSOR_ATTENTION_NORM:
    case TENSOR_ATTENTION_POST_NORM:
    case TENSOR_Q_NORM:
    case TENSOR_K_NORM:
    case TENSOR_FFN_NORM:
    case TENSOR_FFN_POST_NORM:
        return true;
    default:
        return false;
    }
}

/* A norm or bias as f32 on the device; 0 if the model has none there. */
static int load_vector(Decoder *d, DevAddr *outp, TensorRole role, uint32_t layer) {
    const TensorView *t = checkpoint_tensor(d->checkpoint, role, layer);
    CLEANUP(free) float *values = NULL, *ordered = NULL;
    CLEANUP(free) uint32_t *order = NULL;
    size_t n;

    *outp = 0;
    if (!t)
        return 0;
    n = t->shape[0];
    values = malloc(n * sizeof(*values));
    ordered = malloc(n * sizeof(*ordered));
    if (!values || !ordered)
        return -ENOMEM;
    weight_to_f32(t->format, t->data, values, n);
    for (size_t i = 0; d->config->norms_less_one && role_is_norm(role) && i < n; i++)
        values[i] += 1;
    memcpy(ordered, values, n * sizeof(*values));
    if (role_is_interleaved(d->config, role)) {
        order = deinterleaved_rows((uint32_t)n, d->config->head_dim);
        if (!order)
            return -ENOMEM;
        for (size_t i = 0; i < n; i++)
            ordered[i] = values[order[i]];
    }
    *outp = vectors_take(d, n);
    return d->ops->upload(d->backend, *outp, ordered, n * sizeof(*ordered));
}

static const TensorRole layer_vector_roles[] = {
    TENSOR_ATTENTION_NORM, TENSOR_FFN_NORM, TENSOR_Q_NORM,    TENSOR_K_NORM,
    TENSOR_Q_BIAS,         TENSOR_K_BIAS,   TENSOR_V_BIAS,    TENSOR_O_BIAS,
    TENSOR_GATE_BIAS,      TENSOR_UP_BIAS,  TENSOR_DOWN_BIAS, TENSOR_ATTENTION_POST_NORM,
    TENSOR_FFN_POST_NORM,
};

#define N_LAYER_VECTORS (sizeof(layer_vector_roles) / sizeof(*layer_vector_roles))

static size_t count_vectors(const Decoder *d) {
    size_t n_rotations = d->config->has_local_rope ? 2 : 1;
    size_t bytes = padded(d->config->dim * sizeof(float)) +
                   n_rotations * padded(d->config->head_dim / 2 * sizeof(float));

    for (uint32_t l = 0; l < d->config->n_layers; l++)
        for (size_t i = 0; i < N_LAYER_VECTORS; i++) {
            const TensorView *t = checkpoint_tensor(d->checkpoint, layer_vector_roles[i], l);

            if (t)
                bytes += padded(t->shape[0] * sizeof(float));
        }
    return bytes;
}

static int load_layer(Decoder *d, uint32_t l, Reason *why) {
    DecoderLayer *layer = &d->layers[l];
    DevAddr *vectors[N_LAYER_VECTORS] = {
        &layer->attention_norm, &layer->ffn_norm, &layer->q_norm,    &layer->k_norm,
        &layer->q_bias,         &layer->k_bias,   &layer->v_bias,    &layer->o_bias,
        &layer->gate_bias,      &layer->up_bias,  &layer->down_bias, &layer->attention_post_norm,
        &layer->ffn_post_norm,
    };
    int r;

    for (size_t i = 0; i < N_LAYER_VECTORS; i++) {
        r = load_vector(d, vectors[i], layer_vector_roles[i], l);
        if (r)
            return reason_set(why, r, "layer %u: its norms and biases could not be loaded", l);
    }
    layer->window = d->config->layer_slides[l] ? d->config->sliding_window : 0;
    layer->rotation =
        d->config->layer_slides[l] && d->config->has_local_rope ? &d->local_rotation : &d->rotation;
    return load_layer_weights(d, l, why);
}

static int load_rotation(Decoder *d, Rotation *rotation, const RopeConfig *rope) {
    uint32_t n_freqs = d->config->head_dim / 2;
    CLEANUP(free) float *inv_freq = malloc(n_freqs * sizeof(*inv_freq));

    if (!inv_freq)
        return -ENOMEM;
    rotation->scale = rope_frequencies(rope, d->config->head_dim, inv_freq);
    rotation->inv_freq = vectors_take(d, n_freqs);
    return d->ops->upload(d->backend, rotation->inv_freq, inv_freq, n_freqs * sizeof(*inv_freq));
}

static int load_rotations(Decoder *d) {
    int r = load_rotation(d, &d->rotation, &d->config->rope);

    if (!r && d->config->has_local_rope)
        r = load_rotation(d, &d->local_rotation, &d->config->local_rope);
    return r;
}

/* To the nearest number of so many significant bits. */
static float rounded(float x, int n_bits) {
    int exponent;
    float fraction = frexpf(x, &exponent);

    return ldexpf(rintf(ldexpf(fraction, n_bits)), exponent - n_bits);
}

/* The root of dim, rounded to what the table is made of where that is a float: Transformers
 * multiplies so, and Gemma was trained so. */
static float scale_of_embeddings(const Checkpoint *checkpoint) {
    const ModelConfig *c = checkpoint_config(checkpoint);
    WeightFormat format = checkpoint_tensor(checkpoint, TENSOR_EMBED, 0)->format;
    float scale = sqrtf((float)c->dim);

    if (!c->scaled_embeddings)
        return 1;
    switch (format) {
    case WEIGHT_BF16:
        return rounded(scale, 8);
    case WEIGHT_F16:
        return rounded(scale, 11);
    default:
        return scale;
    }
}

static int load_weights(Decoder *d, Reason *why) {
    int r;

    d->layers = calloc(d->config->n_layers, sizeof(*d->layers));
    if (!d->layers)
        return -ENOMEM;
    d->embed_scale = scale_of_embeddings(d->checkpoint);
    d->vectors_bytes = count_vectors(d);
    r = d->ops->memory_new(d->backend, &d->vectors, d->vectors_bytes, "norms and biases", why);
    if (r)
        return r;
    r = load_weight(d, &d->embed, TENSOR_EMBED, why);
    if (r)
        return r;
    if (d->config->tied_embeddings)
        d->output = d->embed;
    else
        r = load_weight(d, &d->output, TENSOR_OUTPUT, why);
    if (r)
        return r;
    r = load_vector(d, &d->output_norm, TENSOR_OUTPUT_NORM, 0);
    if (!r)
        r = load_rotations(d);
    for (uint32_t l = 0; !r && l < d->config->n_layers; l++)
        r = load_layer(d, l, why);
    return r;
}

int decoder_new(Decoder **outp, const BackendOps *ops, Backend *backend,
                const Checkpoint *checkpoint, const DecoderLimits *limits, Reason *why) {
    CLEANUP(decoder_free) Decoder *d = NULL;
    int r;

    assert(limits->max_batched_tokens && limits->max_logit_rows);
    d = calloc(1, sizeof(*d));
    if (!d)
        return reason_set(why, -ENOMEM, "out of memory");
    d->ops = ops;
    d->backend = backend;
    d->checkpoint = checkpoint;
    d->config = checkpoint_config(checkpoint);
    d->limits = *limits;

    r = load_weights(d, why);
    if (!r)
        r = init_workspace(d, why);
    if (!r)
        *outp = TAKE(d);
    return r;
}

Decoder *decoder_free(Decoder *d) {
    if (!d)
        return NULL;
    if (d->workspace)
        d->ops->memory_free(d->backend, d->workspace);
    for (uint32_t l = 0; d->layers && l < d->config->n_layers; l++) {
        DecoderLayer *layer = &d->layers[l];
        Weight *weights[] = { layer->q,    layer->k,  layer->v,   layer->o,
                              layer->gate, layer->up, layer->down };

        for (size_t i = 0; i < sizeof(weights) / sizeof(*weights); i++)
            d->ops->weight_free(d->backend, weights[i]);
    }
    if (d->output != d->embed)
        d->ops->weight_free(d->backend, d->output);
    d->ops->weight_free(d->backend, d->embed);
    if (d->vectors)
        d->ops->memory_free(d->backend, d->vectors);
    free(d->layers);
    free(d);
    return NULL;
}

/* steps */

/* Of the residual stream into h, as every layer's parts begin. */
static int norm_residual(Decoder *d, DevAddr in, DevAddr weight, uint32_t n_rows) {
    return d->ops->rmsnorm(d->backend, &(RmsnormArgs){
                                           .out = d->h,
                                           .in = in,
                                           .in_residual = true,
                                           .weight = weight,
                                           .n_rows = n_rows,
                                           .dim = d->config->dim,
                                           .epsilon = d->config->rms_epsilon,
                                       });
}

/* Of each head, in place. */
static int norm_heads(Decoder *d, DevAddr heads, DevAddr weight, uint32_t n_heads) {
    return d->ops->rmsnorm(d->backend, &(RmsnormArgs){
                                           .out = heads,
                                           .in = heads,
                                           .weight = weight,
                                           .n_rows = n_heads,
                                           .dim = d->config->head_dim,
                                           .epsilon = d->config->rms_epsilon,
                                       });
}

static int matmul(Decoder *d, DevAddr in, uint32_t n_tokens, const MatmulPart *parts,
                  uint32_t n_parts) {
    return d->ops->matmul(d->backend, &(MatmulArgs){
                                          .in = in,
                                          .n_tokens = n_tokens,
                                          .n_parts = n_parts,
                                          .parts = parts,
                                      });
}

static int collect_moments(Decoder *d, uint32_t l, const KvLayer *kept, uint32_t n_tokens) {
    const ModelConfig *c = d->config;
    size_t size = (size_t)c->n_kv_heads * c->head_dim * c->head_dim * sizeof(float);
    int r;

    assert(!kv_layer_quantizes(kept, KV_SIDE_K));
    r = d->ops->moments(d->backend, &(MomentsArgs){
                                        .out = d->moments.q_moments + l * size,
                                        .q = d->q,
                                        .n_tokens = n_tokens,
                                        .n_heads = c->n_heads,
                                        .n_kv_heads = c->n_kv_heads,
                                        .head_dim = c->head_dim,
                                    });
    if (r)
        return r;
    return d->ops->covariances(d->backend, &(CovariancesArgs){
                                               .out = d->moments.k_covariances + l * size,
                                               .k = d->k_16bit,
                                               .format = kv_layer_tail_format(kept, KV_SIDE_K),
                                               .n_tokens = n_tokens,
                                               .n_kv_heads = c->n_kv_heads,
                                               .head_dim = c->head_dim,
                                           });
}

static int project_heads(Decoder *d, uint32_t l, const KvLayer *kept, uint32_t n_tokens) {
    const DecoderLayer *layer = &d->layers[l];
    const ModelConfig *c = d->config;
    const MatmulPart parts[] = {
        { .weight = layer->q, .bias = layer->q_bias, .out = d->q },
        { .weight = layer->k, .bias = layer->k_bias, .out = d->k },
        { .weight = layer->v, .bias = layer->v_bias, .out = d->v },
    };
    int r;

    r = matmul(d, d->h, n_tokens, parts, 3);
    if (!r && layer->q_norm)
        r = norm_heads(d, d->q, layer->q_norm, n_tokens * c->n_heads);
    if (!r && layer->k_norm)
        r = norm_heads(d, d->k, layer->k_norm, n_tokens * c->n_kv_heads);
    if (r)
        return r;
    r = d->ops->rope(d->backend, &(RopeArgs){
                                     .q = d->q,
                                     .k = d->k,
                                     .v = d->v,
                                     .k_out = d->k_16bit,
                                     .v_out = d->v_16bit,
                                     .table = layer->rotation->table,
                                     .n_tokens = n_tokens,
                                     .n_heads = c->n_heads,
                                     .n_kv_heads = c->n_kv_heads,
                                     .head_dim = c->head_dim,
                                     .n_freqs = c->head_dim / 2,
                                     .layer = kept,
                                 });
    if (!r && d->moments.q_moments)
        r = collect_moments(d, l, kept, n_tokens);
    return r;
}

static int attend(Decoder *d, uint32_t l, const KvLayer *kept) {
    return d->ops->attention(d->backend, &(AttentionArgs){
                                             .out = d->attended,
                                             .q = d->q,
                                             .k = d->k_16bit,
                                             .v = d->v_16bit,
                                             .layer = kept,
                                             .n_heads = d->config->n_heads,
                                             .window = d->layers[l].window,
                                             .scale = 1 / sqrtf(d->config->score_divisor),
                                         });
}

/* Adds a product to the residual stream: as it is, or its norm where post_norm is not 0. */
static int add_product(Decoder *d, MatmulPart part, DevAddr in, DevAddr post_norm,
                       uint32_t n_rows) {
    int r;

    part.accumulate = !post_norm;
    part.out = post_norm ? d->h : d->x;
    r = matmul(d, in, n_rows, &part, 1);
    if (r || !post_norm)
        return r;
    return d->ops->rmsnorm(d->backend, &(RmsnormArgs){
                                           .out = d->x,
                                           .in = d->h,
                                           .accumulate = true,
                                           .weight = post_norm,
                                           .n_rows = n_rows,
                                           .dim = d->config->dim,
                                           .epsilon = d->config->rms_epsilon,
                                       });
}

static int attention_block(Decoder *d, uint32_t l, const KvLayer *kept, uint32_t n_rows) {
    const DecoderLayer *layer = &d->layers[l];
    int r;

    r = norm_residual(d, d->x, layer->attention_norm, n_rows);
    if (!r)
        r = project_heads(d, l, kept, n_rows);
    if (!r)
        r = attend(d, l, kept);
    if (r)
        return r;
    return add_product(d, (MatmulPart){ .weight = layer->o, .bias = layer->o_bias }, d->attended,
                       layer->attention_post_norm, n_rows);
}

static int ffn_block(Decoder *d, uint32_t l, uint32_t n_tokens) {
    const DecoderLayer *layer = &d->layers[l];
    const MatmulPart parts[] = {
        { .weight = layer->gate, .bias = layer->gate_bias, .out = d->gate },
        { .weight = layer->up, .bias = layer->up_bias, .out = d->up },
    };
    int r;

    r = norm_residual(d, d->x, layer->ffn_norm, n_tokens);
    if (!r)
        r = matmul(d, d->h, n_tokens, parts, 2);
    if (!r)
        r = d->ops->gated(d->backend, &(GatedArgs){ .out = d->gate,
                                                    .gate = d->gate,
                                                    .up = d->up,
                                                    .n_tokens = n_tokens,
                                                    .dim = d->config->ffn_dim,
                                                    .activation = d->config->activation });
    if (r)
        return r;
    return add_product(d, (MatmulPart){ .weight = layer->down, .bias = layer->down_bias }, d->gate,
                       layer->ffn_post_norm, n_tokens);
}

void decoder_collect_moments(Decoder *d, DecoderMoments moments) {
    d->moments = moments;
}

/* The distinct windows of the layers, of which there are at most two, into `windows`. */
static uint32_t list_windows(const Decoder *d, uint32_t windows[2]) {
    uint32_t n = 0;

    for (uint32_t l = 0; l < d->config->n_layers; l++) {
        uint32_t window = d->layers[l].window;

        if (n == 0 || (windows[0] != window && n == 1))
            windows[n++] = window;
    }
    return n;
}

int decoder_reserve(Decoder *d, uint32_t max_sequences, uint32_t max_pages, Reason *why) {
    uint32_t windows[2], n_windows = list_windows(d, windows);

    d->scratch_bytes = 0;
    return d->ops->reserve(d->backend,
                           &(ReserveArgs){ .geometry = decoder_kv_geometry(d->config),
                                           .n_heads = d->config->n_heads,
                                           .n_cols_max = widest_input(d->config),
                                           .n_vocab = d->config->n_vocab,
                                           .windows = windows,
                                           .n_windows = n_windows,
                                           .max_rows = d->limits.max_batched_tokens,
                                           .max_sequences = max_sequences,
                                           .max_pages = max_pages },
                           &d->scratch_bytes, why);
}

static int rotation_table(Decoder *d, const Rotation *rotation) {
    return d->ops->rope_table(d->backend, &(RopeTableArgs){ .out = rotation->table,
                                                            .inv_freq = rotation->inv_freq,
                                                            .n_freqs = d->config->head_dim / 2,
                                                            .scale = rotation->scale });
}

int decoder_begin(Decoder *d, const StepInput *input) {
    int r;

    assert(input->n_rows && input->n_rows <= d->limits.max_batched_tokens);
    d->n_rows = input->n_rows;
    r = d->ops->step_begin(d->backend, input);
    if (!r)
        r = d->ops->embed(d->backend,
                          &(EmbedArgs){ .out = d->x, .table = d->embed, .scale = d->embed_scale });
    if (!r)
        r = rotation_table(d, &d->rotation);
    if (!r && d->config->has_local_rope)
        r = rotation_table(d, &d->local_rotation);
    return r;
}

int decoder_attend(Decoder *d, uint32_t layer, const KvLayer *kept) {
    return attention_block(d, layer, kept, d->n_rows);
}

int decoder_feed(Decoder *d, uint32_t layer) {
    return ffn_block(d, layer, d->n_rows);
}

DevAddr decoder_hidden(const Decoder *d) {
    return d->x;
}

int decoder_step(Decoder *d, const KvStore *store, const StepInput *input) {
    int r = decoder_begin(d, input);

    for (uint32_t l = 0; !r && l < d->config->n_layers; l++) {
        KvLayer kept = kv_store_layer(store, l);

        r = decoder_attend(d, l, &kept);
        if (!r)
            r = decoder_feed(d, l);
    }
    return r;
}

int decoder_logits(Decoder *d, uint32_t first, uint32_t n_rows, DevAddr *logitsp) {
    const MatmulPart head = { .weight = d->output, .out = d->logits };
    int r;

    assert(n_rows && n_rows <= d->limits.max_logit_rows);
    r = d->ops->gather_rows(
        d->backend,
        &(GatherRowsArgs){
            .out = d->rows, .in = d->x, .first = first, .n_rows = n_rows, .dim = d->config->dim });
    if (!r)
        r = norm_residual(d, d->rows, d->output_norm, n_rows);
    if (!r)
        r = d->ops->matmul(
            d->backend,
            &(MatmulArgs){
                .in = d->h, .n_tokens = n_rows, .n_parts = 1, .parts = &head, .out_f32 = true });
    *logitsp = d->logits;
    return r;
}

int decoder_sample(Decoder *d, uint32_t first, uint32_t n_rows) {
    SampleArgs args = { .first = first, .n_rows = n_rows, .n_vocab = d->config->n_vocab };
    int r = decoder_logits(d, first, n_rows, &args.logits);

    return r ? r : d->ops->sample(d->backend, &args);
}
