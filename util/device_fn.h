/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DEVICE_FN begins the definition of a function in a header that the host and kernels of a GPU both
 * call.
 */

#ifdef __CUDACC__
#define DEVICE_FN static __host__ __device__ inline
#else
#define DEVICE_FN static inline
#endif
