/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every weight format to bf16, a thread a value: what weight_to_f32 (backend/weight_format.c) says,
 * rounded to nearest. Runs once, at load, behind the bus.
 */
#include "cuda/device.cuh"
#include "cuda/status.h"
#include "cuda/weight.h"

static __device__ inline uint32_t load_u16(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8;
}

static __device__ inline float load_f16(const uint8_t *p) {
    return __half2float(__ushort_as_half((unsigned short)load_u16(p)));
}

static __device__ inline float load_f32(const uint8_t *p) {
    return __uint_as_float(load_u16(p) | load_u16(p + 2) << 16);
}

/* Value i is the low nibble of byte i, and value i + 16 the high one. */
static __device__ inline int nibble_of_32(const uint8_t *codes, uint32_t i) {
    return codes[i % 16] >> i / 16 * 4 & 0xf;
}

static __device__ inline int fifth_bit_of_32(const uint8_t *bits, uint32_t i) {
    return (bits[i / 8] >> i % 8 & 1) << 4;
}

/* Value i of a block of q4_k or q5_k; `fifth_bits` NULL: there are none. */
static __device__ inline float k_value(const uint8_t *block, const uint8_t *fifth_bits,
                                       const uint8_t *codes, uint32_t i) {
    const uint8_t *packed = block + 4;
    uint32_t part = i / 32, column = i % 32, scale, min;
    int code = codes[part / 2 * 32 + column] >> part % 2 * 4 & 0xf;

    if (part < 4) {
        scale = packed[part] & 63;
        min = packed[part + 4] & 63;
    } else {
        scale = (packed[part + 4] & 0xf) | packed[part - 4] >> 6 << 4;
        min = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
    }
    if (fifth_bits)
        code |= (fifth_bits[column] >> part & 1) << 4;
    return load_f16(block) * (float)scale * (float)code - load_f16(block + 2) * (float)min;
}

static __device__ inline float q6_k_value(const uint8_t *block, uint32_t i) {
    uint32_t half = i / 128, run = i / 32 % 4, j = i % 32;
    int low = block[half * 64 + run % 2 * 32 + j] >> run / 2 * 4 & 0xf;
    int high = block[128 + half * 32 + j] >> run * 2 & 3;
    float scale = (float)(int8_t)block[192 + i / 16];

    return load_f16(block + 208) * scale * (float)((low | high << 4) - 32);
}

static __device__ inline float block_value(WeightFormat format, const uint8_t *block, uint32_t i) {
    switch (format) {
    case WEIGHT_F32:
        return load_f32(block);
    case WEIGHT_F16:
        return load_f16(block);
    case WEIGHT_Q8_0:
        return load_f16(block) * (float)(int8_t)block[2 + i];
    case WEIGHT_Q4_0:
        return load_f16(block) * (float)(nibble_of_32(block + 2, i) - 8);
    case WEIGHT_Q4_1:
        return load_f16(block) * (float)nibble_of_32(block + 4, i) + load_f16(block + 2);
    case WEIGHT_Q5_0:
        return load_f16(block) *
               (float)((nibble_of_32(block + 6, i) | fifth_bit_of_32(block + 2, i)) - 16);
    case WEIGHT_Q5_1:
        return load_f16(block) *
                   (float)(nibble_of_32(block + 8, i) | fifth_bit_of_32(block + 4, i)) +
               load_f16(block + 2);
    case WEIGHT_Q4_K:
        return k_value(block, NULL, block + 16, i);
    case WEIGHT_Q5_K:
        return k_value(block, block + 16, block + 48, i);
    case WEIGHT_Q6_K:
        return q6_k_value(block, i);
    default: /* bf16 is copied as it is */
        return __uint_as_float(load_u16(block) << 16);
    }
}

static __global__ void expand_kernel(WeightFormat format, const uint8_t *from, __nv_bfloat16 *to,
                                     size_t n, uint32_t block_values, uint32_t block_bytes) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        to[i] = __float2bfloat16_rn(block_value(format, from + i / block_values * block_bytes,
                                                (uint32_t)(i % block_values)));
}

int cuda_expand(cudaStream_t stream, WeightFormat format, const uint8_t *from, void *to,
                size_t n_blocks) {
    const WeightFormatInfo *info = &weight_formats[format];
    size_t n = n_blocks * info->block_values;

    if (format == WEIGHT_BF16)
        return cuda_status(cudaMemcpyAsync(to, from, n * 2, cudaMemcpyDeviceToDevice, stream));
    expand_kernel<<<(uint32_t)((n + 255) / 256), 256, 0, stream>>>(
        format, from, (__nv_bfloat16 *)to, n, info->block_values, info->block_bytes);
    return cuda_launch_status();
}
