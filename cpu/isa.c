/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What this processor runs, asked once a call: the compiler's builtin also checks that the
 * system saves the wide registers.
 */

#include "cpu/cpu_backend.h"

static const char *const isa_names[CPU_ISAS] = {
    [CPU_ISA_REFERENCE] = "reference",
    [CPU_ISA_BASELINE] = "baseline",
    [CPU_ISA_AVX2] = "avx2",
    [CPU_ISA_AVX512] = "avx512",
    [CPU_ISA_AVX512_VNNI] = "avx512_vnni",
    [CPU_ISA_NEON] = "neon",
};

const char *cpu_isa_name(CpuIsa isa) {
    return (unsigned)isa < CPU_ISAS ? isa_names[isa] : "unknown";
}

#if defined(__x86_64__)

bool cpu_isa_available(CpuIsa isa) {
    __builtin_cpu_init();
    /* F16C, which not every compiler's builtin knows, came before AVX2 on every processor. */
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
    case CPU_ISA_REFERENCE:
    case CPU_ISA_BASELINE:
        return true;
    case CPU_ISA_AVX2:
        return avx2;
    case CPU_ISA_AVX512:
        return avx512;
    case CPU_ISA_AVX512_VNNI:
        return avx512 && __builtin_cpu_supports("avx512vnni");
    default:
        return false;
    }
}

CpuIsa cpu_isa_detect(void) {
    if (cpu_isa_available(CPU_ISA_AVX512_VNNI))
        return CPU_ISA_AVX512_VNNI;
    if (cpu_isa_available(CPU_ISA_AVX512))
        return CPU_ISA_AVX512;
    return cpu_isa_available(CPU_ISA_AVX2) ? CPU_ISA_AVX2 : CPU_ISA_BASELINE;
}

#else

bool cpu_isa_available(CpuIsa isa) {
#if defined(__aarch64__)
    if (isa == CPU_ISA_NEON)
        return true;
#endif
    return isa == CPU_ISA_REFERENCE || isa == CPU_ISA_BASELINE;
}

CpuIsa cpu_isa_detect(void) {
    return cpu_isa_available(CPU_ISA_NEON) ? CPU_ISA_NEON : CPU_ISA_BASELINE;
}

#endif
