/* SPDX-License-Identifier: Apache-2.0 */
#include "model/kv_cache.h"

#include "kvcache/hadamard.h"
#include "kvcache/rounding.h"
#include "util/cleanup.h"

#include <errno.h>
#include <string.h>

/* A share of the moment's mean diagonal; from 0.3% to 10% little changes. */
#define DAMPING 0.03

static int upload_rounding(const KvStore *store, const BackendOps *ops, Backend *backend,
                           const Profile *profile, uint32_t layer, uint32_t head) {
    uint32_t n = store->geometry.head_dim;
    KvLayer kept = kv_store_layer(store, layer);
    size_t matrix = (size_t)n * n;
    CLEANUP(free) Rounding *rounding = calloc(1, store->rounding_bytes);
    CLEANUP(free) float *moment = malloc(matrix * sizeof(*moment));
    int r = 0;

    if (!rounding || !moment)
        return -ENOMEM;
    if (profile) {
        memcpy(moment,
               profile->q_moments + ((size_t)layer * store->geometry.n_kv_heads + head) * matrix,
               matrix * sizeof(*moment));
        if (kv_layer_rotates(&kept, KV_SIDE_K))
            hadamard_conjugate(moment, n);
        r = rounding_init(rounding, moment, n, DAMPING);
    } else {
        rounding_init_plain(rounding, n);
    }
    return r ? r
             : ops->upload(backend, kv_layer_rounding(&kept, head), rounding,
                           store->rounding_bytes);
}

static int upload_roundings(const KvStore *store, const BackendOps *ops, Backend *backend,
                            const Profile *profile) {
    for (uint32_t layer = 0; layer < store->geometry.n_layers; layer++)
        for (uint32_t head = 0;
             kv_store_quantizes(store, layer, KV_SIDE_K) && head < store->geometry.n_kv_heads;
             head++) {
            int r = upload_rounding(store, ops, backend, profile, layer, head);

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
    r = upload_roundings(store, ops, backend, profile);
    if (r) {
        kv_cache_close(store, ops, backend);
        return reason_set(why, r, "the rounding tables of the KV cache could not be prepared");
    }
    return 0;
}

void kv_cache_close(KvStore *store, const BackendOps *ops, Backend *backend) {
    if (store->base)
        ops->memory_free(backend, store->base);
    store->base = 0;
}
