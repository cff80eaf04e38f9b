/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The libraries are opened by name, so that neither is needed to build or to run. They stay open:
 * their threads outlive a call.
 */

#include "server/commands/sgemm.h"

#include "util/clock.h"

#include "util/cleanup.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define ROUNDS_MAX 40
#define ROUNDS_S 0.7

/* int dnnl_sgemm(transa, transb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc), row major
 * (oneapi-src/oneDNN, dnnl.h). */
typedef int (*DnnlSgemm)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                         const float *, int64_t, float, float *, int64_t);

/* void cblas_sgemm(order, transa, transb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc)
 * (netlib's cblas.h; OpenBLAS's builds with 32-bit integers). */
typedef void (*CblasSgemm)(int, int, int, int, int, int, float, const float *, int, const float *,
                           int, float, float *, int);
#define CBLAS_ROW_MAJOR 101
#define CBLAS_NO_TRANS 111
#define CBLAS_TRANS 112

typedef void (*SetThreads)(int);

typedef struct SgemmLibrary {
    const char *file, *function, *set_threads;
    bool is_dnnl;
} SgemmLibrary;

static const SgemmLibrary libraries[] = {
    { "libdnnl.so.3", "dnnl_sgemm", "omp_set_num_threads", true },
    { "libdnnl.so.2", "dnnl_sgemm", "omp_set_num_threads", true },
    { "libopenblas.so.0", "cblas_sgemm", "openblas_set_num_threads", false },
};
#define N_LIBRARIES (sizeof(libraries) / sizeof(libraries[0]))

typedef struct SgemmCall {
    uint32_t n_tokens, n_out, n_in;
    const float *in, *weight; /* [n_tokens, n_in], [n_out, n_in] */
    float *out;               /* [n_tokens, n_out] */
} SgemmCall;

/* dlsym's result is a data pointer; POSIX lets it be read as a function's. */
#define FUNCTION(_type, _symbol)                                   \
    __extension__({                                                \
        void *symbol_ = (_symbol);                                 \
        _type function_;                                           \
        __builtin_memcpy(&function_, &symbol_, sizeof(function_)); \
        function_;                                                 \
    })

static void call_library(const SgemmLibrary *library, void *function, const SgemmCall *c) {
    if (library->is_dnnl) {
        DnnlSgemm sgemm = FUNCTION(DnnlSgemm, function);

        sgemm('N', 'T', c->n_tokens, c->n_out, c->n_in, 1, c->in, c->n_in, c->weight, c->n_in, 0,
              c->out, c->n_out);
    } else {
        CblasSgemm sgemm = FUNCTION(CblasSgemm, function);

        sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, CBLAS_TRANS, (int)c->n_tokens, (int)c->n_out,
              (int)c->n_in, 1, c->in, (int)c->n_in, c->weight, (int)c->n_in, 0, c->out,
              (int)c->n_out);
    }
}

static float *random_floats(size_t n) {
    float *x = malloc(n * sizeof(float));
    uint32_t state = 1;
    for (size_t i = 0; x && i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)state * 0x1p-31f - 1;
    }
    return x;
}

static double best_s(const SgemmLibrary *library, void *function, const SgemmCall *call) {
    double best = 0, begin_s = clock_s();
    call_library(library, function, call); /* compiles kernels, starts threads */
    for (uint32_t i = 0; i < ROUNDS_MAX && (i == 0 || clock_s() - begin_s < ROUNDS_S); i++) {
        double start_s = clock_s();
        call_library(library, function, call);
        double took_s = clock_s() - start_s;
        if (i == 0 || took_s < best)
            best = took_s;
    }
    return best;
}

int sgemm_measure(uint32_t n_threads, uint32_t n_tokens, uint32_t n_out, uint32_t n_in,
                  SgemmRate *rate, Reason *why) {
    const SgemmLibrary *library = NULL;
    void *handle = NULL, *function = NULL, *set_threads = NULL;
#if defined(__SANITIZE_ADDRESS__)
    return reason_set(why, -ENOENT,
                      "no matrix library to compare with in a build with sanitizers: LeakSanitizer "
                      "crashes on the thread-local memory of oneDNN's OpenMP threads");
#endif
    for (size_t i = 0; i < N_LIBRARIES && !function; i++) {
        library = &libraries[i];
        handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
        function = handle ? dlsym(handle, library->function) : NULL;
    }
    if (!function)
        return reason_set(why, -ENOENT,
                          "no matrix library to compare with: install libdnnl or libopenblas");
    set_threads = dlsym(handle, library->set_threads);
    if (set_threads)
        FUNCTION(SetThreads, set_threads)((int)n_threads);

    CLEANUP(free) float *in = random_floats((size_t)n_tokens * n_in);
    CLEANUP(free) float *weight = random_floats((size_t)n_out * n_in);
    CLEANUP(free) float *out = random_floats((size_t)n_tokens * n_out);
    if (!in || !weight || !out)
        return reason_set(why, -ENOMEM, "no memory to measure %s", library->file);
    SgemmCall call = { n_tokens, n_out, n_in, in, weight, out };
    rate->library = library->file;
    rate->madds_per_s = (double)n_tokens * n_out * n_in / best_s(library, function, &call);
    return 0;
}
