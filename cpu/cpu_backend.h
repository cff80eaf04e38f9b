/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CPU backend. Every op has a scalar reference; faster versions are picked once, at start, by
 * what the processor has.
 */

#include "backend/ops.h"

typedef enum CpuIsa {
    CPU_ISA_REFERENCE,   /* the readable version of every op: for comparison, never detected */
    CPU_ISA_BASELINE,    /* what the compiler makes for any processor of the architecture */
    CPU_ISA_AVX2,        /* AVX2, FMA, F16C */
    CPU_ISA_AVX512,      /* AVX-512 F, BW, DQ, VL */
    CPU_ISA_AVX512_VNNI, /* and VNNI */
    CPU_ISA_NEON,
    CPU_ISAS
} CpuIsa;

typedef struct CpuBackendOptions {
    uint32_t n_threads; /* 0: one per available core */
    bool isa_forced;    /* use `isa` instead of the best there is (tests, benchmarks) */
    CpuIsa isa;
} CpuBackendOptions;

extern const BackendOps cpu_ops;

const char *cpu_isa_name(CpuIsa isa);
/* The best one this processor runs. */
CpuIsa cpu_isa_detect(void);
bool cpu_isa_available(CpuIsa isa);

/* -ENOTSUP: the forced one is not available here. */
int cpu_backend_new(Backend **outp, const CpuBackendOptions *options, Reason *why);

/* The vector kernels a backend would pick here, for work on host memory. */
const struct CpuVectorKernels *cpu_vector_kernels(void);
