/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Instructions of attention: copies that are waited for later, and fragments of tensor cores.
 */

#include "cuda/device.cuh"

static __device__ inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes into shared memory, later; zeros if not `valid`. */
static __device__ inline void copy_later(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0));
}

static __device__ inline void copies_commit() {
    asm volatile("cp.async.commit_group;\n");
}

template <int N> static __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}

static __device__ inline void load_fragment(uint32_t *a, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(shared_address(row)));
}

static __device__ inline void load_fragment_transposed(uint32_t *a, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(shared_address(row)));
}

static __device__ inline uint32_t transpose_fragment(uint32_t x) {
    uint32_t y;

    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
    return y;
}

template <bool IS_BF16>
static __device__ inline void mma_16x8x16(float *c, const uint32_t *a, const uint32_t *b) {
    if (IS_BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ inline uint32_t half2_pack(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);

    return *(uint32_t *)&pair;
}

template <bool IS_BF16> static __device__ inline uint32_t pack_pair(float low, float high) {
    return IS_BF16 ? bf16_pack(low, high) : half2_pack(low, high);
}
