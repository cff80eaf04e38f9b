#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/plan.svg: damage by mean bits, of each way to plan and of uniform pairs.

    tests/tools/plan_curves.py plan MODEL FOLDER     writes FOLDER/METHOD-BITS.json for each method
                                                     and budget, and prints the options of eval
    kvasird eval MODEL --text TEXT ... --json EVAL   measures what it printed
    tests/tools/plan_curves.py draw FOLDER EVAL SVG  lines are predicted, dots measured; prints both

Standard library only; $KVASIRD or build/kvasird plans.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

METHODS = {"auto": [], "ratequant": ["--method", "ratequant"],
           "paper-frobenius": ["--method", "paper", "--norm", "frobenius"],
           "paper-spectral": ["--method", "paper", "--norm", "spectral"]}
BITS = ("2.5", "2.75", "3.0", "3.25", "3.5", "4.0", "5.0", "6.25")
PAIRS = ("k2v2", "k3v2", "k4v2", "k3v3", "k4v4", "k5v5", "k6v6")
COLORS = {"auto": "#d62728", "ratequant": "#1f77b4", "paper-frobenius": "#2ca02c",
          "paper-spectral": "#9467bd", "uniform pairs": "#7f7f7f"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 460, 70, 20, 180, 50
BITS_RANGE, KLD_RANGE = (2, 6.5), (5e-5, 5e-2)


def plan(model, folder):
    kvasird = os.environ.get("KVASIRD", "build/kvasird")
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"--kv {pair}" for pair in PAIRS]
    for method, flags in METHODS.items():
        for bits in BITS:
            path = folder / f"{method}-{bits}.json"
            done = subprocess.run([kvasird, "plan", model, "--bits", bits, *flags, "--json"],
                                  check=True, capture_output=True, text=True)
            path.write_text(done.stdout)
            options.append(f"--kv plan:{path}")
    print(" ".join(options))


def x_of(bits):
    low, high = BITS_RANGE
    return LEFT + (bits - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def y_of(kld):
    low, high = (math.log(k) for k in KLD_RANGE)
    return TOP + (high - math.log(kld)) / (high - low) * (HEIGHT - TOP - BOTTOM)


def axes():
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for bits in range(2, 7):
        x = x_of(bits)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ccc"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{bits}</text>'
    for kld in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        y = y_of(kld)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ccc"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{kld:g}</text>'
    yield (f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">mean bits of a '
           'sealed element, metadata included</text>')
    yield (f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" '
           'text-anchor="middle">KLD from f16, nats a token</text>')


def curve(name, place, predicted, measured):
    color = COLORS[name]
    points = " ".join(f"{x_of(b):.1f},{y_of(k):.1f}" for b, k in predicted)
    yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    for bits, kld in measured:
        yield f'<circle cx="{x_of(bits):.1f}" cy="{y_of(kld):.1f}" r="4" fill="{color}"/>'
    y = TOP + 16 + 22 * place
    yield f'<path d="M{WIDTH - RIGHT + 14} {y - 4}h22" stroke="{color}" stroke-width="3"/>'
    yield f'<text x="{WIDTH - RIGHT + 42}" y="{y}">{name}</text>'


def draw(folder, measured, out):
    klds = {pathlib.Path(s["kv"].removeprefix("plan:")).stem: (s["bits"], s["kld"])
            for s in measured["specs"]}
    plans = {p.stem: json.loads(p.read_text()) for p in folder.glob("*-*.json")}
    lines = []
    for place, method in enumerate(METHODS):
        names = [f"{method}-{bits}" for bits in BITS]
        predicted = [(plans[n]["bits"], plans[n]["expected_kld"]) for n in names]
        lines += curve(method, place, predicted, [klds[n] for n in names if n in klds])
        for name, (bits, kld) in zip(names, predicted):
            print(f"{name:24} {bits:.3f} bits, predicted {kld:.6f}",
                  f"measured {klds[name][1]:.6f}" if name in klds else "")
    pairs = {pair: klds[pair] for pair in PAIRS if pair in klds}
    lines += curve("uniform pairs", len(METHODS), [], pairs.values())
    lines += [f'<text x="{x_of(bits) + 7:.1f}" y="{y_of(kld) - 5:.1f}" fill="#555">{pair}</text>'
              for pair, (bits, kld) in pairs.items()]
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join([*axes(), *lines]) + "\n</svg>\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["plan", model, folder]:
            plan(model, pathlib.Path(folder))
        case ["draw", folder, measured, out]:
            draw(pathlib.Path(folder), json.loads(pathlib.Path(measured).read_text()),
                 pathlib.Path(out))
        case _:
            sys.exit(__doc__)
