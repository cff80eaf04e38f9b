/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/distortion_law.h"

#include "kvcache/kv_format.h"

#include <math.h>

/* Sums over the formats of one layer: b and y = ln D. */
typedef struct LayerFit {
    double n, b, y, bb, by, yy;
} LayerFit;

static LayerFit layer_fit(const double distortions[KV_FORMATS]) {
    LayerFit fit = { 0 };

    for (int f = 0; f < KV_FORMATS; f++) {
        double b = kv_formats[f].bits, y;

        if (!kv_format_quantizes((KvFormat)f) || !(distortions[f] > 0))
            continue;
        y = log(distortions[f]);
        fit.n += 1;
        fit.b += b;
        fit.y += y;
        fit.bb += b * b;
        fit.by += b * y;
        fit.yy += y * y;
    }
    return fit;
}

DistortionLaw distortion_law_fit(const ProfileTable table, uint32_t n_layers, KvSide side) {
    double bb = 0, by = 0, yy = 0, log_alpha = 0, n = 0, n_used = 0, slope;

    for (uint32_t l = 0; l < n_layers; l++) {
        LayerFit fit = layer_fit(table[l][side]);

        if (!(fit.n > 0))
            continue;
        /* about the layer's own means, which takes its alpha out */
        bb += fit.bb - fit.b * fit.b / fit.n;
        by += fit.by - fit.b * fit.y / fit.n;
        yy += fit.yy - fit.y * fit.y / fit.n;
        n += fit.n;
    }
    if (!(bb > 0))
        return (DistortionLaw){ .n = 0 };
    slope = by / bb;
    for (uint32_t l = 0; l < n_layers; l++) {
        LayerFit fit = layer_fit(table[l][side]);

        if (!(fit.n > 0))
            continue;
        log_alpha += (fit.y - slope * fit.b) / fit.n;
        n_used += 1;
    }
    return (DistortionLaw){ .alpha = exp(log_alpha / n_used),
                            .beta = exp(-slope),
                            .residual = sqrt(fmax(yy - slope * by, 0) / n),
                            .n = (uint32_t)n };
}
