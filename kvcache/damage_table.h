/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What each format of each (layer, side) costs in quality, from the best that is known of a model.
 * In nats a token: the KL divergence that it alone would bring about.
 *
 *   measured      each one run by itself: what the profile's second level holds, steadied by
 *                 kvcache/damage_estimate.h, and drawn to what distortions alone would say
 *   distortions   local errors, weighted by what attention makes of them, and brought to the
 *                 size of what formats typically do
 *   norms         what formats typically do, divided among the layers of a side as ||W||^2 says,
 *                 spectral or Frobenius
 *   typical       what formats do to a small model that was measured, the same in each layer
 *
 * All but the first are estimates. Norms divide a side's damage among its layers, and do not say
 * how keys compare with values: there they mislead (the default model has ||W_K|| < ||W_V|| in a
 * third of its layers, yet keys are the more sensitive side in all of them).
 */

#include "kvcache/profile.h"

/* Best first. */
typedef enum DamageSource {
    DAMAGE_MEASURED,
    DAMAGE_DISTORTIONS,
    DAMAGE_SPECTRAL_NORMS,
    DAMAGE_FROBENIUS_NORMS,
    DAMAGE_TYPICAL,
    DAMAGE_SOURCES
} DamageSource;

typedef struct DamageTable {
    DamageSource source;
    uint32_t n_layers;
    double damages[KV_LAYERS_MAX][KV_SIDES][KV_FORMATS]; /* [n_layers] used; bf16: typical */
    double errors[KV_LAYERS_MAX][KV_SIDES]
                 [KV_FORMATS]; /* standard errors of measured ones; else 0 */
} DamageTable;

/* From the best source that `profile` (NULL: none) has, of `best` and those that come after it. */
void damage_table_fill(DamageTable *out, const Profile *profile, uint32_t n_layers,
                       DamageSource best);
/* "measured damage of each layer and side", for people. */
const char *damage_source_name(DamageSource source);

/* The sum over a plan (NULL: f16). */
double damage_table_sum(const DamageTable *table, const KvPlan *plan);
