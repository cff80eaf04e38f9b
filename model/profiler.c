/* SPDX-License-Identifier: Apache-2.0 */
#include "model/profiler.h"

#include "util/cleanup.h"

#include <errno.h>
#include <math.h>

static int frobenius_norm(const TensorView *t, double *out) {
    size_t row_bytes = weight_row_bytes(t->format, t->shape[1]);
    CLEANUP(free) float *row = malloc(t->shape[1] * sizeof(*row));
    double squares = 0;

    if (!row)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->shape[0]; i++) {
        weight_to_f32(t->format, (const char *)t->data + i * row_bytes, row, t->shape[1]);
        for (uint32_t j = 0; j < t->shape[1]; j++)
            squares += (double)row[j] * row[j];
    }
    *out = sqrt(squares);
    return 0;
}

int profiler_weight_norms(Profile *profile, const Checkpoint *checkpoint) {
    int r = 0;

    for (uint32_t l = 0; !r && l < profile->geometry.n_layers; l++) {
        r = frobenius_norm(checkpoint_tensor(checkpoint, TENSOR_K, l), &profile->k_norms[l]);
        if (!r)
            r = frobenius_norm(checkpoint_tensor(checkpoint, TENSOR_V, l), &profile->v_norms[l]);
    }
    return r;
}
