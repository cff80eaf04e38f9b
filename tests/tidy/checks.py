# SPDX-License-Identifier: Apache-2.0
"""What a machine can check of the house style.

A check takes the path of a file within the tree and its text, and yields (line, complaint). Text
is judged as written, except where a check says that comments and strings do not count.
"""

import re

# A folder is a layer, and a folder in server/ a room; it may include itself and what stands here.
BELOW_SERVER = {"config", "model", "text", "grammar", "backend", "kvcache", "util"}
LAYERS = {
    "util": set(),
    "kvcache": {"util"},
    "backend": {"kvcache", "util"},
    "cpu": {"backend", "kvcache", "util"},
    "cuda": {"backend", "kvcache", "util"},
    "model": {"backend", "kvcache", "util"},
    "text": {"model", "util"},
    "grammar": {"util"},
    "config": {"util"},
    "server/http": {"util"},
    "server/engine": {"model", "text", "grammar", "backend", "kvcache", "util"},
    "server/api": {"server/http", "server/engine", "model", "text", "grammar", "backend", "kvcache",
                   "util"},
    "server/commands": {"server/http", "server/engine", "server/api", "cpu", "cuda"} | BELOW_SERVER,
    "server": {"server/commands", "config", "util"},
}

# Backends are linked side by side: what each shows to others begins with its name.
BACKEND_PREFIXES = {"cpu": ("cpu_", "Cpu"), "cuda": ("cuda_", "Cuda")}

# Call: what to use instead.
BANNED_CALLS = {
    "strcpy": "memcpy, of a size that was checked",
    "strcat": "buffer_append_text (util/buffer.h)",
    "strncpy": "snprintf or memcpy; strncpy leaves texts without their end",
    "strncat": "buffer_append_text (util/buffer.h)",
    "sprintf": "snprintf or buffer_printf",
    "vsprintf": "vsnprintf",
    "gets": "getline",
    "atoi": "strtol with its errors checked, or option_parse",
    "atol": "strtol with its errors checked",
    "atof": "strtod with its errors checked",
    "strtok": "strcspn and lengths",
    "alloca": "malloc with CLEANUP(free)",
    "system": "nothing: the daemon runs one program, and starts it with posix_spawn",
    "popen": "nothing: the daemon runs one program, and starts it with posix_spawn",
    "tmpnam": "mkstemp",
    "mktemp": "mkstemp",
    "rand": "the request's own seeded generator",
    "usleep": "nanosleep, or a libuv timer",
    "abort": "an error that is returned; assert for what must hold",
    "exit": "an error that is returned to main",
    "strerror_l": "strerror",
}

# Commands and config/ print; everybody else speaks through Reason and log_line.
PRINTING_CALLS = {"printf", "fprintf", "puts", "perror", "putchar", "vprintf"}
PRINTING_LAYERS = {"server", "server/commands", "config"}

# The daemon runs no programs but one, and this is why and where: templates are programs of
# strangers, and only a process can be ended whatever it is at.
SPAWN_CALLS = re.compile(r"fork|vfork|exec[lv]\w*|posix_spawnp?")
SPAWN_ALLOWED = {"text/chat_nursery.c", "grammar/process.c"}

# getenv outside of the option table: who reads what is not an option of ours.
GETENV_ALLOWED = {
    "config/help.c": "COLUMNS",
    "util/log.c": "JOURNAL_STREAM",
    "text/chat_nursery.c": "TZ, which templates tell the time by",
    "server/commands/notify.c": "NOTIFY_SOCKET",
    "server/commands/profile_store.c": "STATE_DIRECTORY and the XDG directories",
}

LINE_COLUMNS_MAX = 100
FILE_LINES_WARN = 600
FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 80

LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
HOME_PATH = re.compile(r"(?<![\w.])/(home|root|Users|mnt|media)/\w")


def is_c(path):
    return path.endswith((".c", ".h", ".cc", ".cu", ".cuh"))


def is_test(path):
    return path.startswith("tests/")


def layer_of(path):
    """The folder of the table that a file lies in."""
    folder = path.rpartition("/")[0]
    while folder not in LAYERS and "/" in folder:
        folder = folder.rpartition("/")[0]
    return folder


TOKENS = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)


def code_only(text):
    """The text with comments and the insides of strings blanked; lines stay where they are."""
    return TOKENS.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def lines_matching(pattern, text):
    for number, line in enumerate(text.split("\n"), 1):
        for match in pattern.finditer(line):
            yield number, match


def check_license_line(path, text):
    wanted = "SPDX-License-Identifier: Apache-2.0"
    if is_c(path) or path.endswith(".py") or path in ("dev", ".ci/run"):
        if wanted not in "\n".join(text.split("\n")[:2]):
            yield 1, f"the file does not begin with {wanted}"


INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def check_includes(path, text):
    if not is_c(path) or (is_test(path) and not path.startswith("tests/unit/")):
        return
    layer = layer_of(path)
    for number, match in lines_matching(INCLUDE, text):
        target = match.group(1)
        head = layer_of(target)
        if target.startswith("tests/") and is_test(path):
            continue
        if head not in LAYERS or "/" not in target or ".." in target:
            yield number, f'"{target}": include from the root, as in "util/buffer.h"'
        elif not is_test(path) and head != layer and head not in LAYERS.get(layer, set()):
            allowed = ", ".join(sorted(LAYERS.get(layer, set()))) or "nothing else"
            yield number, f"{layer}/ must not include {target}; it may include {allowed}"


CALL = re.compile(r"(?<![\w.>])(\w+)\s*\(")


def check_calls(path, text):
    if not is_c(path) or is_test(path):
        return
    for number, match in lines_matching(CALL, code_only(text)):
        name = match.group(1)
        if name in BANNED_CALLS:
            yield number, f"{name}(): use {BANNED_CALLS[name]}"
        elif name in PRINTING_CALLS and layer_of(path) not in PRINTING_LAYERS:
            yield number, f"{name}(): use log_line, or Reason for whoever called"
        elif SPAWN_CALLS.fullmatch(name) and path not in SPAWN_ALLOWED:
            yield number, f"{name}(): use chat_nursery.h, or nothing: the daemon runs no programs"
        elif name in ("getenv", "secure_getenv") and path not in GETENV_ALLOWED:
            yield number, f"{name}(): use an option (config/options.c)"


def check_leftovers(path, text):
    for number, match in lines_matching(LEFTOVER, text):
        yield number, f"{match.group()}: finish it, or file it where work is tracked"


def check_line_length(path, text):
    suffixes = (".c", ".h", ".cc", ".cu", ".cuh", ".py", ".sh", "meson.build")
    if not path.endswith(suffixes) and path not in ("dev", ".ci/run"):
        return
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield number, f"{len(line)} columns; at most {LINE_COLUMNS_MAX}"


def check_whitespace(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield number, "white space at the end of the line"
        if "\t" in line and (is_c(path) or path.endswith(".py")):
            yield number, "a tab; indent with four spaces"
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end"


def check_file_length(path, text):
    n = text.count("\n")
    if is_c(path) and n > FILE_LINES_MAX:
        yield n, f"{n} lines; at most {FILE_LINES_MAX}: what are the two subjects in here?"


FUNCTION_BODY = re.compile(
    r"^[A-Za-z_][^\n;{}]*(?:\n [^\n;{}]*)*\) \{\n(.*?)^\}", re.DOTALL | re.MULTILINE)


def check_function_length(path, text):
    if not is_c(path) or is_test(path):
        return
    for match in FUNCTION_BODY.finditer(code_only(text)):
        n = match.group(1).count("\n")
        if n > FUNCTION_LINES_MAX:
            line = text.count("\n", 0, match.start()) + 1
            yield line, f"a function of {n} lines; at most {FUNCTION_LINES_MAX}"


def check_header_guard(path, text):
    if path.endswith((".h", ".cuh")) and not re.search(r"^#pragma once$", text, re.MULTILINE):
        yield 1, "a header without #pragma once"


NAMED_TYPE = re.compile(r"^typedef (?:struct|enum|union) (\w+)")


def check_backend_types(path, text):
    if layer_of(path) not in BACKEND_PREFIXES or not path.endswith((".h", ".cuh")):
        return
    prefix = BACKEND_PREFIXES[layer_of(path)][1]
    for number, match in lines_matching(NAMED_TYPE, code_only(text)):
        if not match.group(1).startswith(prefix):
            yield number, f"{match.group(1)}: a type of this folder's headers begins with {prefix}"


def check_backend_symbols(layer, listing):
    """External symbols, as `nm --extern-only --defined-only` lists a layer's objects. Those that
    begin with two underscores are the compiler's."""
    prefix = BACKEND_PREFIXES[layer][0]
    for number, line in enumerate(listing.split("\n"), 1):
        match = re.fullmatch(r"[0-9a-f]* *[A-Za-z] (\w\S*)", line)
        if match and not match.group(1).startswith((prefix, "__")):
            yield number, f"{match.group(1)}: an external symbol of {layer}/ begins with {prefix}"


def check_home_paths(path, text):
    for number, match in lines_matching(HOME_PATH, text):
        yield number, f"{match.group()}...: a path of one machine"


def check_cpp_stays(path, text):
    if path.endswith((".cc", ".cpp", ".cxx", ".hpp")) and layer_of(path) != "grammar":
        yield 1, "C++ lives in grammar/ and nowhere else"


CHECKS = [
    check_cpp_stays,
    check_license_line,
    check_includes,
    check_calls,
    check_leftovers,
    check_line_length,
    check_whitespace,
    check_file_length,
    check_function_length,
    check_header_guard,
    check_backend_types,
    check_home_paths,
]
