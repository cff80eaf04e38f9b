# SPDX-License-Identifier: Apache-2.0
"""Messages as chat clients send them, made into what one chat template can read.

Clients and templates disagree about the same things: whether content is text or parts, what an
assistant says that only calls tools, whether a call's arguments are text or an object, who the
developer is. Sources do not tell which of the forms a template reads; trying them does. So each
template is shown short conversations when it is opened (`find_forms`), and every request's messages
are put into the forms that came out well (`settle`). Where none did, the oldest form is used: text,
an object, "".
"""

import itertools
import json
import re

# Texts that no template writes by itself, of letters and digits: nothing escapes or trims them.
NEEDLE, SECOND_NEEDLE, CALL_NEEDLE = "Qx7needle", "Qx8needle", "Qx9lookup"
CALL_ID = "call00001"  # nine letters and digits: Mistral's templates insist
CONTINUE_MARK = "Qx5continues "  # its last character shows whether the template trims

ROLES = ("user", "system", "assistant", "tool")
# Whose form of content a role's messages have.
FORM_ROLES = {**{role: role for role in ROLES}, "developer": "system", "function": "tool"}
TEXT_PART_FIELDS = {
    "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal",
}
TOOL = {
    "type": "function",
    "function": {
        "name": CALL_NEEDLE, "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}
DEFAULT_FORMS = {
    # By role: "text"; "parts"; "part": one of them; "sent": the template reads both.
    "content": {role: "text" for role in ROLES},
    # What stands for missing content of an assistant that calls tools, and of one that does not:
    # "empty", "none" or "absent".
    "missing": {"call": "empty", "plain": "empty"},
    "arguments": "object",  # or "text"
    "developer": False,  # whether the template knows that role
}
BRACKETS_MAX = 500


class Refused(Exception):
    """A message is not what a client may send; the words begin with its place, in backquotes."""


def describe(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def check_depth(text, value, what):
    """Python's own limits on nesting vary with its version; this one does not."""
    if text.count("[") + text.count("{") <= BRACKETS_MAX:
        return
    level, depth = [value], 0
    while level:
        if depth > BRACKETS_MAX:
            raise Refused(f"{what} is nested more than {BRACKETS_MAX} levels deep")
        values = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for inner in values for v in inner if isinstance(v, (dict, list))]
        depth += 1


# ---- content


def part_text(part, place):
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise Refused(f"`{place}` must be a string, or an object with a `type`.")
    field = TEXT_PART_FIELDS.get(kind)
    if field is None:
        raise Refused(f'`{place}` is of type {describe(kind)}; this model reads parts of type '
                      '"text" only.')
    if not isinstance(part.get(field), str):
        raise Refused(f"`{place}` must have a `{field}` that is a string.")
    return part[field]


def text_part(text):
    return {"type": "text", "text": text}


def content_in_form(content, form, place):
    """Text or parts, in the form that the template reads."""
    if isinstance(content, str):
        return content if form in ("text", "sent") else [text_part(content)]
    if not isinstance(content, list):
        raise Refused(f"`{place}` must be a string or an array of parts; it is "
                      f"{describe(content)}.")
    texts = [part_text(part, f"{place}[{i}]") for i, part in enumerate(content)]
    if form == "text":
        return "\n".join(texts)
    return [text_part(text) for text in (["\n".join(texts)] if form == "part" else texts)]


def put_missing_content(message, form, content_form):
    message.pop("content", None)
    if form == "none":
        message["content"] = None
    elif form == "empty":
        message["content"] = content_in_form("", content_form, "")


def settle_content(message, forms, place):
    role, content = message.get("role"), message.get("content")
    form = forms["content"][FORM_ROLES.get(role, "user")]
    calls = "call" if message.get("tool_calls") else "plain"
    if content is not None:
        message["content"] = content_in_form(content, form, f"{place}.content")
    elif role == "assistant":
        put_missing_content(message, forms["missing"][calls], form)
    elif role in ("tool", "function"):
        put_missing_content(message, "empty", form)
    else:
        message.pop("content", None)


# ---- tool calls


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


def arguments_object(text, place):
    """The object that a text of arguments holds; None where it holds none."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=no_constant)
    except RecursionError:
        raise Refused(f"`{place}` is nested too deeply") from None
    except ValueError:
        return None
    check_depth(text, value, f"`{place}`")
    return value if isinstance(value, dict) else None


def arguments_in_form(arguments, form, place):
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        return arguments if form == "object" else json.dumps(arguments, ensure_ascii=False)
    parsed = arguments_object(arguments, place)
    if form == "object":
        return arguments if parsed is None else parsed
    return arguments if arguments.strip() else "{}"


def settle_calls(message, forms, place):
    calls = message.get("tool_calls")
    if not calls:  # templates ask whether there is such a member, not how many calls it holds
        message.pop("tool_calls", None)
        return
    if not isinstance(calls, list):
        raise Refused(f"`{place}.tool_calls` must be an array; it is {describe(calls)}.")
    settled = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = arguments_in_form(function.get("arguments"), forms["arguments"],
                                          f"{place}.tool_calls[{i}].function.arguments")
            call = {**call, "function": {**function, "arguments": arguments}}
        settled.append(call)
    message["tool_calls"] = settled


def settle(messages, forms):
    """The messages in a template's forms; those given are not changed. Nulls are absent."""
    settled = []
    for i, sent in enumerate(messages):
        place = f"messages[{i}]"
        message = {key: value for key, value in sent.items() if value is not None}
        if message.get("role") == "developer" and not forms["developer"]:
            message["role"] = "system"
        settle_calls(message, forms, place)
        settle_content(message, forms, place)
        settled.append(message)
    return settled


# ---- tools, for templates that do not know of any


# SmolLM2's own words for it (its instructions for function calling), which its template leaves to
# the client.
TOOLS_TEXT = """\
You are an expert in composing functions. You are given a question and a set of possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the functions can be used, point it out and refuse to answer.
If the given question lacks the parameters required by the function, also point it out.

You have access to the following tools:
<tools>{tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
The example format is as follows. Please make sure the parameter type is correct. If no function \
call is needed, please make the tool calls an empty list '[]'.
<tool_call>[
{{"name": "func_name1", "arguments": {{"argument1": "value1", "argument2": "value2"}}}},
... (more tool calls as required)
]</tool_call>"""


def added_text(message, text, separator, form):
    """The message, with a text behind its own."""
    content = message.get("content") or content_in_form("", form, "")
    if isinstance(content, list):
        content = content_in_form([*content, text_part(text)], form, "")
    else:
        content = f"{content}{separator}{text}" if content else text
    return {**message, "content": content}


def written_calls(calls):
    """Calls as an assistant writes them."""
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    shown = [{"name": function.get("name"),
              "arguments": arguments_in_form(function.get("arguments"), "object", "tool_calls")}
             for function in functions if isinstance(function, dict)]
    return f"<tool_call>{json.dumps(shown, ensure_ascii=False)}</tool_call>"


def tell_tools(messages, tools, forms):
    """The messages, with the tools in the system's, and calls in the text of those who called."""
    form, said = forms["content"]["system"], forms["content"]["assistant"]
    messages = [added_text(message, written_calls(message["tool_calls"]), "\n", said)
                if message.get("tool_calls") else message for message in messages]
    text = TOOLS_TEXT.format(tools=json.dumps(tools, ensure_ascii=False))
    if messages[0].get("role") != "system":
        return [{"role": "system", "content": content_in_form(text, form, "")}, *messages]
    return [added_text(messages[0], text, "\n\n", form), *messages[1:]]


# ---- the last message, to be continued


def mark_end(messages):
    """Marks the end of the last message's text; `messages` is changed, not what it holds."""
    message = dict(messages[-1])
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        message["content"] = content + CONTINUE_MARK
    elif isinstance(content, list) and content and content[-1]["text"].strip():
        last = content[-1]
        message["content"] = [*content[:-1], {**last, "text": last["text"] + CONTINUE_MARK}]
    else:
        raise Refused("`continue_final_message` is set, but the final message has no text: there "
                      "is nothing to continue.")
    messages[-1] = message


def cut_at_end(prompt):
    """The prompt up to the mark. A template that trims has moved the mark, too."""
    at = prompt.rfind(CONTINUE_MARK.rstrip())
    if at < 0:
        raise Refused("`continue_final_message` is set, but the chat template does not show the "
                      "final message: there is nothing to continue.")
    keeps_spaces = prompt.startswith(CONTINUE_MARK, at)
    return prompt[:at] if keeps_spaces else prompt[:at].rstrip()


# ---- finding out what a template reads


class Prober:
    """Tries conversations with one template: `render(messages, tools)` is None where it fails."""

    def __init__(self, render, source):
        self.render = render
        self.source = source
        self.forms = {**DEFAULT_FORMS, "content": dict(DEFAULT_FORMS["content"]),
                      "missing": dict(DEFAULT_FORMS["missing"])}

    def say(self, role, text="Hello"):
        form = self.forms["content"][role]
        return {"role": role, "content": content_in_form(text, form, "")}

    def call(self, content, arguments=None):
        """An assistant's call; `content` is a dict, empty for none at all."""
        if arguments is None:
            arguments = arguments_in_form({"key": "value"}, self.forms["arguments"], "")
        function = {"name": CALL_NEEDLE, "arguments": arguments}
        calls = [{"id": CALL_ID, "type": "function", "function": function}]
        return {"role": "assistant", **content, "tool_calls": calls}

    def result(self):
        return {**self.say("tool", "19"), "tool_call_id": CALL_ID, "name": CALL_NEEDLE}

    def around(self, message):
        """Conversations in which a message of its role may stand; templates are particular."""
        user, answer = self.say("user"), self.say("assistant", "Well")
        if message["role"] == "user":
            return [[message], [self.say("system"), message], [user, answer, message]]
        if message["role"] in ("system", "developer"):
            return [[message, user], [message, user, answer, user]]
        if message["role"] == "tool":
            message = {**message, "tool_call_id": CALL_ID, "name": CALL_NEEDLE}
            contents = ({"content": self.say("assistant", "")["content"]}, {"content": None}, {})
            return [[user, self.call(content), message, *rest]
                    for content in contents for rest in ((), (answer, user), (user,))]
        if "tool_calls" in message:
            return [[user, message, self.result(), answer, user], [user, message, self.result()],
                    [user, message]]
        return [[user, message, user], [user, message], [self.say("system"), user, message, user]]

    def first_with(self, message, *needles):
        """The first prompt with this message that holds all needles, or else None."""
        for messages in self.around(message):
            for tools in (None, [TOOL]):
                prompt = self.render(messages, tools)
                if prompt is not None and all(needle in prompt for needle in needles):
                    return prompt
        return None

    def reads_parts(self, role, texts):
        parts = [text_part(text) for text in texts]
        prompt = self.first_with({"role": role, "content": parts}, *texts)
        written_out = rf"""["']text["']\s*:\s*["']({'|'.join(texts)})"""
        return prompt is not None and not re.search(written_out, prompt)

    def content_form(self, role):
        reads_text = self.first_with({"role": role, "content": NEEDLE}, NEEDLE) is not None
        if self.reads_parts(role, (NEEDLE, SECOND_NEEDLE)):
            return "sent" if reads_text else "parts"
        if not reads_text and self.reads_parts(role, (NEEDLE,)):
            return "part"
        return "text"

    def arguments_form(self):
        content = {"content": self.say("assistant", "")["content"]}
        text = json.dumps({"key": NEEDLE})
        for content in (content, {"content": None}, {}):
            prompt = self.first_with(self.call(content, {"key": NEEDLE}), NEEDLE)
            if prompt is not None and str({"key": NEEDLE}) not in prompt:
                return "object"
            if self.first_with(self.call(content, text), text) is not None:
                return "text"
        return "object"

    def missing_forms(self, make):
        """What a message made of each kind of missing content becomes, in the same conversation.

        {form: prompt} of the conversation in which most of them come out well.
        """
        contents = {"empty": {"content": self.say("assistant", "")["content"]},
                    "none": {"content": None}, "absent": {}}
        best = {}
        conversations = {form: self.around(make(content)) for form, content in contents.items()}
        for i, tools in itertools.product(range(len(conversations["empty"])), (None, [TOOL])):
            prompts = {form: self.render(conversations[form][i], tools) for form in contents}
            prompts = {form: p for form, p in prompts.items() if p is not None}
            n_none = min((p.count("None") for p in prompts.values()), default=0)
            good = {form: p for form, p in prompts.items() if p.count("None") == n_none}
            best = good if len(good) > len(best) else best
        return best

    def missing_call_form(self):
        """None for templates that ask for it, "" for the others that can do with it."""
        prompts = self.missing_forms(self.call)
        if "none" in prompts and prompts["none"] != prompts.get("empty"):
            return "none"
        return next((form for form in ("empty", "absent") if form in prompts), "empty")

    def missing_plain_form(self):
        """Templates that ask for none mean calls; where there is no call, "" is what was said."""
        prompts = self.missing_forms(lambda content: {"role": "assistant", **content})
        return next((form for form in ("empty", "none", "absent") if form in prompts), "empty")

    def find(self):
        forms = self.forms
        for role in ("user", "system", "assistant"):
            forms["content"][role] = self.content_form(role)
        forms["arguments"] = self.arguments_form()
        forms["content"]["tool"] = self.content_form("tool")
        forms["missing"]["call"] = self.missing_call_form()
        forms["missing"]["plain"] = self.missing_plain_form()
        developer = {**self.say("system", NEEDLE), "role": "developer"}
        forms["developer"] = ("developer" in self.source
                              and self.first_with(developer, NEEDLE) is not None)
        return forms


def find_forms(render, source):
    return Prober(render, source).find()
