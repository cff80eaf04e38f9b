/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Launchers of the ops that treat each row alone, and of what profiles are made of. Arguments are
 * the op table's own; `stream` orders them.
 */

#include "cuda/step.h"
#include "cuda/weight.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `drawn` [n_slots]: what every slot drew last. */
int cuda_embed(cudaStream_t stream, const CudaStepView *step, const uint32_t *drawn,
               const EmbedArgs *args);
int cuda_rmsnorm(cudaStream_t stream, const RmsnormArgs *args);
int cuda_gated(cudaStream_t stream, const GatedArgs *args);
int cuda_gather_rows(cudaStream_t stream, const CudaStepView *step, const GatherRowsArgs *args);
int cuda_rope_table(cudaStream_t stream, const CudaStepView *step, const RopeTableArgs *args);
int cuda_moments(cudaStream_t stream, const MomentsArgs *args);
int cuda_covariances(cudaStream_t stream, const CovariancesArgs *args);

#ifdef __cplusplus
}
#endif
