/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The matrix product by its definition: every weight as the f32 number it stands for, sums in
 * double. What the kernels are tested against.
 */

#include "cpu/matmul.h"

#include <errno.h>
#include <stdlib.h>

static void reference_row(const MatmulArgs *args, const MatmulPart *part, uint32_t row,
                          const float *weight_row) {
    uint32_t n_rows = cpu_weight_rows(part->weight), n_cols = cpu_weight_cols(part->weight);
    const float *in = (const float *)(uintptr_t)args->in;
    const float *bias = (const float *)(uintptr_t)part->bias;
    float *out = (float *)(uintptr_t)part->out;
    for (uint32_t t = 0; t < args->n_tokens; t++) {
        double sum = bias ? bias[row] : 0;
        for (uint32_t i = 0; i < n_cols; i++)
            sum += (double)weight_row[i] * in[(size_t)t * n_cols + i];
        float *to = &out[(size_t)t * n_rows + row];
        *to = (float)(part->accumulate ? *to + sum : sum);
    }
}

int cpu_matmul_reference(const MatmulArgs *args) {
    for (uint32_t p = 0; p < args->n_parts; p++) {
        const MatmulPart *part = &args->parts[p];
        CLEANUP(free) float *weight_row = malloc(cpu_weight_cols(part->weight) * sizeof(float));
        if (!weight_row)
            return -ENOMEM;
        for (uint32_t row = 0; row < cpu_weight_rows(part->weight); row++) {
            cpu_weight_row_to_f32(part->weight, row, weight_row);
            reference_row(args, part, row, weight_row);
        }
    }
    return 0;
}
