# SPDX-License-Identifier: Apache-2.0
"""Chat templates in Jinja2; built into the daemon and run in a process of its own (chat_worker.py).

A chat template is a Jinja program written for the environment that Transformers 5 gives it
(transformers/utils/chat_template_utils.py and tokenization_utils_base.py there are what everything
here must agree with): the immutable sandbox, trim_blocks, lstrip_blocks, loop controls, the
generation tag, a tojson that leaves HTML alone, raise_exception, strftime_now, and the model's
special tokens as variables. Messages lose their null members and carry their reasoning under each
of its names before the template sees them; unless a request says `as_written`, they are also put
into the form that this template reads (chat_messages.py).

Every way to fail is one of the exceptions below, which chat_worker.py turns into outcomes. Time and
memory are limited from there, by ending the process and by its own limit. What would be long before
anybody could tell, arithmetic on huge integers, is limited here.
"""

import datetime
import json
import os
import re
import sys

# MarkupSafe in C crashes where memory is refused; without it, Jinja takes the one in Python.
sys.modules["markupsafe._speedups"] = None

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

import chat_messages

FILE_BYTES_MAX = 64 << 20
PROBE_BYTES_MAX = 1 << 20
MESSAGE_BYTES_MAX = 900  # fits into a Reason together with what is put in front
INTEGER_BITS_MAX = 1 << 16
TIME_FORMAT_CHARACTERS_MAX = 1000

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)
# What a request says beside `kwargs`, or what would change how a template is run.
RESERVED_KWARGS = (
    "messages", "tools", "add_generation_prompt", "conversation", "continue_final_message",
    "return_assistant_tokens_mask",
)


class Outcome(Exception):
    """An end that the C half knows; the text is for people, valid UTF-8 and of limited length."""

    def __init__(self, text):
        encoded = str(text).encode("utf-8", "replace").replace(b"\0", b"\\0")
        if len(encoded) > MESSAGE_BYTES_MAX:
            encoded = encoded[:MESSAGE_BYTES_MAX] + b"..."
        super().__init__(encoded.decode("utf-8", "ignore"))


class NoTemplate(Outcome):
    """The model has no chat template."""


class Invalid(Outcome):
    """A file or a request is broken."""


class Raised(Outcome):
    """The template refused the messages or failed on them."""


class BadMessage(Outcome):
    """A message is not what a client may send; begins with its place, in backquotes."""


class OutputLimit(Outcome):
    """The prompt is longer than allowed."""


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: what the assistant said; only rendered here."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_generation_support")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _generation_support(self, context, caller):
        return caller()


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with arithmetic that ends: Python's integers have no size limit of their own."""

    intercepted_binops = frozenset(("*", "/", "//", "%", "**"))

    def call_binop(self, context, operator, left, right):
        if isinstance(right, int) and isinstance(left, (int, float)):
            n_bits = max(left.bit_length() if isinstance(left, int) else 0, right.bit_length())
            if operator == "**" and isinstance(left, int):
                n_bits = max(n_bits, left.bit_length() * abs(right))
            if n_bits > INTEGER_BITS_MAX:
                raise OverflowError(f"integers of more than {INTEGER_BITS_MAX} bits")
        return super().call_binop(context, operator, left, right)


class TemplateDict:
    """What `dict` is in a template: makes dicts, but is not the class itself."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    """Jinja's namespace without underscored names, which lead into the interpreter."""

    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            check_attribute_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        check_attribute_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def check_attribute_name(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"chat templates cannot store {name!r} in a namespace: rename the attribute"
        )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    # Where its buffer, up to 256 times as long, cannot grow, Python 3.13 loses it.
    if len(format) > TIME_FORMAT_CHARACTERS_MAX:
        raise ValueError(f"a time format of more than {TIME_FORMAT_CHARACTERS_MAX} characters")
    return datetime.datetime.now().strftime(format)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def new_environment():
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment


def compile_template(environment, name, source):
    where = "the chat template" if name == "default" else f"the chat template {name!r}"
    if not isinstance(source, str):
        raise Invalid(f"{where} is not text")
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise Invalid(f"{where}, line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise Invalid(f"{where} is nested too deeply") from None
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise Invalid(f"{where} cannot be compiled: {error}") from None


def describe_failure(error):
    """Words for an exception that came out of a template: its own where it raised on purpose."""
    if type(error) is jinja2.TemplateError:
        return str(error)
    if isinstance(error, RecursionError):
        return "the messages are nested too deeply for the chat template"
    line, traceback = None, error.__traceback__
    while traceback:  # Jinja has put the template's lines where its generated code was
        if "__jinja_exception__" in traceback.tb_frame.f_globals:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    where = f" at line {line}" if line else ""
    return f"the chat template failed on these messages{where}: {type(error).__name__}: {error}"


def alias_reasoning(message):
    for name in REASONING_FIELDS:
        if name in message:
            reasoning = message[name]
            return {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def checked_messages(messages, forms):
    """`forms`: what to put them into; None: nothing, they are as Transformers would have them."""
    if not isinstance(messages, list) or not messages:
        raise Raised("'messages' must be an array of at least one message")
    for message in messages:
        if not isinstance(message, dict):
            raise Raised("every message must be an object with 'role' and 'content'")
    if forms is None:
        messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
    else:
        messages = chat_messages.settle(messages, forms)
    return [alias_reasoning(message) for message in messages]


def checked_objects(name, values):
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Raised(f"'{name}' must be an array of objects")
    return values


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


def parse_request(body):
    """`body` is emptied: text in Python is large, and there is to be one of it at a time."""
    try:
        text = body.decode("utf-8")
        body.clear()
        request = json.loads(text, parse_constant=no_constant)
        chat_messages.check_depth(text, request, "the request")
    except chat_messages.Refused as error:
        raise Invalid(str(error)) from None
    except RecursionError:
        raise Invalid("the request is nested too deeply") from None
    except ValueError as error:
        raise Invalid(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise Invalid("the request must be a JSON object")
    return request


def effort_kwargs(effort):
    """How much to think, under the names that templates have for it; kwargs go before."""
    if effort is None:
        return {}
    thinking = {"enable_thinking": False} if effort == "none" else {}
    return {"reasoning_effort": effort, **thinking}


class Renderer:
    """The templates of one model, compiled; rendering does not change it."""

    def __init__(self, sources, special_tokens, forms=None):
        environment = new_environment()
        self.sources = sources
        self.special_tokens = special_tokens
        self.templates = {
            name: compile_template(environment, name, source) for name, source in sources.items()
        }
        self.forms = forms or {name: chat_messages.DEFAULT_FORMS for name in sources}

    def find_forms(self):
        """What each template reads, as `forms` takes it."""
        return {
            name: chat_messages.find_forms(
                lambda messages, tools, template=template: self.attempt(template, messages, tools),
                self.sources[name])
            for name, template in self.templates.items()
        }

    def attempt(self, template, messages, tools):
        """The prompt, or None where the template fails."""
        variables = {**self.special_tokens, "messages": messages, "tools": tools,
                     "documents": None, "add_generation_prompt": False}
        try:
            return joined(template.generate(variables), PROBE_BYTES_MAX).decode()
        except MemoryError:
            raise
        except Exception:
            return None

    def choose(self, tools, kwargs):
        wanted = kwargs.pop("chat_template", None)
        if wanted is None:
            wanted = "tool_use" if tools is not None and "tool_use" in self.templates else "default"
        if not isinstance(wanted, str) or wanted not in self.templates:
            names = ", ".join(sorted(self.templates))
            raise Raised(f"the model has no chat template of that name; it has: {names}")
        return wanted

    def variables(self, name, request, kwargs, forms):
        for key in RESERVED_KWARGS:
            if key in kwargs:
                raise Raised(f"'kwargs' must not hold '{key}'")
        documents = kwargs.pop("documents", request.get("documents"))
        messages = checked_messages(request.get("messages"), forms)
        tools = checked_objects("tools", request.get("tools"))
        tells = request.get("tell_tools") and "tools" not in self.sources[name]
        if tools and tells and forms is not None:
            messages = chat_messages.tell_tools(messages, tools, forms)
        return {
            **self.special_tokens,
            **kwargs,
            "messages": messages,
            "tools": tools,
            "documents": checked_objects("documents", documents),
            "add_generation_prompt": request.get("add_generation_prompt", False),
        }

    def render(self, body, output_bytes_max):
        request = parse_request(body)
        kwargs = request.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            raise Raised("'kwargs' must be an object")
        kwargs = {**effort_kwargs(request.get("reasoning_effort")), **kwargs}
        name = self.choose(request.get("tools"), kwargs)
        continues = bool(request.get("continue_final_message"))
        try:
            # A message that is continued is looked at as chat clients mean it.
            forms = None if request.get("as_written") and not continues else self.forms[name]
            variables = self.variables(name, request, kwargs, forms)
            if continues:
                chat_messages.mark_end(variables["messages"])
            del request
            pieces = self.templates[name].generate(variables)
            if continues:
                pieces = [chat_messages.cut_at_end("".join(pieces))]
            return joined(pieces, output_bytes_max)
        except (Outcome, MemoryError):
            raise
        except chat_messages.Refused as error:
            raise BadMessage(error) from None
        except Exception as error:
            raise Raised(describe_failure(error)) from None


def joined(pieces, output_bytes_max):
    """UTF-8, encoded piece by piece, since most texts take less room so."""
    output, n_bytes = [], 0
    for piece in pieces:
        n_bytes += len(piece)
        if n_bytes > output_bytes_max:
            break
        try:
            output.append(piece.encode("utf-8"))
        except UnicodeEncodeError:
            raise Raised("the prompt holds half of a surrogate pair, which is not text") from None
        n_bytes += len(output[-1]) - len(piece)
    if n_bytes > output_bytes_max:
        raise OutputLimit(f"the prompt is longer than {output_bytes_max} bytes")
    return b"".join(output)


def read_text(path):
    """The text of a file, or None where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise Invalid(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        # Newlines as Python's text mode, through which Transformers reads, makes them.
        return re.sub("\r\n?", "\n", content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: not UTF-8 at byte {error.start}") from None


def read_object(path):
    text = read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except RecursionError:
        raise Invalid(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise Invalid(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Invalid(f"{path}: must hold a JSON object")
    return value


def token_text(value):
    """A token is written as text or as an object with `content`; None for anything else."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def collect_special_tokens(config):
    named = {key: config.get(key) for key in SPECIAL_TOKENS}
    named.update((key, value) for key, value in config.items() if key.endswith("_token"))
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named.update(extra)
    texts = {key: token_text(value) for key, value in named.items()}
    return {key: text for key, text in texts.items() if text is not None}


def template_files(path):
    """chat_template.jinja and additional_chat_templates/*.jinja, which go before the config."""
    templates = {}
    default = read_text(os.path.join(path, "chat_template.jinja"))
    if default is not None:
        templates["default"] = default
    folder = os.path.join(path, "additional_chat_templates")
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if file.endswith(".jinja"):
            templates[file.removesuffix(".jinja")] = read_text(os.path.join(folder, file))
    return templates


def config_templates(path, value):
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        if isinstance(value, list):
            return {str(entry["name"]): entry["template"] for entry in value}
    except (KeyError, TypeError):
        pass
    raise Invalid(f"{path}: chat_template must be text or an array of {{name, template}}")


def open_directory(path, override):
    """A Renderer for a model directory in Hugging Face layout."""
    config_path = os.path.join(path, "tokenizer_config.json")
    config = read_object(config_path)
    templates = template_files(path) or config_templates(config_path, config.get("chat_template"))
    if "added_tokens_decoder" not in config:
        config = {**config, **read_object(os.path.join(path, "special_tokens_map.json"))}
    return open_parts(templates, collect_special_tokens(config), override)


def open_parts(templates, special_tokens, override):
    """A Renderer for {name: source} and {variable: token}; `override` is a file to use instead."""
    if override is not None:
        source = read_text(override)
        if source is None:
            raise Invalid(f"{override}: there is no such file")
        templates = {"default": source}
    if not templates:
        raise NoTemplate("the model has no chat template: use completions, or give a Jinja file "
                         "with --chat-template")
    return Renderer(templates, special_tokens)
