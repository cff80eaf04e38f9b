/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What was measured of one model, once: second moments that pages are rounded against
 * (kvcache/rounding.h), covariances that keys are transformed by (kvcache/key_transform.h), norms
 * of the weights that made keys and values, and, at its second level, what each format costs in
 * each layer and side. A plain struct and the file it is kept in. Measuring is done by model/ and
 * server/commands.
 *
 * The file, little-endian:
 *
 *   magic "KVASPROF"        8 bytes
 *   version                 u32, PROFILE_VERSION; or 2 or 3, which are still read
 *   head size               u32, bytes of the head
 *   head                    JSON, see kvcache/profile_head.h; in versions 2 and 3 it has less
 *   zeros                   up to a multiple of 64 bytes
 *   body                    f32: q_moments, then k_covariances
 *   checksum                16 bytes: XXH3-128 of everything before it, low half first
 *
 * A file is taken whole or refused: damaged, of another version, of another model. Moments are
 * kept as sums, so that a measurement that was cut short goes on where it ended, and gives the
 * profile that it would have given in one go. Damages are measured layer by layer, and go on with
 * the first layer that has none.
 */

#include "kvcache/kv_layout.h"
#include "util/cleanup.h"
#include "util/hash.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROFILE_VERSION 4
#define PROFILE_TEXT_NAME_BYTES 128

/* A number for each layer, side and format; 0 where the format has 16 bits. [n_layers] used. */
typedef double ProfileTable[KV_LAYERS_MAX][KV_SIDES][KV_FORMATS];

typedef struct Profile {
    KvGeometry geometry;
    char identity[HASH128_HEX_BYTES];        /* of the model: model/identity.h */
    uint64_t n_tokens;                       /* of text it was measured on */
    uint64_t n_tokens_wanted;                /* it was to be measured on; not less */
    char text_name[PROFILE_TEXT_NAME_BYTES]; /* which text; UTF-8 */

    /* [n_layers][n_kv_heads][head_dim][head_dim], symmetric; owned: sum of q q^T over tokens and
     * the query heads of the KV head; q after rotary embedding, before any transform.
     * Values are rounded plainly (cpu/kv_seal.c says why) and need none. */
    float *q_moments;
    /* [n_layers][n_kv_heads][head_dim][head_dim], symmetric: sum of (k - m) (k - m)^T over the
     * tokens of whole pages, m the mean over the page; k after rotary embedding. It lies behind
     * q_moments, in one piece with it. */
    float *k_covariances;

    /* Of W_K and W_V; [n_layers] used. */
    double k_norms[KV_LAYERS_MAX], v_norms[KV_LAYERS_MAX]; /* Frobenius norms */
    bool has_spectral_norms;                               /* files of version 2 have none */
    double k_spectral_norms[KV_LAYERS_MAX], v_spectral_norms[KV_LAYERS_MAX]; /* largest singular
                                                                                values */

    /* The second level. What it holds of a layer is used by plans alone; no page depends on it. */
    bool lacks_5_bits; /* files of version 3 had no such format: what the tables below say of 5 bits
                          is the geometric mean of 4 and 6, as D(b) = alpha beta^-b has it */
    bool has_damages;  /* of every layer */
    uint32_t
        n_layers_measured;    /* layers that have damages and distortions so far, from the first */
    uint64_t n_damage_tokens; /* each damage is a mean over */
    ProfileTable damages;     /* KL divergence in nats per token from the f16 cache when that side
                                 of that layer alone takes that format */
    ProfileTable damage_errors;      /* their standard errors, tokens as independent */
    bool damages_direct[KV_FORMATS]; /* damages of that format are measured; others are those of the
                                        nearest measured one, times the ratio of distortions */
    bool has_distortions;            /* of every layer */
    ProfileTable distortions;        /* what the change of the attention block's output is of the
                                        residual stream it is added to, both squared, in the mean
                                        over tokens: of keys by the scores of the layer's own
                                        queries, of values by the attention they get */
} Profile;

/* All zeros. -EINVAL (geometry: head_dim at most KV_HEAD_DIM_MAX), -ENOMEM. */
int profile_new(Profile **outp, const KvGeometry *geometry);
Profile *profile_free(Profile *profile);
CLEANUP_DEFINE(Profile, profile_free);

/* Whether it rests on all the tokens that it was to rest on. */
bool profile_is_whole(const Profile *profile);

/* Floats in q_moments, and in k_covariances. */
size_t profile_moments_count(const Profile *profile);

/* Writes a file whole or not at all (util/output_file.h). Its directory is created if only that is
 * missing. -EINVAL: the profile itself holds what no file
 * may (not finite); -errno of the file system. */
int profile_save(const Profile *profile, const char *path, Reason *why);

/* `identity` and `geometry` are those of the model at hand; both NULL: any model's profile is
 * taken. -EINVAL with what was found, what was expected and what to do; -ENOMEM; -errno where the
 * file cannot be read. */
int profile_load(Profile **outp, const char *path, const char *identity, const KvGeometry *geometry,
                 Reason *why);

/* Of what the first level holds, but text_name and spectral norms: pages rounded against profiles
 * of equal hash are rounded alike, and damages measured later change no hash. */
Hash128 profile_hash(const Profile *profile);
