#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the levels of trellis-coded values (kvcache/value_trellis.h) on normal vectors.

    train_value_levels.py [--bits 2 3] [--vectors 6000] [--seed 1]

Vectors of 64 normal numbers, scaled to length 8, are coded by the best path through the trellis;
each level then moves to the mean of the numbers that chose it (S. Lloyd's iteration), mirrored
about zero. At last levels become the integers, at a scale below 128, that lose least. Printed are
the tables of kvcache/kv_format.c, in 64ths, and the distortion after the unbiased gain,
<v, q> = <v, v>, on vectors not seen in training, beside that of Lloyd and Max's plain levels of as
many bits.
"""

import argparse

import numpy as np

N = 64  # channels of a run
STATES = 8
SUBSETS = 4


def subset(state, bit):
    return (bit ^ (state & 1) ^ (state >> 2)) << 1 | (state >> 1 & 1)


# The two ways into each state: from which state, through which subset.
FROM = np.array([[s >> 1, s >> 1 | STATES >> 1] for s in range(STATES)])
SUBSET = np.array([[subset(FROM[s, way], s & 1) for way in (0, 1)] for s in range(STATES)])


def encode(x, levels):
    """The levels' indices of the best path, for each vector."""
    n_vectors, n = x.shape
    cost = np.full((n_vectors, STATES), np.inf)
    cost[:, 0] = 0
    ways = np.empty((n, n_vectors, STATES), np.uint8)
    nearest = np.empty((n, n_vectors, SUBSETS), np.uint8)
    for j in range(n):
        error = np.empty((n_vectors, SUBSETS))
        for s in range(SUBSETS):
            distances = (x[:, j:j + 1] - levels[s::SUBSETS]) ** 2
            best = distances.argmin(1)
            nearest[j, :, s] = SUBSETS * best + s
            error[:, s] = np.take_along_axis(distances, best[:, None], 1)[:, 0]
        costs = cost[:, FROM] + error[:, SUBSET]
        ways[j] = costs[:, :, 1] < costs[:, :, 0]
        cost = costs.min(2)
    state = cost.argmin(1)
    rows = np.arange(n_vectors)
    indices = np.empty((n_vectors, n), np.uint8)
    for j in range(n - 1, -1, -1):
        way = ways[j, rows, state]
        indices[:, j] = nearest[j, rows, SUBSET[state, way]]
        state = FROM[state, way]
    return indices


def distortion(x, q):
    gain = (x * x).sum(1, keepdims=True) / (x * q).sum(1, keepdims=True)
    return float(((x - gain * q) ** 2).sum() / (x * x).sum())


def vectors(random, n):
    x = random.standard_normal((n, N))
    return x * np.sqrt(N) / np.linalg.norm(x, axis=1, keepdims=True)


def mirrored(half):
    return np.concatenate([-half[::-1], half])


def moved(x, levels, indices):
    sums = np.bincount(indices.ravel(), x.ravel(), len(levels))
    counts = np.bincount(indices.ravel(), minlength=len(levels))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), levels)
    half = len(levels) // 2
    return mirrored((means[half:] - means[:half][::-1]) / 2)


def plain_distortion(bits, x, tested):
    levels = np.quantile(x, (np.arange(2 ** bits) + 0.5) / 2 ** bits)
    for _ in range(60):
        levels = moved(x, levels, np.searchsorted((levels[1:] + levels[:-1]) / 2, x))
    return distortion(tested, levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, tested)])


def train(bits, x):
    n = 2 ** (bits + 1)
    levels = mirrored(np.quantile(x, (np.arange(n // 2, n) + 0.5) / n)) * 1.1
    for _ in range(40):
        levels = moved(x, levels, encode(x, levels))
    return levels


def rounded(levels, x):
    """Integers, and the scale at which they are the levels."""
    top = 127 / levels[-1]
    scales = np.arange(np.floor(top * 0.6), np.floor(top) + 1)
    losses = [float((((np.rint(levels * s) / s) - levels) ** 2).sum()) for s in scales]
    best = [scales[i] for i in np.argsort(losses)[:8]]
    costs = [distortion(x, np.rint(levels * s)[encode(x * s, np.rint(levels * s))]) for s in best]
    scale = best[int(np.argmin(costs))]
    return np.rint(levels * scale).astype(int), scale


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--vectors", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    for bits in args.bits:
        x, tested = vectors(random, args.vectors), vectors(random, args.vectors)
        integers, scale = rounded(train(bits, x), x[:2000])
        q = integers[encode(tested * scale, integers.astype(float))]
        print(f"{bits} bits: levels {{ {', '.join(map(str, integers))} }}, "
              f"levels_per_sigma {scale:g}")
        print(f"    distortion {distortion(tested, q):.5f}, "
              f"of plain levels {plain_distortion(bits, x, tested):.5f}")


if __name__ == "__main__":
    main()
