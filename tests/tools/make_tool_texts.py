#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/tool_texts/FAMILY.jsonl: what models of a family write, and what it means.

A line is {"text": ..., "events": [[kind, text], ...]}, with "reasoning", "begun" and "trust"
where they are not the default. What a text means follows from how it is put together here; no
parser is asked. Adjacent pieces of one kind are one event.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ARGUMENTS = [
    '{"city": "Oslo"}', "{}", '{ }', '{"a":1,"b":-2.50,"c":1e5,"d":12345678901234567890123}',
    '{"deep": {"list": [1, [2, {"x": null}], true, false], "s": "}]"}}',
    '{"q": "a \\"quoted\\" \\\\ back", "n": "\\n\\t\\u00e9\\ud83d\\ude00"}',
    '{"town": "Zürich", "語": "日本", "e": "😀"}', '{\n  "indented": [\n    1,\n    2\n  ]\n}',
    '{"name": "inner", "arguments": {"name": "x"}, "parameters": 1}',
    '{"code": "if (a < b) { return \'</tool\'; }"}', '{"":""}',
]
NAMES = ["get_weather", "f", "a.b-c_9", "searchThe_Web"]


def call(name, arguments):
    return [["call", name], ["arguments", arguments], ["end", ""]]


def merged(events):
    out = []
    for kind, text in events:
        if kind in ("content", "reasoning", "arguments") and out and out[-1][0] == kind:
            out[-1] = [kind, out[-1][1] + text]
        elif text or kind not in ("content", "reasoning"):
            out.append([kind, text])
    return out


class Family:
    def __init__(self):
        self.cases = []

    def add(self, text, *events, **settings):
        flat = []
        for event in events:
            flat += event if isinstance(event[0], list) else [event]
        self.cases.append({"text": text, **settings, "events": merged(flat)})

    def plain(self, text, **settings):
        """All of it is text."""
        self.add(text, ["content", text], **settings)

    def common(self, one, many, marks):
        """`one(name, arguments)` and `many([(name, arguments)])` write calls."""
        for i, arguments in enumerate(ARGUMENTS):
            name = NAMES[i % len(NAMES)]
            self.add(one(name, arguments), call(name, arguments))
        two = [("f", '{"x": 1}'), ("g", '{"y": [2]}')]
        self.add(many(two), call(*two[0]), call(*two[1]))
        three = [*two, ("f", '{"x": 1}')]
        self.add(many(three), *(call(*c) for c in three))
        self.add("Let me look.\n\n" + one("f", "{}"), ["content", "Let me look.\n\n"],
                 call("f", "{}"))
        self.add(" \n" + one("f", "{}"), call("f", "{}"))
        self.add(one("f", "{}") + " \n\n", call("f", "{}"))
        self.plain("The answer is 42.")
        self.plain("Zürich 😀 日本")
        self.plain("")
        self.plain(" \n ")
        self.plain("a < b and [x] <tool> <| [TOOL <|tool")
        for mark in marks:
            self.plain("Cut off: " + mark[:-1])
            self.plain("Nothing after it: " + mark)
            self.plain(mark + " is how a call begins.")
        self.add("Thinking.\n" + one("f", '{"a": 1}') + "\n</think>",
                 ["reasoning", "Thinking.\n" + one("f", '{"a": 1}')], reasoning="think", begun=True)
        self.add("<think>\nHm.\n</think>\n\n" + one("f", '{"a": 1}'), ["reasoning", "Hm."],
                 call("f", '{"a": 1}'), reasoning="think")
        self.add(one("f", '{"a": "é"}'), call("f", '{"a": "é"}'), trust="all")
        self.add(many(two), call(*two[0]), call(*two[1]), trust="all")
        at = one("f", '{"a": "bcd"}').index("bcd") + 1
        cut = one("f", '{"a": "bcd"}')[:at]
        self.plain(cut)
        self.add(cut, ["call", "f"], ["arguments", '{"a": "b'], trust="all")
        if marks and cut.startswith(marks[0]):
            self.add(cut, ["call", "f"], ["arguments", '{"a": "b'], trust="marked")


def json_call(name, arguments, key="arguments"):
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def json_family(begin, end, key="arguments", is_list=False):
    family = Family()

    def many(calls):
        if is_list:
            return begin + "[" + ", ".join(json_call(*c, key) for c in calls) + "]" + end
        return "\n".join(begin + json_call(*c, key) + end for c in calls)

    family.common(lambda *c: many([c]), many, [begin])
    family.begin, family.end, family.many = begin, end, many
    return family


def add_json_cases(f):
    """What is right and wrong in JSON behind a mark; objects and arrays are both read."""
    begin, end = f.begin, f.end
    f.add(begin + '\n {"arguments": {"a": 1}, "name": "f"} \n' + end, call("f", '{"a": 1}'))
    f.add(begin + '{"name": "f"}' + end, call("f", "{}"))
    f.add(begin + '{"name": "f", "arguments": null}' + end, call("f", "{}"))
    f.add(begin + '{"id": 7, "name": "f", "arguments": {"a": 1}, "x": [1]}' + end,
          call("f", '{"a": 1}'))
    f.add(begin + '{"name": "f", "arguments": "{\\"a\\": \\"\\u00e9\\"}"}' + end,
          call("f", '{"a": "é"}'))
    f.add(begin + '{"name": "f", "parameters": {"a": 1}}' + end, call("f", '{"a": 1}'))
    f.add(begin + '{"na\\u006de": "f"}' + end, ["content", begin + '{"na\\u006de": "f"}' + end])
    f.add(begin + '{"name": "\\u0066", "arguments": {}}' + end, call("f", "{}"))
    f.add(begin + '[{"name":"f","arguments":{}},{"name":"g","arguments":{"a":[]}}]' + end,
          call("f", "{}"), call("g", '{"a":[]}'))
    f.add(begin + "[]" + end)
    f.add(begin + '[{"name":"f","arguments":{}}, ', call("f", "{}"))
    f.add(begin + '[{"name":"f","arguments":{}}, {"name"', call("f", "{}"),
          ["content", ', {"name"'])
    f.add(begin + json_call("f", "{}"), call("f", "{}"))
    f.add(begin + json_call("f", "{}") + end[:-1], call("f", "{}"))
    f.add(begin + json_call("f", "{}") + " and so on", call("f", "{}"), ["content", " and so on"])
    for wrong in (
        '{"name": f}', '{name: "f"}', "{'name': 'f'}", '{"name": "f", "arguments": {"a": 01}}',
        '{"name": "f", "arguments": {"a": nul}}', '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "no object"}', '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": 5}', '{"name": "", "arguments": {}}',
        '{"name": "f\\u0000", "arguments": {}}', '{"name": 5, "arguments": {}}',
        '{"arguments": {"a": 1}}', '{"name": "f", "name": "g"}', '{"name": "f", "arguments": {},}',
        '{"name": "f", "arguments": {"a": "x\ny"}}', '{"name": "f" "arguments": {}}', "{}",
        '{"name": "f", "arguments": {"a": "\\x"}}', '{"name": "f", "arguments": {"a": 1]}',
        '{"name": "f", "arguments": {"\\ud800": 1}}', "[1, 2]", '["f"]', "[[]]", "f()", '"f"',
        '{"function": {"name": "f"}}',
    ):
        f.plain(begin + wrong + end)
        f.add(begin + wrong + end + "\n" + f.many([("g", "{}")]),
              ["content", begin + wrong + end + "\n"], call("g", "{}"))
    f.plain(begin + begin + "x")
    f.add(begin + f.many([("f", "{}")]), ["content", begin], call("f", "{}"))


def hermes():
    f = json_family("<tool_call>", "</tool_call>")
    add_json_cases(f)
    f.add('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\nDone?',
          call("f", '{"a": 1}'), ["content", "\nDone?"])
    f.add('A\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\nB\n'
          '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>\nC',
          ["content", "A\n"], call("f", "{}"), ["content", "\nB\n"], call("g", "{}"),
          ["content", "\nC"])
    return f


def smollm():
    f = json_family("<tool_call>", "</tool_call>", is_list=True)
    add_json_cases(f)
    f.add('<tool_call>[\n{"name": "f", "arguments": {"a": 1}},\n{"name": "g", "arguments": {}}\n]'
          "</tool_call>", call("f", '{"a": 1}'), call("g", "{}"))
    return f


def granite():
    f = json_family("<|tool_call|>", "", is_list=True)
    f.begin, f.end = "<tool_call>", "</tool_call>"
    add_json_cases(f)
    f.add('<|tool_call|> [{"name": "f", "arguments": {"a": 1}}]', call("f", '{"a": 1}'))
    f.plain('<tool_call>{"name": "f", "arguments": {"a": "b', trust="marked")
    f.add('<function_call> {"name": "f", "arguments": {"a": 1}}', call("f", '{"a": 1}'))
    f.add('<|tool_call|>{"name": "f", "arguments": {}}\n<|tool_call|>{"name": "g"}',
          call("f", "{}"), call("g", "{}"))
    return f


def llama3_json():
    f = Family()

    def many(calls):
        return "; ".join(json_call(*c, "parameters") for c in calls)

    f.common(lambda *c: "<|python_tag|>" + many([c]),
             lambda calls: "<|python_tag|>" + many(calls), ["<|python_tag|>"])
    for arguments in ARGUMENTS:
        f.add(json_call("f", arguments, "parameters"), call("f", arguments))
    f.add('{"type": "function", "name": "f", "parameters": {"a": "1"}}', call("f", '{"a": "1"}'))
    f.add('\n\n{"name": "f", "parameters": {}}', call("f", "{}"))
    f.add('{"name": "f", "parameters": {}};{"name": "g", "parameters": {}}',
          call("f", "{}"), call("g", "{}"))
    f.add('{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}',
          call("f", "{}"), call("g", "{}"))
    f.add('{"name": "f", "parameters": {}} is what I call', call("f", "{}"),
          ["content", " is what I call"])
    for text in (
        '{"answer": 42}', '{"answer": {"name": "f", "parameters": {}}}', "{}", "{", "{ }",
        '{"name": "Ada", "age": 36}', '{"name": "Ada"', "{x}", '[{"name": "f"}]',
        'Call {"name": "f", "parameters": {}}', '{"parameters": {}}', '{"type": "function"}',
        '<|python_tag|>brave_search.call(query="x")', "<|python_tag|>print(1)\nprint(2)",
        '{"name": "f", "parameters": [1]}', '{"name": "f", "parameters": {"a": }}',
    ):
        f.plain(text)
    f.plain('{"name": "f", "parameters": {"a": "b', trust="marked")
    f.add('{"name": "f", "parameters": {"a": "b', ["call", "f"], ["arguments", '{"a": "b'],
          trust="all")
    f.add('{"name": "f"}', call("f", "{}"))
    f.add("<|python_tag|>" + json_call("f", "{}", "arguments"), call("f", "{}"))
    return f


def mistral():
    f = Family()

    def many(calls):
        return "[TOOL_CALLS][" + ", ".join(json_call(*c) for c in calls) + "]"

    def newer(calls):
        return "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in calls)

    f.common(lambda *c: many([c]), many, ["[TOOL_CALLS]"])
    f.common(lambda *c: newer([c]), newer, [])
    f.add('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]',
          call("f", '{"a": 1}'))
    f.add('[TOOL_CALLS]f[CALL_ID]aB3dE6gH9[ARGS]{"a": 1}', call("f", '{"a": 1}'))
    f.add('[TOOL_CALLS]f[CALL_ID]aB3dE6gH9[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}',
          call("f", '{"a": 1}'), call("g", "{}"))
    f.add('[TOOL_CALLS]f{"a": 1}', call("f", '{"a": 1}'))
    f.add('[TOOL_CALLS]f [ARGS] {"a": 1}', ["content", '[TOOL_CALLS]f [ARGS] {"a": 1}'])
    f.add('[TOOL_CALLS]f[ARGS] {"a": 1} Good?', call("f", '{"a": 1}'), ["content", " Good?"])
    f.add('[TOOL_CALLS][{"name": "f", "arguments": {}}] Good?', call("f", "{}"),
          ["content", " Good?"])
    f.add('[TOOL_CALLS]{"name": "f", "arguments": {}}; {"name"', call("f", "{}"),
          ["content", '; {"name"'])
    f.add("[THINK]Hm [TOOL_CALLS][/THINK]\n[TOOL_CALLS]f[ARGS]{}", ["reasoning", "Hm [TOOL_CALLS]"],
          call("f", "{}"), reasoning="mistral")
    f.add("[THINK]\nA\nB\n[/THINK]\n\nC", ["reasoning", "A\nB"], ["content", "C"],
          reasoning="mistral")
    for text in (
        "[TOOL_CALLS]f[ARGS]", "[TOOL_CALLS]f[ARGS]x", "[TOOL_CALLS]f[ARGS][1]", "[TOOL_CALLS]f[AR",
        '[TOOL_CALLS]f[ARGS]{"a": x}', "[TOOL_CALLS][ARGS]{}", "[TOOL_CALLS]" + "n" * 300 + "{}",
        "[TOOL_CALLS]f[CALL_ID]" + "n" * 300 + "[ARGS]{}", '[TOOL_CALLS]f[ARGS]{"a": 1',
        "[TOOL_CALLS]f[CALL_ID]a[CALL_ID]b[ARGS]{}", "[TOOL_CALLS][x]",
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": tru}}]',
    ):
        f.plain(text)
        f.add(text + " [TOOL_CALLS]g[ARGS]{}" if not text.endswith("1") else text + "x",
              *([["content", text + " "], *call("g", "{}")],)
              if not text.endswith("1") else (["content", text + "x"],))
    return f


def deepseek():
    f = Family()
    begins, begin, separator, end, ends = (
        f"<｜tool▁{words}｜>" for words in ("calls▁begin", "call▁begin", "sep", "call▁end",
                                           "calls▁end"))

    def old(calls):
        return begins + "\n".join(
            f"{begin}function{separator}{name}\n```json\n{arguments}\n```{end}"
            for name, arguments in calls) + ends

    def new(calls):
        return begins + "".join(
            f"{begin}{name}{separator}{arguments}{end}" for name, arguments in calls) + ends

    f.common(lambda *c: old([c]), old, [begins])
    f.common(lambda *c: new([c]), new, [begin])
    one = f"{begin}f{separator}{{}}{end}"
    f.add(one, call("f", "{}"))
    f.add(one + ends, call("f", "{}"))
    f.add(begins + one, call("f", "{}"))
    f.add(begins + one[:-1], call("f", "{}"))
    f.add(begins + one + ends[:-1], call("f", "{}"), ["content", ""])
    f.add(f"{begins}{begin}f{separator}{{}}", call("f", "{}"))
    f.add(begins + "\n" + one + "\n" + one + "\n" + ends + "\n", call("f", "{}"), call("f", "{}"))
    f.add(begins + one + ends + "So.", call("f", "{}"), ["content", "So."])
    f.add(begins + one + " what", call("f", "{}"), ["content", " what"])
    f.add(f"{begins}{begin}function{separator}f\n```json\n{{}}\n``` {end}{ends}", call("f", "{}"))
    f.add(f"{begins}{begin}function{separator}f\n{{\"a\": 1}}{end}{ends}", call("f", '{"a": 1}'))
    for text in (
        begins + ends, begins + begin, begins + begin + "f", begins + begin + "f" + separator,
        f"{begins}{begin}f{separator}{{\"a\"", f"{begins}{begin}{separator}{{}}{end}{ends}",
        f"{begins}{begin}f{separator}[1]{end}{ends}",
        f"{begins}{begin}f{separator}{{a}}{end}{ends}",
        f"{begins}{begin}function{separator}f\n```python\n1\n```{end}{ends}",
        f"{begins}{begin}{'n' * 300}{separator}{{}}{end}{ends}", end + ends, begins + "x" + one[1:],
        f"{begins}{begin}f{separator}{{\"a\": 1e}}{end}{ends}",
    ):
        f.plain(text)
    return f


def think():
    """No tools: reasoning alone, of the families `think` and `granite`."""
    f = Family()
    r = {"reasoning": "think"}
    for text, *events in (
        ("<think>A</think>B", ["reasoning", "A"], ["content", "B"]),
        ("<think>\nA\n</think>\n\nB\n", ["reasoning", "A"], ["content", "B\n"]),
        ("<think>\n\nA\n\nB\n\n</think>\n\n\nC", ["reasoning", "A\n\nB"], ["content", "C"]),
        ("<think></think>B", ["content", "B"]), ("<think>\n\n</think>\n\nB", ["content", "B"]),
        (" \n<think>A</think>B", ["reasoning", "A"], ["content", "B"]),
        ("<think>A", ["reasoning", "A"]), ("<think>A\n", ["reasoning", "A\n"]),
        ("<think>A</thin", ["reasoning", "A</thin"]), ("<think>", ["content", ""]),
        ("<think>\n", ["content", ""]), ("<think>A</think>", ["reasoning", "A"]),
        ("<think>A</think>\n", ["reasoning", "A"]),
        ("<think>A<think>B</think>C", ["reasoning", "A<think>B"], ["content", "C"]),
        ("<think>A</think>B<think>C</think>D", ["reasoning", "A"],
         ["content", "B<think>C</think>D"]),
        ("<think>A < b </thinking</think>C", ["reasoning", "A < b </thinking"], ["content", "C"]),
        ("<think>é😀\n</think>\n日", ["reasoning", "é😀"], ["content", "日"]),
        ("<think> A </think> B", ["reasoning", " A "], ["content", " B"]),
        ("<think>\r\nA\r\n</think>B", ["reasoning", "\r\nA\r"], ["content", "B"]),
        ("<think>A</think>{\"x\": 1}", ["reasoning", "A"], ["content", "{\"x\": 1}"]),
        ("<think>A\n\nB", ["reasoning", "A\n\nB"]), ("B", ["content", "B"]),
        ("<thin", ["content", "<thin"]), ("<thinking>A", ["content", "<thinking>A"]),
        ("A<think>B</think>", ["content", "A<think>B</think>"]), ("", ["content", ""]),
        (" ", ["content", " "]), ("\n\n", ["content", "\n\n"]), ("\nB", ["content", "\nB"]),
        ("</think>B", ["content", "</think>B"]), ("<<think>", ["content", "<<think>"]),
    ):
        f.add(text, *events, **r)
    for text, *events in (
        ("A</think>B", ["reasoning", "A"], ["content", "B"]),
        ("\nA\n</think>\n\nB", ["reasoning", "A"], ["content", "B"]),
        ("</think>B", ["content", "B"]), ("A", ["reasoning", "A"]), ("", ["content", ""]),
        ("<think>A</think>B", ["reasoning", "<think>A"], ["content", "B"]),
    ):
        f.add(text, *events, **r, begun=True)
    g = {"reasoning": "granite"}
    for text, *events in (
        ("Here is my thought process:\nA\nHere is my response:\nB", ["reasoning", "A"],
         ["content", "B"]),
        ("Here's my thought process: A Here's my response: B", ["reasoning", " A "],
         ["content", " B"]),
        ("<think>A</think>\n<response>B</response>", ["reasoning", "A"], ["content", "B"]),
        ("<think>A</think><response>B</resp", ["reasoning", "A"], ["content", "B</resp"]),
        ("<response>B</response>", ["content", "<response>B</response>"]),
        ("Here is my thought", ["content", "Here is my thought"]),
        ("Here is the answer", ["content", "Here is the answer"]),
        ("<think>A", ["reasoning", "A"]),
    ):
        f.add(text, *events, **g)
    f.plain("<think>A</think><tool_call>B")
    return f


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "data" / "tool_texts"
    families = {"hermes": hermes, "smollm": smollm, "granite": granite, "mistral": mistral,
                "llama3_json": llama3_json, "deepseek": deepseek, "none": think}
    for name, make in families.items():
        lines = [json.dumps(case, ensure_ascii=False) + "\n" for case in make().cases]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(name, len(lines))


if __name__ == "__main__":
    main()
