#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/data/weight_format.bin: blocks of every weight format and the numbers in them, as the
gguf package (0.19.0) reads them. Run again only when a format is added.

For each format in the order of backend/weight_format.h: u32 number of values, u32 bytes of blocks,
the blocks, the values as f32. Codes are random; the scales of the first blocks are 0, the smallest
f16, and negative.
"""

import pathlib
import struct

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

OUTPUT = pathlib.Path(__file__).parents[1] / "data" / "weight_format.bin"
N_BLOCKS = 6
N_PLAIN = 256
SCALES = np.array([0, 2.0**-24, 1.0, -1.0, 0.01, 3.0e-3], np.float16)
MINIMA = np.array([-0.5, 2.0**-24, 3.0, -7.0, 0.25, -1.0e-3], np.float16)
SCALE_OFFSETS = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}


def plain(kind, rng):
    """Random bit patterns that are numbers, then the corners: 0, -0, subnormal, infinity."""
    if kind == Type.F32:
        values = np.append(rng.standard_normal(N_PLAIN - 4), [0, -0.0, 1e-45, -np.inf])
        return values.astype(np.float32), values.astype(np.float32)
    bits = rng.integers(0, 65536, N_PLAIN, dtype=np.uint16)
    bits[-4:] = [0, 0x8000, 0x0001, 0xFC00 if kind == Type.F16 else 0xFF80]
    if kind == Type.F16:
        values = bits.view(np.float16).astype(np.float32)
    else:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
    keep = ~np.isnan(values)
    return bits[keep], values[keep]


def blocks(kind, rng):
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (N_BLOCKS, block_bytes), dtype=np.uint8)
    for offset, column in zip(SCALE_OFFSETS[kind], (SCALES, MINIMA)):
        data[:, offset : offset + 2] = column.view(np.uint8).reshape(N_BLOCKS, 2)
    return data, dequantize(data, kind).astype(np.float32)


def main():
    rng = np.random.default_rng(20)
    with OUTPUT.open("wb") as file:
        for kind in [Type.F32, Type.F16, Type.BF16, *SCALE_OFFSETS]:
            data, values = (blocks if kind in SCALE_OFFSETS else plain)(kind, rng)
            file.write(struct.pack("<II", values.size, data.nbytes))
            file.write(data.tobytes() + values.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
