/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One layer of the cache as a backend's kernels see it: a plain value of some 100 bytes that a GPU
 * kernel takes as an argument, made from the store once a layer and step. The header is C, C++ and
 * CUDA alike.
 */

#include "kvcache/kv_layout.h"
#include "util/device_fn.h"

typedef struct KvLayerSide {
    DevAddr pages;        /* the block of page 0 and KV head 0 */
    DevAddr tails;        /* of slot 0 and KV head 0 */
    DevAddr sinks;        /* of sink slot 0 and KV head 0 */
    uint32_t block_bytes; /* of one KV head of one page */
    KvFormat format;      /* of pages */
} KvLayerSide;

typedef struct KvLayer {
    KvLayerSide sides[KV_SIDES];
    DevAddr roundings;      /* of KV head 0, for keys; none unless they are quantized */
    DevAddr transforms;     /* alike */
    size_t tail_slot_bytes; /* from a slot to the next */
    size_t sink_slot_bytes;
    uint32_t tail_block_bytes; /* head_dim * 64 * 2 */
    uint32_t sink_block_bytes; /* head_dim * 4 * 2 */
    uint32_t rounding_bytes, transform_bytes;
    uint32_t n_kv_heads, head_dim;
    uint32_t n_sinks; /* sink slots; 0: first pages are as others */
} KvLayer;

/* The store's memory must be there: its addresses go into the value. */
KvLayer kv_store_layer(const KvStore *store, uint32_t layer);

DEVICE_FN bool kv_layer_quantizes(const KvLayer *l, KvSide side) {
    return l->sides[side].format != KV_FORMAT_BF16 && l->sides[side].format != KV_FORMAT_F16;
}

/* What tails and sinks of a side, and a step's own keys and values, are stored as. */
DEVICE_FN KvFormat kv_layer_tail_format(const KvLayer *l, KvSide side) {
    return kv_layer_quantizes(l, side) ? KV_FORMAT_F16 : l->sides[side].format;
}

/* Whether a side is transformed, in the tail already: keys, and the queries that meet them, by
 * kvcache/key_transform.h, values by kvcache/hadamard.h. */
DEVICE_FN bool kv_layer_rotates(const KvLayer *l, KvSide side) {
    return kv_layer_quantizes(l, side);
}

DEVICE_FN DevAddr kv_layer_block(const KvLayer *l, KvSide side, uint32_t page, uint32_t head) {
    return l->sides[side].pages +
           ((size_t)page * l->n_kv_heads + head) * l->sides[side].block_bytes;
}

DEVICE_FN DevAddr kv_layer_tail(const KvLayer *l, KvSide side, uint32_t slot, uint32_t head) {
    return l->sides[side].tails + slot * l->tail_slot_bytes + (size_t)head * l->tail_block_bytes;
}

DEVICE_FN DevAddr kv_layer_sink(const KvLayer *l, KvSide side, uint32_t slot, uint32_t head) {
    return l->sides[side].sinks + slot * l->sink_slot_bytes + (size_t)head * l->sink_block_bytes;
}

DEVICE_FN DevAddr kv_layer_rounding(const KvLayer *l, uint32_t head) {
    return l->roundings + (size_t)head * l->rounding_bytes;
}

DEVICE_FN DevAddr kv_layer_transform(const KvLayer *l, uint32_t head) {
    return l->transforms + (size_t)head * l->transform_bytes;
}
