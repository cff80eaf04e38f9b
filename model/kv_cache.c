/* SPDX-License-Identifier: Apache-2.0 */
#include "model/kv_cache.h"

#include "kvcache/key_transform.h"
#include "kvcache/rounding.h"
#include "util/cleanup.h"

#include <errno.h>
#include <string.h>

/* Of the covariance that keys are transformed by (kvcache/key_transform.h). On the default model
 * K2, K3 and K4 alone have KLD 0.0238, 0.0047 and 0.00099 with it, 0.0284, 0.0060 and 0.00120 with
 * 0, which is the Hadamard transform (8,192 tokens of wiki.test.raw, windows of 2,048). */
#define EXPONENT 0.5
/* A share of the moment's mean diagonal; from 0.3% to 10% little changes. */
#define DAMPING 0.03

/* What one KV head's keys are transformed and rounded by; profile NULL: the Hadamard transform,
 * plain rounding. `moment` is scratch. */
static int prepare_head(KeyTransform *transform, Rounding *rounding, float *moment,
                        const KvGeometry *g, const Profile *profile, size_t i_head,
                        uint32_t n_paths) {
    size_t n = g->head_dim, matrix = n * n;
    int r;

    if (!profile) {
        key_transform_init_plain(transform, g->head_dim);
        rounding_init_plain(rounding, g->head_dim);
        return 0;
    }
    r = key_transform_init(transform, profile->k_covariances + i_head * matrix, g->head_dim,
                           EXPONENT);
    if (r)
        return r;
    memcpy(moment, profile->q_moments + i_head * matrix, matrix * sizeof(*moment));
    r = key_transform_moment(transform, moment);
    return r ? r : rounding_init(rounding, moment, g->head_dim, DAMPING, n_paths);
}

static int upload_head(const KvStore *store, const BackendOps *ops, Backend *backend,
                       const Profile *profile, uint32_t layer, uint32_t head) {
    const KvGeometry *g = &store->geometry;
    KvLayer kept = kv_store_layer(store, layer);
    CLEANUP(free) KeyTransform *transform = calloc(1, store->transform_bytes);
    CLEANUP(free) Rounding *rounding = calloc(1, store->rounding_bytes);
    CLEANUP(free) float *moment = malloc((size_t)g->head_dim * g->head_dim * sizeof(*moment));
    int r;

    if (!transform || !rounding || !moment)
        return -ENOMEM;
    r = prepare_head(transform, rounding, moment, g, profile, (size_t)layer * g->n_kv_heads + head,
                     ops->rounding_paths);
    if (!r)
        r = ops->upload(backend, kv_layer_transform(&kept, head), transform,
                        store->transform_bytes);
    return r ? r
             : ops->upload(backend, kv_layer_rounding(&kept, head), rounding,
                           store->rounding_bytes);
}

static int upload_heads(const KvStore *store, const BackendOps *ops, Backend *backend,
                        const Profile *profile) {
    for (uint32_t layer = 0; layer < store->geometry.n_layers; layer++)
        for (uint32_t head = 0;
             kv_store_quantizes(store, layer, KV_SIDE_K) && head < store->geometry.n_kv_heads;
             head++) {
            int r = upload_head(store, ops, backend, profile, layer, head);

            if (r)
                return r;
        }
    return 0;
}

int kv_cache_open(KvStore *store, const BackendOps *ops, Backend *backend, const KvShape *shape,
                  const Profile *profile, Reason *why) {
    int r;

    r = kv_store_layout(store, shape);
    if (r)
        return reason_set(
            why, r, "a KV cache of %u pages, %u KV heads of %u channels cannot be laid out%s",
            shape->n_pages, shape->geometry.n_kv_heads, shape->geometry.head_dim,
            shape->geometry.head_dim % 8 ? ": formats below 16 bits need a multiple of 8 channels"
                                         : "");
    r = ops->memory_new(backend, &store->base, store->size_bytes, "the KV cache", why);
    if (r)
        return r;
    r = upload_heads(store, ops, backend, profile);
    if (r) {
        kv_cache_close(store, ops, backend);
        return reason_set(why, r,
                          "the transforms and roundings of the KV cache could not be prepared");
    }
    return 0;
}

void kv_cache_close(KvStore *store, const BackendOps *ops, Backend *backend) {
    if (store->base)
        ops->memory_free(backend, store->base);
    store->base = 0;
}
