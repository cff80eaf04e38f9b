/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: the library's handle and functions, its workspace, and plans: which of the library's
 * kernels a shape is made with. A plan is made when a shape is first met, which takes it some tens
 * of microseconds; a table of a fixed size keeps the last one of each place.
 */
#include "cuda/blas.h"

#include "cuda/status.h"
#include "util/cleanup.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE_BYTES ((size_t)32 << 20)
#define PLANS 1024 /* a power of two */
#define LIBRARY_NAME_1(_major) "libcublasLt.so." #_major
#define LIBRARY_NAME(_major) LIBRARY_NAME_1(_major)
#define LIBRARY LIBRARY_NAME(CUBLAS_VER_MAJOR)

typedef struct Shape {
    uint32_t n_tokens, n_in, n_out;
    uint16_t is_f32, accumulate;
} Shape;

typedef struct Plan {
    bool is_made;
    Shape shape;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, in, out;
    cublasLtMatmulAlgo_t algorithm;
} Plan;

typedef struct Functions {
    __typeof__(&cublasLtCreate) create;
    __typeof__(&cublasLtDestroy) destroy;
    __typeof__(&cublasLtMatmul) matmul;
    __typeof__(&cublasLtMatmulDescCreate) product_create;
    __typeof__(&cublasLtMatmulDescDestroy) product_destroy;
    __typeof__(&cublasLtMatmulDescSetAttribute) product_set;
    __typeof__(&cublasLtMatrixLayoutCreate) layout_create;
    __typeof__(&cublasLtMatrixLayoutDestroy) layout_destroy;
    __typeof__(&cublasLtMatmulPreferenceCreate) preference_create;
    __typeof__(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    __typeof__(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    __typeof__(&cublasLtMatmulAlgoGetHeuristic) heuristic;
} Functions;

struct CudaBlas {
    void *library;
    Functions f;
    cublasLtHandle_t handle;
    CudaMemory *memory; /* borrowed; of the workspace */
    void *workspace;    /* device */
    Plan plans[PLANS];
};

CLEANUP_DEFINE(CudaBlas, cuda_blas_free);

/* Where toolkits put it, beside where the system looks. */
static void *open_library(void) {
    static const char *const names[] = { LIBRARY, "/usr/local/cuda/lib64/" LIBRARY };

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);

        if (library)
            return library;
    }
    return NULL;
}

static int find_functions(CudaBlas *blas, Reason *why) {
    const struct {
        void **to;
        const char *name;
    } all[] = {
        { (void **)&blas->f.create, "cublasLtCreate" },
        { (void **)&blas->f.destroy, "cublasLtDestroy" },
        { (void **)&blas->f.matmul, "cublasLtMatmul" },
        { (void **)&blas->f.product_create, "cublasLtMatmulDescCreate" },
        { (void **)&blas->f.product_destroy, "cublasLtMatmulDescDestroy" },
        { (void **)&blas->f.product_set, "cublasLtMatmulDescSetAttribute" },
        { (void **)&blas->f.layout_create, "cublasLtMatrixLayoutCreate" },
        { (void **)&blas->f.layout_destroy, "cublasLtMatrixLayoutDestroy" },
        { (void **)&blas->f.preference_create, "cublasLtMatmulPreferenceCreate" },
        { (void **)&blas->f.preference_destroy, "cublasLtMatmulPreferenceDestroy" },
        { (void **)&blas->f.preference_set, "cublasLtMatmulPreferenceSetAttribute" },
        { (void **)&blas->f.heuristic, "cublasLtMatmulAlgoGetHeuristic" },
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        *all[i].to = dlsym(blas->library, all[i].name);
        if (!*all[i].to)
            return reason_set(why, -ENOTSUP, "%s has no function %s", LIBRARY, all[i].name);
    }
    return 0;
}

int cuda_blas_new(CudaBlas **outp, Reason *why) {
    CLEANUP(cuda_blas_free) CudaBlas *blas = calloc(1, sizeof(*blas));
    int r;

    if (!blas)
        return reason_set(why, -ENOMEM, "no memory for the plans of products");
    blas->library = open_library();
    if (!blas->library)
        return reason_set(why, -ENOTSUP,
                          "device cuda needs %s, which is not found; install the CUDA runtime "
                          "libraries (libcublas), or set LD_LIBRARY_PATH to where they are",
                          LIBRARY);
    r = find_functions(blas, why);
    if (r)
        return r;
    if (blas->f.create(&blas->handle))
        return reason_set(why, -ENODEV, "%s could not be started on this GPU", LIBRARY);
    *outp = TAKE(blas);
    return 0;
}

static void plan_free(CudaBlas *blas, Plan *plan) {
    if (plan->product)
        blas->f.product_destroy(plan->product);
    if (plan->weight)
        blas->f.layout_destroy(plan->weight);
    if (plan->in)
        blas->f.layout_destroy(plan->in);
    if (plan->out)
        blas->f.layout_destroy(plan->out);
    memset(plan, 0, sizeof(*plan));
}

CudaBlas *cuda_blas_free(CudaBlas *blas) {
    if (!blas)
        return NULL;
    for (size_t i = 0; i < PLANS; i++)
        plan_free(blas, &blas->plans[i]);
    cuda_memory_give(blas->memory, blas->workspace);
    if (blas->handle)
        blas->f.destroy(blas->handle);
    /* The library stays loaded: it has threads and handlers of its own. */
    free(blas);
    return NULL;
}

int cuda_blas_reserve(CudaBlas *blas, CudaMemory *memory, size_t *bytesp) {
    if (!blas->workspace) {
        int r = cuda_memory_take(memory, &blas->workspace, WORKSPACE_BYTES);

        blas->memory = memory;

        if (r)
            return r;
    }
    *bytesp += WORKSPACE_BYTES;
    return 0;
}

/* plans */

/* The library's matrices are column by column: what is [n_tokens, n_in] to us is [n_in, n_tokens]
 * to it, and out^T = weight in^T. */
static bool plan_make_layouts(CudaBlas *blas, Plan *plan, const Shape *s) {
    cublasOperation_t transposed = CUBLAS_OP_T;

    return !blas->f.product_create(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
           !blas->f.product_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                sizeof(transposed)) &&
           !blas->f.layout_create(&plan->weight, CUDA_R_16BF, s->n_in, s->n_out, s->n_in) &&
           !blas->f.layout_create(&plan->in, CUDA_R_16BF, s->n_in, s->n_tokens, s->n_in) &&
           !blas->f.layout_create(&plan->out, s->is_f32 ? CUDA_R_32F : CUDA_R_16BF, s->n_out,
                                  s->n_tokens, s->n_out);
}

static bool plan_choose(CudaBlas *blas, Plan *plan) {
    size_t workspace_bytes = WORKSPACE_BYTES;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;
    bool ok;

    ok = !blas->f.preference_create(&preference) &&
         !blas->f.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                 &workspace_bytes, sizeof(workspace_bytes)) &&
         !blas->f.heuristic(blas->handle, plan->product, plan->weight, plan->in, plan->out,
                            plan->out, preference, 1, &found, &n_found) &&
         n_found == 1;
    if (preference)
        blas->f.preference_destroy(preference);
    if (ok)
        plan->algorithm = found.algo;
    return ok;
}

static size_t place_of(const Shape *s) {
    uint64_t h = s->n_tokens * UINT64_C(0x9e3779b97f4a7c15);

    h = (h ^ s->n_in) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 29) ^ s->n_out) * UINT64_C(0x94d049bb133111eb);
    h ^= (uint64_t)(s->is_f32 | s->accumulate << 1);
    return (h ^ h >> 32) % PLANS;
}

static const Plan *find_plan(CudaBlas *blas, const Shape *shape) {
    Plan *plan = &blas->plans[place_of(shape)];

    if (plan->is_made && memcmp(&plan->shape, shape, sizeof(*shape)) == 0)
        return plan;
    plan_free(blas, plan);
    if (!plan_make_layouts(blas, plan, shape) || !plan_choose(blas, plan)) {
        plan_free(blas, plan);
        return NULL;
    }
    plan->shape = *shape;
    plan->is_made = true;
    return plan;
}

int cuda_blas_product(CudaBlas *blas, cudaStream_t stream, const CudaProduct *product,
                      const CudaPart *part) {
    Shape shape = { .n_tokens = product->n_tokens,
                    .n_in = product->n_in,
                    .n_out = part->n_out,
                    .is_f32 = part->is_f32,
                    .accumulate = part->accumulate };
    const Plan *plan = find_plan(blas, &shape);
    float one = 1, beta = part->accumulate ? 1 : 0;

    if (!plan)
        return -EINVAL;
    return blas->f.matmul(blas->handle, plan->product, &one, part->weight, plan->weight,
                          product->in, plan->in, &beta, part->out, plan->out, part->out, plan->out,
                          &plan->algorithm, blas->workspace, WORKSPACE_BYTES, stream)
               ? -ENODEV
               : 0;
}
