# SPDX-License-Identifier: Apache-2.0
"""Messages as clients send them, and templates as models have them: everybody is understood.

Each template is of a kind that models come with. `kvasird chat-template` shows what it makes of
messages; the rest goes through HTTP, where a prompt is what /detokenize makes of /tokenize.
"""

import json
import subprocess

import pytest

from conftest import program

USER = {"role": "user", "content": "How warm is the lake?"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "content": "19"}
BYE = {"role": "user", "content": "Too cold."}


def call(arguments, content="", **more):
    function = {"name": "lake", "arguments": arguments}
    calls = [{"id": "call00001", "type": "function", "function": function}]
    message = {"role": "assistant", "content": content, "tool_calls": calls, **more}
    return {k: v for k, v in message.items() if v != "absent"}


DEEP = '{"a":' * 1500 + "1" + "}" * 1500


def deepened(request):
    """JSON with 1,500 levels in the place of each "DEEP"."""
    return json.dumps(request).replace('"DEEP"', DEEP)


@pytest.fixture
def render(tmp_path):
    """What a template makes of requests: a text each, or the words of an error."""
    def render_all(source, *requests):
        path = tmp_path / "template.jinja"
        path.write_text(source)
        lines = "".join(
            deepened(r if isinstance(r, dict) else {"messages": r}) + "\n" for r in requests)
        result = subprocess.run(
            [program(), "chat-template", "--model", tmp_path, "--chat-template", path],
            input=lines, capture_output=True, text=True, timeout=60, check=True)
        assert not result.stderr
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        texts = [answer.get("text", answer.get("error")) for answer in answers]
        return texts if len(requests) > 1 else texts[0]
    return render_all


# Arguments: name of the kind, template, what a call with {"name": "Garda"} becomes.
JSON_ARGUMENTS = """\
{%- for m in messages -%}
<{{ m.role }}>{{ m.content }}
{%- for c in m.tool_calls or [] %}[{{ c.function.name }}:{{ c.function.arguments | tojson }}]
{%- endfor %}
{%- endfor %}"""
JOINED_ARGUMENTS = JSON_ARGUMENTS.replace(
    "{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}")
PRINTED_ARGUMENTS = JSON_ARGUMENTS.replace(" | tojson", "")
EITHER_ARGUMENTS = JSON_ARGUMENTS.replace(
    "{{ c.function.arguments | tojson }}",
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}")
ITEMS = JSON_ARGUMENTS.replace(
    "{{ c.function.arguments | tojson }}",
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}")
WHOLE_FUNCTION = JSON_ARGUMENTS.replace(
    "{{ c.function.name }}:{{ c.function.arguments | tojson }}", "{{ c.function | tojson }}")
MACRO_ARGUMENTS = """\
{%- macro show(c) %}[{{ c.function.name }}:{{ c.function.arguments | tojson }}]{% endmacro -%}
{%- for m in messages -%}<{{ m.role }}>{{ m.content }}
{%- if m.tool_calls %}{% for c in m.tool_calls %}{{ show(c) }}{% endfor %}{% endif %}{% endfor %}"""
GARDA = '{"name": "Garda"}'


@pytest.mark.parametrize(
    "template, shown, empty, cut",
    [
        (JSON_ARGUMENTS, f"[lake:{GARDA}]", "[lake:{}]", '[lake:"{\\"name"]'),
        (JOINED_ARGUMENTS, f"[lake:{GARDA}]", "[lake:{}]", '[lake:{"name]'),
        (PRINTED_ARGUMENTS, f"[lake:{GARDA}]", "[lake:{}]", '[lake:{"name]'),
        (EITHER_ARGUMENTS, f"[lake:{GARDA}]", "[lake:{}]", '[lake:{"name]'),
        (ITEMS, "[lake:name=Garda;]", "[lake:]", "has no attribute 'items'"),
        (WHOLE_FUNCTION, '{"name": "lake", "arguments": ' + GARDA + "}",
         '{"name": "lake", "arguments": {}}', '"arguments": "{\\"name"'),
        (MACRO_ARGUMENTS, f"[lake:{GARDA}]", "[lake:{}]", '[lake:"{\\"name"]'),
    ],
    ids=["tojson", "joined", "printed", "either", "items", "function", "macro"],
)
def test_arguments(render, template, shown, empty, cut):
    whole = [{"name": "Garda"}, GARDA, '{"name":\n"Garda"}']
    nothing = ["", " \n", "{}", {}, None]
    texts = render(template, *([USER, call(a), RESULT, BYE] for a in whole + nothing + ['{"name']))
    assert all(shown in text for text in texts[:2]), texts
    assert shown in texts[2].replace(":\n", ": ")
    assert all(empty in text for text in texts[3:8]), texts
    assert cut in texts[8]


def test_arguments_keep_their_numbers_and_letters(render):
    written = '{"n": 9223372036854775808, "x": 1.0, "small": 1, "ü": "\\u00e9\\n"}'
    for template in (JSON_ARGUMENTS, JOINED_ARGUMENTS):
        text = render(template, [USER, call(written), RESULT])
        assert '"n": 9223372036854775808, "x": 1.0, "small": 1, "ü": "' in text
    text = render(JOINED_ARGUMENTS, [USER, call({"n": 2**70, "ü": 1.0}), RESULT])
    assert '{"n": 1180591620717411303424, "ü": 1.0}' in text


# Content, by what templates do with it.
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ADDED = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
TRIMMED = "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}{% endfor %}"
SPLIT = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}"
LOOPED = """\
{%- for m in messages -%}<{{ m.role }}>
{%- for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}
{%- endfor %}"""
STRICT_LOOP = """\
{%- for m in messages -%}<{{ m.role }}>
{%- for p in m.content %}{{ '' + p['text'] }}{% endfor %}{% endfor %}"""
FIRST_PART = "{% for m in messages %}<{{ m.role }}>{{ m.content[0]['text'] }}{% endfor %}"
EITHER = """\
{%- for m in messages -%}<{{ m.role }}>
{%- if m.content is string %}{{ m.content }}
{%- else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}"""
USER_LOOP = """\
{%- for m in messages -%}<{{ m.role }}>
{%- if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}
{%- else %}{{ '' + m.content }}{% endif %}{% endfor %}"""
NO_SYSTEM = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Must alternate') }}
{%- endif %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"""
PARTS_OF = [{"type": "text", "text": "north"}, {"type": "text", "text": "south"}]


@pytest.mark.parametrize(
    "template, of_parts",
    [
        (PLAIN, "north\nsouth"), (ADDED, "north\nsouth"), (TRIMMED, "north\nsouth"),
        (SPLIT, "north\nsouth"), (LOOPED, "northsouth"), (STRICT_LOOP, "northsouth"),
        (FIRST_PART, "north\nsouth"), (EITHER, "(north)(south)"), (USER_LOOP, "northsouth"),
        (NO_SYSTEM, "north\nsouth"),
    ],
    ids=["plain", "added", "trimmed", "split", "looped", "strict", "first", "either", "user",
         "no-system"],
)
def test_content(render, template, of_parts):
    answer = {"role": "assistant", "content": "Yes."}
    one = [{"type": "text", "text": "Yes."}]
    of_one, of_text, of_two, mixed = render(
        template,
        [{"role": "user", "content": [PARTS_OF[0]]}],
        [{"role": "user", "content": "north"}],
        [{"role": "user", "content": PARTS_OF}],
        [{"role": "user", "content": "north"}, answer, {"role": "user", "content": PARTS_OF},
         {"role": "assistant", "content": one}])
    assert of_text == "<user>north"
    assert of_one in ("<user>north", "<user>(north)")
    assert of_two == f"<user>{of_parts}"
    assert mixed.replace("(Yes.)", "Yes.") == (
        f"<user>north<assistant>Yes.<user>{of_parts}<assistant>Yes.")


def test_content_of_system_and_tool(render):
    messages = [{"role": "system", "content": PARTS_OF}, USER, call("{}"),
                {**RESULT, "content": PARTS_OF}]
    assert "<system>north\nsouth" in render(USER_LOOP, messages)
    assert "<tool>north\nsouth" in render(USER_LOOP, messages)
    assert "<system>northsouth" in render(LOOPED, messages)
    assert "<tool>northsouth" in render(LOOPED, messages)
    assert render(NO_SYSTEM, messages) == "System role not supported"


def test_parts_of_other_kinds_that_are_text(render):
    kinds = ["one", {"type": "input_text", "text": "two"}, {"type": "output_text", "text": "three"},
             {"type": "refusal", "refusal": "four"}, {"type": "text", "text": "five"}]
    messages = [{"role": "user", "content": kinds}]
    assert render(PLAIN, messages) == "<user>one\ntwo\nthree\nfour\nfive"
    assert render(LOOPED, messages) == "<user>onetwothreefourfive"
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    words = render(LOOPED, [USER, {"role": "user", "content": image}])
    assert words.startswith("`messages[1].content[0]` is of type \"image_url\"")
    assert '"text"' in words


# What an assistant says that only calls tools.
ASKS_NONE = """\
{%- for m in messages -%}
{%- if m.role == 'assistant' and m.content is none -%}<call>{{ m.tool_calls[0].function.name }}
{%- else -%}<{{ m.role }}>{{ m.content }}{%- endif -%}
{%- endfor -%}"""
ASKS_NOT_NONE = JSON_ARGUMENTS.replace(
    "{{ m.content }}", "{% if m.content is not none %}({{ m.content }}){% endif %}")
ASKS_DEFINED = JSON_ARGUMENTS.replace(
    "{{ m.content }}", "{% if m.content is defined %}{{ m.content + '' }}{% endif %}")


@pytest.mark.parametrize(
    "template, shown",
    [
        (JSON_ARGUMENTS, "<assistant>[lake:{}]"), (ASKS_NONE, "<call>lake<tool>"),
        (ASKS_NOT_NONE, "<assistant>[lake:{}]"), (ASKS_DEFINED, "<assistant>[lake:{}]"),
        (LOOPED, "<assistant><tool>"), (STRICT_LOOP, "<assistant><tool>"),
        (FIRST_PART, "<assistant><tool>"), (SPLIT, "<assistant><tool>"),
    ],
    ids=["printed", "none", "not-none", "defined", "looped", "strict", "first", "split"],
)
def test_missing_content(render, template, shown):
    for text in render(template, *([USER, call("{}", content), RESULT, BYE]
                                   for content in (None, "absent"))):
        assert shown in text and "None" not in text, text


def test_missing_content_without_a_call(render):
    plain = [USER, {"role": "assistant", "content": None}, BYE]
    for template in (PLAIN, ADDED, TRIMMED, SPLIT, LOOPED, FIRST_PART, ASKS_NONE, ASKS_DEFINED):
        assert "<assistant><user>Too cold." in render(template, plain)
    assert "<tool>" in render(ADDED, [USER, call("{}"), {**RESULT, "content": None}])


def test_an_empty_list_of_calls_is_none(render):
    source = PLAIN.replace("{{ m.content }}", "{{ 'calls' if m.tool_calls is defined else '-' }}")
    for calls in ([], None):
        said = {"role": "assistant", "content": "x", "tool_calls": calls}
        assert render(source, [USER, said]) == "<user>-<assistant>-"


def test_developer(render):
    knows = PLAIN.replace("<{{ m.role }}>", "<{{ 'DEV' if m.role == 'developer' else m.role }}>")
    raises = "{%- for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}" \
        "{{ raise_exception('role') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    messages = [{"role": "developer", "content": "Be terse."}, USER]
    assert render(PLAIN, messages).startswith("<system>Be terse.<user>")
    assert render(raises, messages).startswith("<system>Be terse.<user>")
    assert render(knows, messages).startswith("<DEV>Be terse.<user>")
    knows = USER_LOOP + "{# developer #}"
    messages = [{"role": "developer", "content": PARTS_OF}, USER]
    assert render(knows, messages).startswith("<developer>north\nsouth<user>")


# Going on with the last message.
CHATML = """\
{%- for m in messages %}<|{{ m.role }}|>
{{ m.content CONTENT }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


@pytest.mark.parametrize(
    "template, content, shown",
    [
        (CHATML.replace("CONTENT", ""), "The sun ", "The sun "),
        (CHATML.replace("CONTENT", ""), [{"type": "text", "text": "The sun "}], "The sun "),
        (CHATML.replace("CONTENT", ""), PARTS_OF, "north\nsouth"),
        (CHATML.replace("CONTENT", "| trim"), " The sun ", "The sun"),
        (CHATML.replace("CONTENT", "~ ('.' if loop.last else '')"), "The sun", "The sun"),
        (CHATML.replace("m.content CONTENT", "m.content[0].text"), "The sun", "The sun"),
        (CHATML.replace("CONTENT", "| upper"), "The sun", None),
        (CHATML.replace("CONTENT", "[:0]"), "The sun", None),
        (CHATML.replace("CONTENT", ""), " ", None), (CHATML.replace("CONTENT", ""), [], None),
        (CHATML.replace("CONTENT", ""), None, None),
    ],
)
def test_continuing(render, template, content, shown):
    said = {"role": "assistant", "content": content}
    twice = [{"role": "user", "content": "The sun"}, said]
    text = render(template, {"messages": twice, "continue_final_message": True})
    if shown is None:
        assert text.startswith("`continue_final_message` is set, but"), text
    else:
        assert text == f"<|user|>\nThe sun<|end|>\n<|assistant|>\n{shown}"


def test_messages_as_written_are_those_of_transformers(render):
    messages = [{"role": "user", "content": PARTS_OF}, call(GARDA, None)]
    text = render(PLAIN + "{{ messages[1].tool_calls[0].function.arguments is string }}",
                  {"messages": messages, "as_written": True})
    assert text.startswith("<user>[{'type': 'text', 'text': 'north'}") and text.endswith("True")


def test_too_deep_is_refused(render):
    for request in (
        [USER, call(DEEP), RESULT], [USER, call("DEEP"), RESULT], [{**USER, "more": "DEEP"}],
        {"messages": [USER], "kwargs": {"x": "DEEP"}}, {"messages": [USER], "tools": ["DEEP"]},
    ):
        assert "nested" in render(JSON_ARGUMENTS, request)
    assert "<user>" in render(JSON_ARGUMENTS, [{**USER, "more": [[]] * 1000}])


# Through HTTP, in the tiny model's vocabulary.


def prompt_of(daemon, body):
    keys = ("messages", "tools", "tool_choice", "continue_final_message", "add_generation_prompt",
            "chat_template_kwargs")
    status, answer = daemon.request("/tokenize", {k: body[k] for k in keys if k in body})
    assert status == 200, answer
    _, text = daemon.request("/detokenize", {"tokens": answer["tokens"]})
    return text["prompt"]


def test_findings(start, tmp_path):
    def daemon_with(source):
        path = tmp_path / "t.jinja"
        path.write_text(source)
        return start("--chat-template", path, "--kv-tokens", 4096)

    joined, looped, asking = map(daemon_with, (JOINED_ARGUMENTS, LOOPED, ASKS_NONE))
    for daemon, messages, shown in (
        (joined, [USER, call(GARDA), RESULT, BYE], f"[lake:{GARDA}]"),
        (joined, [USER, call(""), RESULT, BYE], "[lake:{}]"),
        (joined, [USER, call('{"name": "Gard'), RESULT, BYE], '[lake:{"name": "Gard]'),
        (looped, [{"role": "user", "content": "north or south"}], "<user>north or south"),
        (looped, [{"role": "user", "content": PARTS_OF}], "<user>northsouth"),
        (looped, [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
         "<assistant>No."),
        (asking, [USER, call(GARDA, None), RESULT, BYE], "<call>lake"),
    ):
        body = {"messages": messages, "max_tokens": 2}
        status, answer = daemon.request("/v1/chat/completions", body)
        assert status == 200, answer
        assert shown in prompt_of(daemon, body)


def test_deep_values_are_the_clients_fault(daemon):
    for body in (
        {"messages": [{**USER, "more": "DEEP"}]}, {"messages": [USER, call(DEEP)]},
        {"messages": [USER], "chat_template_kwargs": {"x": "DEEP"}},
    ):
        raw = deepened({**body, "max_tokens": 1}).encode()
        status, answer = daemon.request("/v1/chat/completions", raw=raw)
        assert status == 400 and answer["error"]["message"], answer
