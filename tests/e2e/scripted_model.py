# SPDX-License-Identifier: Apache-2.0
"""A model that writes what a test wants: each token has one successor, whatever stood before.

Its attention and its MLP are zero, an embedding is a unit vector of its own, and row t of the
output matrix is the vector of the token before t. So a script is a list of pieces, each a token; no
piece may occur twice, in one script or in two. A chat whose last message is the name of a script is
answered with it.
"""

import json
import struct

HIDDEN = 1024  # the most tokens there can be
LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ONE = struct.pack("<H", 0x3F80)  # bf16


def byte_alphabet():
    """The characters that stand for bytes 0 to 255 in byte-level vocabularies."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def pieces_of(text, size, used):
    """The text in pieces of about this size that nobody has used; None where there are none."""
    if not text:
        return []
    for n in sorted(range(2, 2 * size), key=lambda n: abs(n - size)):
        piece = text[:n]
        if piece in used or n > len(text):
            continue
        rest = pieces_of(text[n:], size, used | {piece})
        if rest is not None:
            return [piece, *rest]
    return None


def tensor(shape, ones=()):
    n_rows, n_columns = shape if len(shape) == 2 else (1, shape[0])
    data = bytearray(2 * n_rows * n_columns)
    for row, column in ones:
        at = 2 * (row * n_columns + column)
        data[at:at + 2] = ONE
    return list(shape), bytes(data)


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


def shapes(name):
    if "k_proj" in name or "v_proj" in name:
        return (64, HIDDEN)
    if "gate" in name or "up" in name:
        return (64, HIDDEN)
    return (HIDDEN, 64) if "down" in name else (HIDDEN, HIDDEN)


def make(directory, scripts, template_signs, special=(), size=5):
    """`scripts`: {name: text, or [piece, ...]}. What is in `special` is one special token."""
    used, added, following = set(), ["<|end|>"], {}
    n_bytes = 256

    def token(text, alphabet=byte_alphabet()):
        if isinstance(text, bytes):  # one byte
            return text[0]
        if text not in added:
            assert text not in alphabet
            added.append(text)
        return n_bytes + added.index(text)

    names = [f"<|{name}|>" for name in scripts]
    lists_first = sorted(scripts.items(), key=lambda item: isinstance(item[1], str))
    for name, script in lists_first:
        pieces = pieces_of(script, size, used) if isinstance(script, str) else script
        used.update(pieces)
        before = token("<think>" if name == "begun" else f"<|{name}|>")
        for piece in pieces:
            here = token(piece)
            assert before not in following, f"{piece!r} follows what has another successor"
            following[before] = before = here
        following[before] = n_bytes  # <|end|>
    n_vocab = n_bytes + len(added)
    assert n_vocab <= HIDDEN

    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, head_dim=64,
        intermediate_size=64, num_hidden_layers=1, num_attention_heads=16, num_key_value_heads=1,
        max_position_embeddings=2048, rms_norm_eps=1e-5, vocab_size=n_vocab, hidden_act="silu",
        tie_word_embeddings=False, torch_dtype="bfloat16", bos_token_id=None, eos_token_id=n_bytes,
        rope_theta=10000.0)
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": n_bytes + i, "content": text, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False,
             "special": text in special or text in names or text == "<|end|>"}
            for i, text in enumerate(added)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False,
                  "vocab": {c: i for i, c in enumerate(byte_alphabet())}, "merges": []},
    }
    layer = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": tensor((n_vocab, HIDDEN), [(t, t) for t in range(n_vocab)]),
        "model.norm.weight": tensor((HIDDEN,), [(0, i) for i in range(HIDDEN)]),
        layer + "input_layernorm.weight": tensor((HIDDEN,)),
        layer + "post_attention_layernorm.weight": tensor((HIDDEN,)),
        **{f"{layer}{name}.weight": tensor(shapes(name)) for name in LAYERS},
        "lm_head.weight": tensor((n_vocab, HIDDEN), [(b, a) for a, b in following.items()]),
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (directory / "chat_template.jinja").write_text(
        "{# " + template_signs + " #}{% set name = messages[-1].content %}"
        "{{ '<think>' if name == 'begun' else '<|' + name + '|>' }}")
    write_safetensors(directory / "model.safetensors", tensors)
    return directory
