#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint in Hugging Face layout as a GGUF file, as llama.cpp's converter would.

    make_gguf.py llama/ llama.gguf --type q4_1 --dequantized llama-q4_1/

Matrices get the type, norms and biases stay f32, llama's query and key rows are permuted, llama3's
rotary scaling becomes divisors, gemma3's norms get their one. The gguf package quantizes the simple
types; of q4_k, q5_k and q6_k it only knows how to read them, so their blocks are random (with
scales that give the matrix its old standard deviation): such a model talks nonsense, but exactly
one kind of nonsense.
`--dequantized` writes the same weights once more as f32 safetensors: what a reader of the GGUF file
must compute with. Only small models: everything is held in memory.
"""

import argparse
import json
import pathlib
import shutil
import struct

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

ARCHS = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}
K_BLOCK_VALUES = 256
# Where a random block has its f16 scales, and their size for values of standard deviation 1:
# codes are uniform, 6-bit sub-scales too.
K_SCALES = {
    gguf.GGMLQuantizationType.Q4_K: [(0, 1 / 200), (2, 1 / 30)],
    gguf.GGMLQuantizationType.Q5_K: [(0, 1 / 400), (2, 1 / 30)],
    gguf.GGMLQuantizationType.Q6_K: [(208, 1 / 1050)],
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA3_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GLOBAL_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
READERS = {
    "I32": lambda raw: np.frombuffer(raw, "<i4"),
    "F32": lambda raw: np.frombuffer(raw, "<f4"),
    "F16": lambda raw: np.frombuffer(raw, "<f2").astype(np.float32),
    "BF16": lambda raw: (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32),
}


def read_safetensors(path):
    """Name to array: f32, or int32."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = READERS[entry["dtype"]](raw[begin:end]).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4").tobytes())


def gguf_name(name, arch):
    stem, suffix = name.rsplit(".", 1)
    if stem in GLOBAL_NAMES:
        return f"{GLOBAL_NAMES[stem]}.{suffix}"
    _, _, layer, stem = stem.split(".", 3)
    names = LAYER_NAMES | GEMMA3_NAMES if arch == "gemma3" else LAYER_NAMES
    return f"blk.{layer}.{names[stem]}.{suffix}"


def interleaved(rows, n_heads):
    """Row numbers in the order of llama's GGUF files: halves (c, c + d / 2) become pairs."""
    order = np.arange(rows).reshape(n_heads, 2, rows // n_heads // 2)
    return order.swapaxes(1, 2).reshape(-1)


def random_k_blocks(tensor, kind, rng):
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = tensor.shape[-1] // K_BLOCK_VALUES
    blocks = rng.integers(0, 256, (*tensor.shape[:-1], n_blocks, block_bytes), dtype=np.uint8)
    for offset, unit in K_SCALES[kind]:
        scale = np.full((*blocks.shape[:-1], 1), tensor.std() * unit, np.float16)
        scale *= rng.uniform(0.5, 1, scale.shape).astype(np.float16)
        blocks[..., offset : offset + 2] = scale.view(np.uint8)
    return blocks.reshape(*tensor.shape[:-1], n_blocks * block_bytes)


def stored(tensor, kind, rng):
    """The bytes of a tensor, and what a reader must make of them."""
    if tensor.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        return tensor.astype(np.float32), tensor, gguf.GGMLQuantizationType.F32
    if kind == gguf.GGMLQuantizationType.F16:
        half = tensor.astype(np.float16)
        return half, half.astype(np.float32), kind
    data = random_k_blocks(tensor, kind, rng) if kind in K_SCALES else quantize(tensor, kind)
    return data, dequantize(data, kind).reshape(tensor.shape), kind


def rope_parameters(config):
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope = dict(rope.get("full_attention", rope))
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def llama3_divisors(rope, head_dim):
    frequencies = 1 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    wavelengths = 2 * np.pi / frequencies
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def add_config(writer, arch, config):
    n_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    rope = rope_parameters(config)

    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
        if config.get("sliding_window"):
            writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_uint32("gemma3.attention.sliding_window_pattern",
                          config["layer_types"].index("full_attention") + 1)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, head_dim))


def add_tokenizer(writer, source, config):
    """A byte-level BPE tokenizer whose pattern is Llama 3's, as the fixtures have."""
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for token, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id], types[token_id] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    template = source / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def convert(source, target, type_name, dequantized, seed):
    config = json.loads((source / "config.json").read_text())
    arch = ARCHS[config["model_type"]]
    kind = gguf.GGMLQuantizationType[type_name.upper()]
    rng = np.random.default_rng(seed)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    read = {}

    writer = gguf.GGUFWriter(target, arch)
    add_config(writer, arch, config)
    add_tokenizer(writer, source, config)
    for path in sorted(source.glob("model*.safetensors")):
        for name, tensor in read_safetensors(path).items():
            order = np.arange(tensor.shape[0])
            if arch == "llama" and name.split(".")[-2] in heads:
                order = interleaved(tensor.shape[0], heads[name.split(".")[-2]])
            offset = 1 if arch == "gemma3" and name.endswith("norm.weight") else 0
            data, values, data_kind = stored(tensor[order] + np.float32(offset), kind, rng)
            writer.add_tensor(gguf_name(name, arch), data, raw_dtype=data_kind)
            read[name] = np.empty_like(tensor)
            read[name][order] = values - np.float32(offset)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    if dequantized:
        dequantized.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.suffix in (".json", ".jinja") and not path.name.endswith(".index.json"):
                shutil.copyfile(path, dequantized / path.name)
        write_safetensors(dequantized / "model.safetensors", read)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--type", default="f32", help="f32, f16, bf16, q8_0, q4_0, .. q6_k")
    parser.add_argument("--dequantized", type=pathlib.Path, help="directory for the weights in f32")
    parser.add_argument("--seed", type=int, default=1, help="of the random blocks")
    args = parser.parse_args()
    convert(args.source, args.target, args.type, args.dequantized, args.seed)


if __name__ == "__main__":
    main()
