/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/kv_block.h"

#include <math.h>

#define LEVEL_UNIT (1.0f / 64) /* kvcache/kv_format.h: all levels are whole 64ths */

static void fill_levels(CudaKvFormat *f, const KvFormatInfo *info) {
    f->levels_per_sigma = info->levels_per_sigma;
    f->unit = LEVEL_UNIT;
    for (uint32_t i = 0; i < info->n_levels; i++) {
        int whole = (int)(info->levels[i] / LEVEL_UNIT);

        f->levels[i] = info->levels[i];
        f->code_max = fmaxf(f->code_max, fabsf((float)whole));
        f->table[i / 4] |= (uint32_t)(whole + 128) << i % 4 * 8;
    }
}

CudaKvFormat cuda_kv_format(KvFormat format, KvSide side, uint32_t head_dim) {
    const KvFormatInfo *info = &kv_formats[format];
    CudaKvFormat f = { .format = format, .bits = info->bits };
    KvBlockLayout l;

    if (!kv_format_quantizes(format))
        return f;
    l = kv_block_layout(format, side, head_dim);
    f.planes[0] = info->planes[0];
    f.planes[1] = info->n_planes > 1 ? info->planes[1] : 0;
    f.meta_bytes = info->meta_bytes;
    f.plane1_offset = (uint32_t)l.plane_offset[1];
    f.scales_offset = (uint32_t)l.scales_offset;
    f.centers_offset = (uint32_t)l.centers_offset;
    f.has_centers = kv_format_has_centers(format, side);
    f.has_trellis = kv_format_has_trellis(format, side);
    f.unit = 1;
    if (f.has_centers)
        f.code_max = (float)(1u << (info->bits - 1));
    else
        fill_levels(&f, info);
    return f;
}
