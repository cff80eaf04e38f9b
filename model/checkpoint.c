/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: the open container (one of two), the configuration read from it, and a table of views,
 * one a role and layer. Every role that the configuration calls for must be there with its shape
 * and a usable type, and every tensor that is there must be one of them: a tensor nobody reads
 * would mean a model that computes something else.
 *
 * Leaves out: what the tensors hold. A NaN in them comes out in the logits.
 */
#include "model/checkpoint.h"

#include "model/gguf.h"
#include "model/model_config.h"
#include "model/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TENSOR_NAME_BYTES_MAX 96
#define N_GLOBAL_ROLES TENSOR_ATTENTION_NORM /* roles from here on are per layer */
#define N_LAYER_ROLES (TENSOR_ROLES - N_GLOBAL_ROLES)

struct Checkpoint {
    char *path;
    Gguf *gguf; /* one of these two */
    Safetensors *safetensors;
    ModelConfig config;
    GenerationDefaults generation;
    TensorView *views; /* [3 + n_layers * N_LAYER_ROLES]; name NULL: not there */
    size_t n_views;
};

/* roles */

typedef enum RoleDim {
    ROLE_NONE, /* no second dimension */
    ROLE_DIM,
    ROLE_VOCAB,
    ROLE_Q,
    ROLE_KV,
    ROLE_HEAD,
    ROLE_FFN,
} RoleDim;

/* Names are without ".weight" or ".bias" in GGUF and in safetensors; per-layer ones stand behind
 * "blk.N." and "model.layers.N.". */
typedef struct RoleInfo {
    const char *gguf, *safetensors, *suffix;
    RoleDim rows, columns;
} RoleInfo;

static const RoleInfo roles[TENSOR_ROLES] = {
    [TENSOR_EMBED] = { "token_embd", "model.embed_tokens", "weight", ROLE_VOCAB, ROLE_DIM },
    [TENSOR_OUTPUT_NORM] = { "output_norm", "model.norm", "weight", ROLE_DIM, ROLE_NONE },
    [TENSOR_OUTPUT] = { "output", "lm_head", "weight", ROLE_VOCAB, ROLE_DIM },
    [TENSOR_ATTENTION_NORM] = { "attn_norm", "input_layernorm", "weight", ROLE_DIM, ROLE_NONE },
    [TENSOR_Q] = { "attn_q", "self_attn.q_proj", "weight", ROLE_Q, ROLE_DIM },
    [TENSOR_K] = { "attn_k", "self_attn.k_proj", "weight", ROLE_KV, ROLE_DIM },
    [TENSOR_V] = { "attn_v", "self_attn.v_proj", "weight", ROLE_KV, ROLE_DIM },
    [TENSOR_O] = { "attn_output", "self_attn.o_proj", "weight", ROLE_DIM, ROLE_Q },
    [TENSOR_Q_BIAS] = { "attn_q", "self_attn.q_proj", "bias", ROLE_Q, ROLE_NONE },
    [TENSOR_K_BIAS] = { "attn_k", "self_attn.k_proj", "bias", ROLE_KV, ROLE_NONE },
    [TENSOR_V_BIAS] = { "attn_v", "self_attn.v_proj", "bias", ROLE_KV, ROLE_NONE },
    [TENSOR_O_BIAS] = { "attn_output", "self_attn.o_proj", "bias", ROLE_DIM, ROLE_NONE },
    [TENSOR_Q_NORM] = { "attn_q_norm", "self_attn.q_norm", "weight", ROLE_HEAD, ROLE_NONE },
    [TENSOR_K_NORM] = { "attn_k_norm", "self_attn.k_norm", "weight", ROLE_HEAD, ROLE_NONE },
    [TENSOR_ATTENTION_POST_NORM] = { "post_attention_norm", "post_attention_layernorm", "weight",
                                     ROLE_DIM, ROLE_NONE },
    [TENSOR_FFN_NORM] = { "ffn_norm", "post_attention_layernorm", "weight", ROLE_DIM, ROLE_NONE },
    [TENSOR_GATE] = { "ffn_gate", "mlp.gate_proj", "weight", ROLE_FFN, ROLE_DIM },
    [TENSOR_UP] = { "ffn_up", "mlp.up_proj", "weight", ROLE_FFN, ROLE_DIM },
    [TENSOR_DOWN] = { "ffn_down", "mlp.down_proj", "weight", ROLE_DIM, ROLE_FFN },
    [TENSOR_GATE_BIAS] = { "ffn_gate", "mlp.gate_proj", "bias", ROLE_FFN, ROLE_NONE },
    [TENSOR_UP_BIAS] = { "ffn_up", "mlp.up_proj", "bias", ROLE_FFN, ROLE_NONE },
    [TENSOR_DOWN_BIAS] = { "ffn_down", "mlp.down_proj", "bias", ROLE_DIM, ROLE_NONE },
    [TENSOR_FFN_POST_NORM] = { "post_ffw_norm", "post_feedforward_layernorm", "weight", ROLE_DIM,
                               ROLE_NONE },
};

static bool role_is_present(const ModelConfig *c, TensorRole role) {
    switch (role) {
    case TENSOR_OUTPUT:
        return !c->tied_embeddings;
    case TENSOR_Q_BIAS:
    case TENSOR_K_BIAS:
    case TENSOR_V_BIAS:
        return c->qkv_bias;
    case TENSOR_O_BIAS:
        return c->o_bias;
    case TENSOR_Q_NORM:
    case TENSOR_K_NORM:
        return c->qk_norm;
    case TENSOR_ATTENTION_POST_NORM:
    case TENSOR_FFN_POST_NORM:
        return c->post_norms;
    case TENSOR_GATE_BIAS:
    case TENSOR_UP_BIAS:
    case TENSOR_DOWN_BIAS:
        return c->mlp_bias;
    default:
        return true;
    }
}

static uint32_t role_dim(const ModelConfig *c, RoleDim dim) {
    switch (dim) {
    case ROLE_NONE:
        return 1;
    case ROLE_DIM:
        return c->dim;
    case ROLE_VOCAB:
        return c->n_vocab;
    case ROLE_Q:
        return c->n_heads * c->head_dim;
    case ROLE_KV:
        return c->n_kv_heads * c->head_dim;
    case ROLE_HEAD:
        return c->head_dim;
    case ROLE_FFN:
        return c->ffn_dim;
    }
    return 0;
}

static const char *role_name(const Checkpoint *ck, TensorRole role, uint32_t layer, char *name) {
    const RoleInfo *info = &roles[role];
    const char *stem = ck->gguf ? info->gguf : info->safetensors;

    /* Of others the norm before the feed-forward layers is named for standing behind attention. */
    if (!ck->gguf && ck->config.arch == MODEL_ARCH_GEMMA3 && role == TENSOR_FFN_NORM)
        stem = "pre_feedforward_layernorm";
    if (role < N_GLOBAL_ROLES)
        snprintf(name, TENSOR_NAME_BYTES_MAX, "%s.%s", stem, info->suffix);
    else
        snprintf(name, TENSOR_NAME_BYTES_MAX, "%s.%" PRIu32 ".%s.%s",
                 ck->gguf ? "blk" : "model.layers", layer, stem, info->suffix);
    return name;
}

static size_t view_index(TensorRole role, uint32_t layer) {
    if (role < N_GLOBAL_ROLES)
        return role;
    return N_GLOBAL_ROLES + (size_t)layer * N_LAYER_ROLES + (role - N_GLOBAL_ROLES);
}

/* tensors of either container */

typedef struct Found {
    const char *path, *name, *type_name;
    WeightFormat format;
    uint32_t n_dims;
    uint64_t dims[2]; /* rows, columns; the first two if there are more */
    const void *data;
    size_t size_bytes;
} Found;

static Found found_in_gguf(const Gguf *gguf, const GgufTensor *t) {
    bool is_vector = t->n_dims == 1;

    return (Found){
        .path = gguf_path(gguf),
        .name = t->name,
        .type_name = t->type_name,
        .format = t->format,
        .n_dims = t->n_dims,
        .dims = { is_vector ? t->dims[0] : t->dims[1], is_vector ? 1 : t->dims[0] },
        .data = t->data,
        .size_bytes = t->size_bytes,
    };
}

static Found found_in_safetensors(const SafetensorsTensor *t) {
    return (Found){
        .path = t->path,
        .name = t->name,
        .type_name = t->dtype,
        .format = t->format,
        .n_dims = t->n_dims,
        .dims = { t->n_dims > 0 ? t->dims[0] : 1, t->n_dims > 1 ? t->dims[1] : 1 },
        .data = t->data,
        .size_bytes = t->size_bytes,
    };
}

static bool find_tensor(const Checkpoint *ck, const char *name, Found *out) {
    const GgufTensor *g = ck->gguf ? gguf_find_tensor(ck->gguf, name) : NULL;
    const SafetensorsTensor *s = ck->gguf ? NULL : safetensors_find(ck->safetensors, name);

    if (g)
        *out = found_in_gguf(ck->gguf, g);
    else if (s)
        *out = found_in_safetensors(s);
    return g || s;
}

static void describe_shape(char *text, size_t size, uint32_t n_dims, uint64_t rows,
                           uint64_t columns) {
    if (n_dims == 0)
        snprintf(text, size, "[]");
    else if (n_dims == 1)
        snprintf(text, size, "[%" PRIu64 "]", rows);
    else
        snprintf(text, size, "[%" PRIu64 ", %" PRIu64 "%s]", rows, columns,
                 n_dims > 2 ? ", ..." : "");
}

static int check_shape(const Found *t, uint32_t n_dims, uint32_t rows, uint32_t columns,
                       Reason *why) {
    char expected[64], found[64];

    if (t->n_dims == n_dims && t->dims[0] == rows && t->dims[1] == columns)
        return 0;
    describe_shape(expected, sizeof(expected), n_dims, rows, columns);
    describe_shape(found, sizeof(found), t->n_dims, t->dims[0], t->dims[1]);
    return reason_set(why, -EINVAL, "%s: tensor \"%s\": expected shape %s, found %s", t->path,
                      t->name, expected, found);
}

/* A vector is read number by number, so block formats are for matrices only. */
static int check_type(const Found *t, bool is_vector, Reason *why) {
    const char *supported = "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k and q6_k";

    if (t->format == WEIGHT_FORMATS)
        return reason_set(why, -EINVAL,
                          "%s: tensor \"%s\": type %s is not supported; supported are %s", t->path,
                          t->name, t->type_name, supported);
    if (is_vector && weight_formats[t->format].block_values > 1)
        return reason_set(
            why, -EINVAL,
            "%s: tensor \"%s\": a norm or bias of type %s is not supported; supported "
            "are f32, f16 and bf16",
            t->path, t->name, t->type_name);
    return 0;
}

static int fill_view(Checkpoint *ck, TensorRole role, uint32_t layer, Reason *why) {
    const RoleInfo *info = &roles[role];
    uint32_t n_dims = info->columns == ROLE_NONE ? 1 : 2;
    uint32_t rows = role_dim(&ck->config, info->rows);
    uint32_t columns = role_dim(&ck->config, info->columns);
    char name[TENSOR_NAME_BYTES_MAX], shape[64];
    Found t;
    int r;

    if (!find_tensor(ck, role_name(ck, role, layer, name), &t)) {
        describe_shape(shape, sizeof(shape), n_dims, rows, columns);
        return reason_set(why, -EINVAL, "%s: tensor \"%s\" %s is missing", ck->path, name, shape);
    }
    r = check_type(&t, n_dims == 1, why);
    if (!r)
        r = check_shape(&t, n_dims, rows, columns, why);
    if (r)
        return r;
    ck->views[view_index(role, layer)] = (TensorView){
        .name = t.name,
        .format = t.format,
        .n_dims = n_dims,
        .shape = { rows, columns },
        .data = t.data,
        .size_bytes = t.size_bytes,
    };
    ck->n_views++;
    return 0;
}

static int fill_views(Checkpoint *ck, Reason *why) {
    int r;

    ck->views = calloc(view_index(N_GLOBAL_ROLES, ck->config.n_layers), sizeof(*ck->views));
    if (!ck->views)
        return -ENOMEM;
    for (TensorRole role = 0; role < TENSOR_ROLES; role++) {
        uint32_t n_layers = role < N_GLOBAL_ROLES ? 1 : ck->config.n_layers;

        for (uint32_t l = 0; role_is_present(&ck->config, role) && l < n_layers; l++) {
            r = fill_view(ck, role, l, why);
            if (r)
                return r;
        }
    }
    return 0;
}

/* tensors without a role */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && !strcmp(text + n - n_end, end);
}

/* What may be there without being read: a copy of the tied embeddings, and rotary frequencies that
 * the configuration gives as well. */
static bool is_redundant(const Checkpoint *ck, const char *name) {
    if (ck->gguf)
        return !strcmp(name, "rope_freqs.weight"); /* read with the configuration */
    return ends_with(name, ".rotary_emb.inv_freq") ||
           (ck->config.tied_embeddings && !strcmp(name, "lm_head.weight"));
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_no_others(const Checkpoint *ck, Reason *why) {
    size_t n_views = 0,
           n = ck->gguf ? gguf_n_tensors(ck->gguf) : safetensors_n_tensors(ck->safetensors);
    CLEANUP(free) const char **names = calloc(ck->n_views + 1, sizeof(*names));

    if (!names)
        return -ENOMEM;
    for (size_t i = 0; i < view_index(N_GLOBAL_ROLES, ck->config.n_layers); i++)
        if (ck->views[i].name)
            names[n_views++] = ck->views[i].name;
    qsort(names, n_views, sizeof(*names), compare_names);
    for (size_t i = 0; i < n; i++) {
        const char *name = ck->gguf ? gguf_tensor(ck->gguf, i)->name
                                    : safetensors_tensor(ck->safetensors, i)->name;

        if (!is_redundant(ck, name) &&
            !bsearch(&name, names, n_views, sizeof(*names), compare_names))
            return reason_set(why, -EINVAL,
                              "%s: tensor \"%s\" has no place in a %s model of %" PRIu32
                              " layers as configured here",
                              ck->gguf ? ck->path : safetensors_tensor(ck->safetensors, i)->path,
                              name, model_arch_name(ck->config.arch), ck->config.n_layers);
    }
    return 0;
}

/* opening */

static int open_container(Checkpoint *ck, Reason *why) {
    struct stat st;
    int r;

    if (stat(ck->path, &st))
        return reason_set(why, -errno, "%s: %s", ck->path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        r = gguf_open(&ck->gguf, ck->path, why);
        return r ? r : gguf_config_read(ck->gguf, &ck->config, &ck->generation, why);
    }
    /* The configuration first: it says best what is wrong with an unsupported model. */
    r = hf_config_read(ck->path, &ck->config, &ck->generation, why);
    return r ? r : safetensors_open(&ck->safetensors, ck->path, why);
}

int checkpoint_open(Checkpoint **outp, const char *path, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *ck = calloc(1, sizeof(*ck));
    int r = -ENOMEM;

    if (ck) {
        ck->path = strdup(path);
        ck->generation =
            (GenerationDefaults){ .temperature = 1, .top_p = 1, .repetition_penalty = 1 };
    }
    if (ck && ck->path)
        r = open_container(ck, why);
    if (!r)
        r = fill_views(ck, why);
    if (!r)
        r = check_no_others(ck, why);
    if (r == -ENOMEM)
        return reason_set(why, r, "%s: out of memory", path);
    if (!r)
        *outp = TAKE(ck);
    return r;
}

Checkpoint *checkpoint_free(Checkpoint *ck) {
    if (!ck)
        return NULL;
    gguf_free(ck->gguf);
    safetensors_free(ck->safetensors);
    model_config_deinit(&ck->config);
    free(ck->views);
    free(ck->path);
    free(ck);
    return NULL;
}

const ModelConfig *checkpoint_config(const Checkpoint *ck) {
    return &ck->config;
}

const GenerationDefaults *checkpoint_generation(const Checkpoint *ck) {
    return &ck->generation;
}

const TensorView *checkpoint_tensor(const Checkpoint *ck, TensorRole role, uint32_t layer) {
    const TensorView *view;

    assert(role < TENSOR_ROLES && (role < N_GLOBAL_ROLES || layer < ck->config.n_layers));
    view = &ck->views[view_index(role, layer)];
    return view->name ? view : NULL;
}
