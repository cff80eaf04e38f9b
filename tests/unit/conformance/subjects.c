/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backends there are, in each way they can be opened.
 */
#include "cpu/cpu_backend.h"
#ifdef KVASIR_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "tests/unit/async_backend.h"
#include "tests/unit/conformance/conformance.h"

#include <errno.h>

/* Four lanes that add up 5,000 equal numbers always round to the same side. A block product turns
 * activations into 16-bit fixed point (cpu/matmul.h): 2e-5 is expected, and many times that where
 * one of 32 is much louder than the others. */
static const Tolerance cpu_tolerance = {
    .rounding = 1e-6,
    .sum = 2e-5,
    .arithmetic = 7e-6,
    .float_product = 5e-6,
    .block_product = 3e-4,
    .attention = 3e-6,
};

static int open_cpu(Backend **outp, const Subject *subject, Reason *why) {
    return cpu_backend_new(outp,
                           &(CpuBackendOptions){ .n_threads = subject->n_threads,
                                                 .isa_forced = true,
                                                 .isa = (CpuIsa)subject->variant },
                           why);
}

static BackendOps async_ops; /* once it is open */

/* The best of the CPU, done late and by another thread. */
static int open_async(Backend **outp, const Subject *subject, Reason *why) {
    AsyncBackendOptions options = { .ops = &cpu_ops, .lingers = true, .seed = 1 };
    int r = cpu_backend_new(&options.backend,
                            &(CpuBackendOptions){ .n_threads = subject->n_threads }, why);

    async_ops = async_backend_ops(&cpu_ops);
    return r ? r : async_backend_new(outp, &options, why);
}

#ifdef KVASIR_CUDA
/* Activations and weights are bf16: a rounding to one is at most 2^-8 of a number. Attention rounds
 * its result so, and its weights and what it reads of quantized pages to halves, 2^-11 each. Sums
 * are f32. */
static const Tolerance cuda_tolerance = {
    .rounding = 0x1.01p-8,
    .sum = 2e-5,
    .arithmetic = 7e-6,
    .float_product = 0x1p-8,
    .block_product = 0x1p-8,
    .attention = 0x1p-8 + 0x1p-10,
};

/* -ENODEV and -ENOTSUP: no GPU here, or not one that this runs on. */
static int open_cuda(Backend **outp, const Subject *subject, Reason *why) {
    int r = cuda_backend_new(outp, &(CudaBackendOptions){ .i_device = subject->variant }, why);

    return r == -ENODEV ? -ENOTSUP : r;
}
#endif

#define CPU_SUBJECT(_isa, _n_threads)                                                     \
    {                                                                                     \
        .name = "cpu " #_isa " x" #_n_threads, .ops = &cpu_ops, .open = open_cpu,         \
        .variant = CPU_ISA_##_isa, .n_threads = (_n_threads), .tolerance = &cpu_tolerance \
    }

const Subject subjects[] = {
    CPU_SUBJECT(REFERENCE, 1),
    CPU_SUBJECT(REFERENCE, 3),
    CPU_SUBJECT(BASELINE, 1),
    CPU_SUBJECT(BASELINE, 3),
    CPU_SUBJECT(AVX2, 1),
    CPU_SUBJECT(AVX2, 3),
    CPU_SUBJECT(AVX512, 1),
    CPU_SUBJECT(AVX512, 3),
    CPU_SUBJECT(AVX512_VNNI, 1),
    CPU_SUBJECT(AVX512_VNNI, 3),
    CPU_SUBJECT(NEON, 1),
    CPU_SUBJECT(NEON, 3),
    { .name = "async",
      .ops = &async_ops,
      .open = open_async,
      .n_threads = 2,
      .tolerance = &cpu_tolerance },
#ifdef KVASIR_CUDA
    { .name = "cuda", .ops = &cuda_ops, .open = open_cuda, .tolerance = &cuda_tolerance },
#endif
};
const size_t n_subjects = sizeof(subjects) / sizeof(*subjects);
