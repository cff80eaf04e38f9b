#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the table of tests/unit/test_rope.c: rotary frequencies as Transformers computes them.

A transcription of transformers/modeling_rope_utils.py (version 5) in double precision, with its
names, independent of model/rope.c.
"""

import math

PAIRS = (0, 1, 5, 12, 16, 17, 20, 24, 27, 31)  # of head_dim 64; others are scaled up


def default(base, dim, **_):
    return [base ** -(2 * i / dim) for i in range(dim // 2)], 1.0


def linear(base, dim, factor, **_):
    inv_freq, attention_factor = default(base, dim)
    return [f / factor for f in inv_freq], attention_factor


def llama3(base, dim, factor, low_freq_factor, high_freq_factor, old_context_len, **_):
    low_freq_wavelen = old_context_len / low_freq_factor
    high_freq_wavelen = old_context_len / high_freq_factor
    result = []
    for f in default(base, dim)[0]:
        wavelen = 2 * math.pi / f
        scaled = f / factor if wavelen > low_freq_wavelen else f
        if not wavelen < high_freq_wavelen and not wavelen > low_freq_wavelen:
            smooth_factor = (old_context_len / wavelen - low_freq_factor) / (
                high_freq_factor - low_freq_factor
            )
            scaled = (1 - smooth_factor) * scaled / factor + smooth_factor * scaled
        result.append(scaled)
    return result, 1.0


def yarn(base, dim, factor, original, beta_fast=32, beta_slow=1, truncate=True,
         attention_factor=None, mscale=None, mscale_all_dim=None):
    def get_mscale(scale, mscale=1):
        return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0

    def find_correction_dim(num_rotations):
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(base))

    if attention_factor is None:
        if mscale and mscale_all_dim:
            attention_factor = get_mscale(factor, mscale) / get_mscale(factor, mscale_all_dim)
        else:
            attention_factor = get_mscale(factor)
    low, high = find_correction_dim(beta_fast), find_correction_dim(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    extrapolation = default(base, dim)[0]
    interpolation = [f / factor for f in extrapolation]
    result = []
    for i in range(dim // 2):
        keep = 1 - min(max((i - low) / (high - low), 0), 1)
        result.append(interpolation[i] * (1 - keep) + extrapolation[i] * keep)
    return result, attention_factor


CASES = [
    ("default 10000", default, dict(base=1e4, dim=64)),
    ("default 1000000, 128 channels", default, dict(base=1e6, dim=128)),
    ("linear", linear, dict(base=1e4, dim=64, factor=4)),
    ("llama3", llama3, dict(base=5e5, dim=128, factor=8, low_freq_factor=1, high_freq_factor=4,
                            old_context_len=8192)),
    ("llama3 of 32", llama3, dict(base=5e5, dim=64, factor=32, low_freq_factor=1,
                                  high_freq_factor=4, old_context_len=8192)),
    ("yarn", yarn, dict(base=1e4, dim=64, factor=4, original=4096)),
    ("yarn, betas", yarn, dict(base=1e6, dim=128, factor=4, original=32768, beta_fast=16,
                               beta_slow=2)),
    ("yarn, not truncated", yarn, dict(base=1.5e5, dim=64, factor=32, original=4096,
                                       truncate=False)),
    ("yarn, attention factor", yarn, dict(base=1e4, dim=64, factor=8, original=2048,
                                          attention_factor=1.25)),
    ("yarn, mscale", yarn, dict(base=1e4, dim=64, factor=40, original=4096, mscale=1.0,
                                mscale_all_dim=0.707)),
    ("yarn, mscale alone", yarn, dict(base=1e4, dim=64, factor=40, original=4096, mscale=0.5)),
    ("yarn of 1", yarn, dict(base=1e4, dim=64, factor=1, original=2048)),
    ("yarn, ramp before the first pair", yarn, dict(base=1e4, dim=64, factor=4, original=4)),
    ("yarn, ramp of no length", yarn, dict(base=1e4, dim=64, factor=4, original=200,
                                           beta_slow=32)),
]

for name, function, arguments in CASES:
    frequencies, attention_factor = function(**arguments)
    scale = arguments["dim"] // 64
    values = [frequencies[i * scale] for i in PAIRS]
    print(f'    {{ "{name}", {attention_factor:.9g},')
    print("      { " + ", ".join(f"{v:.9g}" for v in values) + " } },")
