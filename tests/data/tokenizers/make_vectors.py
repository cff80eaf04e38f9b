#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes this folder's vectors with the reference tokenizer (pip install tokenizers==0.23.3 gguf).

    make_vectors.py            components.jsonl.xz, spm.gguf.xz, spm.jsonl.xz, hard.NAME.jsonl.xz

components: small tokenizers that between them use every component, option and order that is
supported, each with texts and what the reference makes of them. spm: the same for a GGUF file with
scores instead of merges. hard: random texts of the kinds that go wrong (younger characters,
combining marks in any order, white space of all sorts, halves of added tokens) for the tokenizers
that are kept here; their vectors.jsonl.xz holds ordinary texts. Every line is random but seeded.
"""

import json
import lzma
import os
import random

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
N_COMPONENT_CASES = 150
N_HARD_CASES = 1500

SPACES = (" \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f\u205f"
          "\u3000\u180e\ufeff")
YOUNG = [0x7fd, 0x897, 0x1ac0, 0x1df6, 0x1c89, 0x10d40, 0x113b8, 0x113c2, 0x11930, 0x11935,
         0x11938, 0x1161e, 0x16d63, 0x16d67, 0x1d127, 0x1e4f0, 0x1fae8, 0x2ebf0, 0x31350, 0x301,
         0x316]
MARKS = "\u1100\u1161\u11a8\uac00\u0301\u0316\u05b0\u0327\u0345\u3099がか"
PHRASES = ["мир привет", "你好世界テストひらがな", "한국어 테스트", "עברית", "العربية", "हिन्दी",
           "ไทย", "ελληνικά", "ÀÉÎõüßñ", "ǅǈǋ", "ªºʰʱ", "ⅠⅡⅢ①②½¾²³", "٠١٢٣४५",
           "😀👨‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽", "e\u0301a\u0308\u0323", "ﷺﬁﬀ", "∑∫≤€$£", "—…“”‘’«»"]
ODDITIES = ["\x00", "\x1b", "\x7f", "\ufffd", "\uffff", "\U0010ffff", "▁", "▁▁", "Ġ", "Ċ",
            "<0x0A>", "<0xE4>", "word", "swordx", "the cat", "word.", "_word", "\u200dword",
            "word\u0301", "Ⓐword", "Foo Bar", "FOO BAR", "ÀÉ", "A\u0300E\u0301", "ab", "cab",
            "  <lst>  <rst>  ", "é<both> ", "  <nspx>"]
CONTRACTIONS = ["'s", "'T", "'re", "'VE", "'m", "'LL", "'d", "'ſ", "’s", "''", "'K"]


def passage():
    with open(os.path.join(ROOT, "server", "builtin_text.txt"), encoding="utf-8") as file:
        return file.read() + "\nnaïve café Ⅷ ½ 你好 ▁x 12 345 6789\n" * 3


def character(r, low, high):
    while True:
        code = r.randrange(low, high)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def run(r, low, high, n):
    return "".join(character(r, low, high) for _ in range(n))


def fragment(r, added, text):
    n = r.choice([1, 1, 2, 3, 5, 8])
    start = r.randrange(len(text) - 200)
    token = r.choice(added)
    cut = r.randrange(len(token))
    return r.choice([
        lambda: run(r, 0, 0x110000, n),
        lambda: run(r, 0, 0x3000, n),
        lambda: run(r, 0, 0x80, n),
        lambda: run(r, 0x300, 0x370, n),
        lambda: run(r, 0x4E00, 0xA000, n),
        lambda: run(r, 0xAC00, 0xD7A4, n),
        lambda: run(r, 0x10000, 0x20000, n),
        lambda: "".join(r.choice(SPACES) for _ in range(n)),
        lambda: r.choice(SPACES) * r.randrange(1, 30),
        lambda: " " * r.randrange(1, 20),
        lambda: r.choice(["\n", "\r\n", "\r", "\n\n"]) * r.randrange(1, 6),
        lambda: r.choice(PHRASES)[: r.randrange(1, 12)],
        lambda: token,
        lambda: token[:cut] + r.choice(["", token, "x"]),
        lambda: r.choice(CONTRACTIONS),
        lambda: str(r.randrange(10 ** r.randrange(1, 12))),
        lambda: "".join(r.choice("aAbBzZ") for _ in range(r.randrange(1, 60))),
        lambda: "".join(r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(n)),
        lambda: r.choice(ODDITIES),
        lambda: "".join(r.choice(MARKS) for _ in range(n)),
        lambda: "".join(chr(r.choice(YOUNG)) for _ in range(n)),
        lambda: text[start : start + r.randrange(1, 100)],
    ])()


def texts(r, tokenizer, n, text):
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    added = r.sample(added, min(20, len(added)))
    return ["".join(fragment(r, added, text) for _ in range(r.choice([1, 2, 3, 4, 6, 10])))
            for _ in range(n)]


def case(tokenizer, text):
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": tokenizer.encode(text).ids, "ids_no_special": plain,
            "decoded": tokenizer.decode(plain, skip_special_tokens=False)}


def write(name, lines):
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_bytes(name, data.encode())


def write_bytes(name, data):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def component_tokenizers():
    pre, dec, norm = pre_tokenizers, decoders, normalizers
    template = processors.TemplateProcessing(
        single="<s> $A </s> <s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    sentencepiece = norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")])
    back = [dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse()]
    return {
        "metaspace always": dict(pre=pre.Metaspace(prepend_scheme="always"), fallback=True,
                                 dec=dec.Metaspace(prepend_scheme="always")),
        "metaspace first": dict(pre=pre.Metaspace(prepend_scheme="first"), unknown=True,
                                dec=dec.Metaspace(prepend_scheme="first")),
        "metaspace never": dict(pre=pre.Metaspace(prepend_scheme="never", split=False),
                                dec=dec.Metaspace(prepend_scheme="never"), unknown=True, fuse=True),
        "isolated": dict(pre=pre.Split(Regex(r"\s+|\p{N}+"), "isolated"), unknown=True,
                         norm=norm.NFKC()),
        "removed": dict(pre=pre.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True),
                        unknown=True, norm=norm.NFD()),
        "previous": dict(pre=pre.Split(" ", "merged_with_previous"), unknown=True,
                         norm=norm.NFKD()),
        "next": dict(pre=pre.Split(Regex(r"\p{P}|\s"), "merged_with_next"), unknown=True,
                     fuse=True, norm=norm.Lowercase()),
        "contiguous": dict(pre=pre.Split(Regex(r"\p{P}"), "contiguous"), unknown=True,
                           norm=norm.Sequence([norm.NFC(), norm.Replace(Regex(r"\s+"), " "),
                                               norm.Lowercase()])),
        "inverted previous": dict(pre=pre.Sequence([
            pre.Split(Regex(r"[A-Za-z]+"), "merged_with_previous", invert=True),
            pre.Digits(individual_digits=False)]), unknown=True),
        "inverted next": dict(pre=pre.Sequence([
            pre.Split(Regex(r"\d+"), "merged_with_next", invert=True),
            pre.Digits(individual_digits=True)]), unknown=True),
        "empty matches": dict(pre=pre.Split(Regex(r"(?=\p{Lu})|\b"), "isolated"), unknown=True),
        "more empty matches": dict(pre=pre.Split(Regex(r"x*"), "removed"), unknown=True),
        "byte level": dict(pre=pre.ByteLevel(add_prefix_space=True, use_regex=True), bytes=True,
                           dec=dec.ByteLevel(), post=template),
        "byte level digits": dict(pre=pre.Sequence([
            pre.Digits(individual_digits=False),
            pre.ByteLevel(add_prefix_space=True, use_regex=False)]), bytes=True,
            dec=dec.ByteLevel()),
        "sentencepiece": dict(norm=sentencepiece, fallback=True,
                              dec=dec.Sequence(back + [dec.Strip(" ", 2, 0)])),
        "strip": dict(norm=norm.Replace(" ", "▁"), fallback=True, unknown=True,
                      dec=dec.Sequence([dec.Strip("e", 1, 0), dec.Replace(Regex("[▁t]"), " "),
                                        dec.ByteFallback()])),
    }


ADDED_SPECIAL = [("<s>", {}), ("</s>", {}), ("<unk>", {}), ("<lst>", dict(lstrip=True)),
                 ("<rst>", dict(rstrip=True)), ("<both>", dict(lstrip=True, rstrip=True)),
                 ("word", dict(single_word=True)),
                 ("the cat", dict(single_word=True, rstrip=True))]
ADDED_PLAIN = [("<nsp>", dict(normalized=False)), ("  ", dict(normalized=False)),
               ("é", dict(normalized=False)), ("ÀÉ", dict(normalized=True)),
               ("Foo Bar", dict(normalized=True)), ("<nspx>", dict(normalized=True, lstrip=True)),
               ("ab", dict(normalized=True, single_word=True))]


def train(parts, text):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if parts.get("unknown") else None,
                                     fuse_unk=parts.get("fuse", False),
                                     byte_fallback=parts.get("fallback", False)))
    tokenizer.pre_tokenizer = parts.get("pre")
    tokenizer.normalizer = parts.get("norm")
    tokenizer.decoder = parts.get("dec")
    special = ["<s>", "</s>", "<unk>"]
    if parts.get("fallback"):
        special += ["<0x%02X>" % byte for byte in range(256)]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if parts.get("bytes") else []
    tokenizer.train_from_iterator(text.split("\n"), trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False,
        limit_alphabet=400 if parts.get("bytes") else 70, max_token_length=12))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True, **flags)
                                  for token, flags in ADDED_SPECIAL])
    for token, flags in ADDED_PLAIN:
        tokenizer.add_tokens([AddedToken(token, **flags)])
    if parts.get("post"):
        tokenizer.post_processor = parts["post"]
    # The byte tokens are the model's, they are not looked for in text.
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"]
                            if not token["content"].startswith("<0x")]
    return file, Tokenizer.from_str(json.dumps(file))


def component_lines(text):
    for name, parts in component_tokenizers().items():
        r = random.Random(name)
        file, tokenizer = train(parts, text)
        cases = [case(tokenizer, t) for t in texts(r, tokenizer, N_COMPONENT_CASES, text)]
        # The reference writes a normalized added token as its normalizer leaves it; here it is
        # written as the file has it.
        normalized = {token["id"] for token in file["added_tokens"] if token["normalized"]}
        for c in cases:
            if normalized & set(c["ids_no_special"]):
                del c["decoded"]
        yield {"name": name, "tokenizer": file, "cases": cases}


def write_spm(text):
    """A GGUF file with scores that put the merges of a trained tokenizer in the same order."""
    parts = component_tokenizers()["sentencepiece"]
    file, _ = train(parts, text)
    file["added_tokens"] = file["added_tokens"][:3]
    file["model"]["unk_token"] = "<unk>"
    file["decoder"]["decoders"][-1]["start"] = 1
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)])
    tokens = sorted((i, t) for t, i in file["model"]["vocab"].items())
    ranks = {}
    for rank, merge in enumerate(file["model"]["merges"]):
        ranks.setdefault("".join(merge), rank)
    types = [2 if t == "<unk>" else 3 if t in ("<s>", "</s>") else 6 if t.startswith("<0x") else 1
             for _, t in tokens]
    path = os.path.join(HERE, "spm.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t.encode() for _, t in tokens])
    writer.add_token_scores([float(-ranks.get(t, 1000000)) for _, t in tokens])
    writer.add_token_types(types)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(path, "rb") as data:
        write_bytes("spm.gguf.xz", data.read())
    os.remove(path)
    write("spm.jsonl.xz", [case(tokenizer, t) for t in texts(random.Random("spm"), tokenizer,
                                                           N_HARD_CASES, text)])


def write_hard(name, text):
    with lzma.open(os.path.join(HERE, name, "tokenizer.json.xz")) as file:
        tokenizer = Tokenizer.from_str(file.read().decode())
    write(name + "/hard.jsonl.xz", [case(tokenizer, t) for t in texts(
        random.Random(name), tokenizer, N_HARD_CASES, text)])


def main():
    text = passage()
    write("components.jsonl.xz", component_lines(text))
    write_spm(text)
    for name in ["qwen3", "mistral_nemo", "deepseek_v3"]:
        write_hard(name, text)


if __name__ == "__main__":
    main()
