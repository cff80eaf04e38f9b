/* SPDX-License-Identifier: Apache-2.0 */
#include "model/profiler.h"

#include "model/matrix_norms.h"

int profiler_weight_norms(Profile *profile, const Checkpoint *checkpoint) {
    int r = 0;

    for (uint32_t l = 0; !r && l < profile->geometry.n_layers; l++) {
        MatrixNorms k = { 0 }, v = { 0 };

        r = matrix_norms(&k, checkpoint_tensor(checkpoint, TENSOR_K, l));
        if (!r)
            r = matrix_norms(&v, checkpoint_tensor(checkpoint, TENSOR_V, l));
        profile->k_norms[l] = k.frobenius;
        profile->v_norms[l] = v.frobenius;
        profile->k_spectral_norms[l] = k.spectral;
        profile->v_spectral_norms[l] = v.spectral;
    }
    profile->has_spectral_norms = !r;
    return r;
}
