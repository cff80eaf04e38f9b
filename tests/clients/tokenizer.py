# SPDX-License-Identifier: Apache-2.0
"""The default model's tokenizer as a directory that Transformers reads.

Clients that count or make tokens themselves fetch tokenizers from a hub; here they are given what
the GGUF file holds, without a network.
"""

import json
from pathlib import Path

from gguf import GGUFReader

CONTROL = 3  # gguf.TokenType.CONTROL


def texts(field):
    return [bytes(field.parts[i]).decode() for i in field.data]


def numbers(field):
    return [int(field.parts[i][0]) for i in field.data]


def make_tokenizer(model, directory):
    """Writes tokenizer.json and tokenizer_config.json; the vocabulary must be of GPT-2's kind, with
    digits one by one, as SmolLM2's is."""
    fields = GGUFReader(model).fields
    tokens = texts(fields["tokenizer.ggml.tokens"])
    control = [i for i, kind in enumerate(numbers(fields["tokenizer.ggml.token_type"]))
               if kind == CONTROL]
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i in control]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": texts(fields["tokenizer.ggml.merges"])},
    }

    def token(name):
        return tokens[numbers(fields[f"tokenizer.ggml.{name}_token_id"])[0]]

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": token("bos"),
        "eos_token": token("eos"), "model_max_length": 2048,
        "chat_template": texts(fields["tokenizer.chat_template"])[0],
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
