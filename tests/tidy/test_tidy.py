# SPDX-License-Identifier: Apache-2.0
"""The tree against tests/tidy/checks.py, and each check against a text that it must refuse."""

import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import pytest

import checks

ROOT = pathlib.Path(__file__).resolve().parents[2]
# This file holds the bad examples; checks.py the words to look for.
EXEMPT = {"tests/tidy/test_tidy.py", "tests/tidy/checks.py"}
BINARY_SUFFIXES = {".xz", ".gz", ".safetensors", ".gguf", ".png", ".bin", ".profile"}


def tree_files():
    """Everything that git tracks or would; a tarball without git is walked."""
    try:
        listing = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        listing = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
        listing = [p for p in listing if not p.startswith(("build", ".git/", "."))]
    for name in sorted(filter(None, listing)):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path.suffix not in BINARY_SUFFIXES:
            yield name


def read(name):
    return (ROOT / name).read_text(encoding="utf-8", errors="surrogateescape")


MATERIAL = ("tests/data/", "tests/fuzz/corpus/")  # bytes that tests read, not texts of the tree
FILES = [name for name in tree_files() if name not in EXEMPT and not name.startswith(MATERIAL)]


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_tree(check):
    complaints = [f"{name}:{line}: {what}"
                  for name in FILES for line, what in check(name, read(name))]
    assert not complaints, "\n" + "\n".join(complaints)


def test_long_files_are_pointed_out():
    for name in FILES:
        n = read(name).count("\n")
        if checks.is_c(name) and n > checks.FILE_LINES_WARN:
            warnings.warn(f"{name} has {n} lines; most files have under {checks.FILE_LINES_WARN}")


def test_no_file_names_the_folder_it_was_made_in():
    parent = str(ROOT.parent)
    if parent.count("/") != 1 or parent in ("/", "/tmp", "/usr", "/opt", "/var", "/etc"):
        pytest.skip(f"the tree lies in {parent}")
    pattern = re.compile(re.escape(parent) + r"/\w")
    bad = [name for name in FILES if pattern.search(read(name))]
    assert not bad, f"these files name {parent}: {bad}"


def test_every_layer_exists_and_has_its_arrows():
    folders = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("*/*.c")}
    folders = {folder for folder in folders if not folder.startswith(("build", "tests"))}
    assert folders <= set(checks.LAYERS)


def test_c_files_are_formatted():
    tool = pathlib.Path(sys.executable).parent / "clang-format"
    if not tool.exists():
        pytest.skip("clang-format is not in this Python's environment")
    files = [name for name in FILES if checks.is_c(name)]
    run = subprocess.run([tool, "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True,
                         text=True)
    complaints = [line for line in run.stderr.split("\n") if ": error:" in line]
    assert run.returncode == 0, "run ./dev format\n" + "\n".join(complaints[:40])


@pytest.mark.parametrize("layer", [name for name in checks.BACKEND_PREFIXES
                                   if (ROOT / name).is_dir()])
def test_symbols_of_a_backend_bear_its_name(layer, kvasird):
    objects = [path for path in kvasird.parent.rglob("*.o")
               if path.match(f"libkvasir.a.p/{layer}_*") or path.match(f"{layer}/*/*.o")]
    if not objects or not shutil.which("nm"):
        pytest.skip(f"no objects of {layer}/, or no nm")
    listing = subprocess.run(["nm", "--extern-only", "--defined-only", *objects], check=True,
                             capture_output=True, text=True).stdout
    complaints = [what for _, what in checks.check_backend_symbols(layer, listing)]
    assert f" {layer}_ops\n" in listing
    assert not complaints, "\n" + "\n".join(complaints)


GOOD = "/* SPDX-License-Identifier: Apache-2.0 */\n"

BAD = [
    (checks.check_cpp_stays, "text/x.cc", GOOD, "nowhere else"),
    (checks.check_license_line, "util/x.c", "int x;\n", "does not begin"),
    (checks.check_license_line, "tests/x.py", "x = 1\n", "does not begin"),
    (checks.check_includes, "util/x.c", '#include "kvcache/page_pool.h"\n', "must not include"),
    (checks.check_includes, "kvcache/x.c", '#include "model/decoder.h"\n', "must not include"),
    (checks.check_includes, "model/x.c", '#include "server/engine/engine.h"\n', "must not include"),
    (checks.check_includes, "model/x.c", '#include "cpu/team.h"\n', "must not include"),
    (checks.check_includes, "cpu/x.c", '#include "model/decoder.h"\n', "must not include"),
    (checks.check_includes, "cuda/x.cu", '#include "cpu/team.h"\n', "must not include"),
    (checks.check_includes, "model/x.c", '#include "config/config.h"\n', "must not include"),
    (checks.check_includes, "config/x.c", '#include "server/engine/engine.h"\n', "must not include"),
    (checks.check_includes, "model/x.c", '#include "text/tokenizer.h"\n', "must not include"),
    (checks.check_includes, "server/http/x.c", '#include "server/api/api.h"\n', "must not include"),
    (checks.check_includes, "server/engine/x.c", '#include "server/http/route.h"\n', "must not"),
    (checks.check_includes, "server/api/x.c", '#include "server/commands/serve.h"\n', "must not"),
    (checks.check_includes, "server/api/x.c", '#include "config/config.h"\n', "must not include"),
    (checks.check_calls, "server/engine/x.c", 'void f(void) { printf("x"); }\n', "log_line"),
    (checks.check_includes, "util/x.c", '#include "buffer.h"\n', "from the root"),
    (checks.check_includes, "util/x.c", '#include "../util/buffer.h"\n', "from the root"),
    (checks.check_calls, "util/x.c", "void f(void) {\n    strcpy(a, b);\n}\n", "memcpy"),
    (checks.check_calls, "cpu/x.c", 'int f(void) { return printf("x"); }\n', "log_line"),
    (checks.check_calls, "cuda/x.cu", 'int f(void) { return !getenv("X"); }\n', "an option"),
    (checks.check_calls, "server/x.c", "void f(void) {\n    exit (1);\n}\n", "main"),
    (checks.check_calls, "server/x.c", "int f(void) { return fork(); }\n", "runs no programs"),
    (checks.check_calls, "model/x.c", "void f(void) {\n    execve(a, b, c);\n}\n", "chat_nursery"),
    (checks.check_leftovers, "README.md", "It works. TO" + "DO: say how.\n", "finish it"),
    (checks.check_line_length, "util/x.c", "/* " + 100 * "x" + " */\n", "columns"),
    (checks.check_whitespace, "README.md", "word \n", "end of the line"),
    (checks.check_whitespace, "util/x.c", "\tint x;\n", "tab"),
    (checks.check_whitespace, "util/x.c", "int x;", "no newline"),
    (checks.check_file_length, "util/x.c", 1001 * "\n", "1001 lines"),
    (checks.check_function_length, "util/x.c",
     "static int f(int a,\n             int b) {\n" + 81 * "    a++;\n" + "}\n", "81 lines"),
    (checks.check_header_guard, "util/x.h", "int x;\n", "#pragma once"),
    (checks.check_backend_types, "cpu/x.h", "typedef struct Team {\n} Team;\n", "with Cpu"),
    (checks.check_backend_types, "cuda/x.cuh", "typedef enum CpuIsa {\n} CpuIsa;\n", "with Cuda"),
    (checks.check_backend_symbols, "cpu", "0000000000000010 T team_run\n", "with cpu_"),
    (checks.check_backend_symbols, "cuda", "                 C cpu_ops\n", "with cuda_"),
    (checks.check_home_paths, "dev", 'model="/ho' + 'me/someone/model"\n', "one machine"),
]


@pytest.mark.parametrize("check, path, text, words", BAD)
def test_bad_text_is_refused(check, path, text, words):
    complaints = [what for _, what in check(path, text)]
    assert any(words in what for what in complaints), complaints


INNOCENT = [
    (checks.check_calls, "util/x.c", "/* strcpy() is banned */\n"),
    (checks.check_calls, "util/x.c", 'char *x = "system(1)";\n'),
    (checks.check_calls, "util/x.c", "int f(void) { return x->exit(1) + my_exit(1); }\n"),
    (checks.check_calls, "server/x.c", 'void f(void) { printf("x"); }\n'),
    (checks.check_includes, "server/x.c", '#include "config/config.h"\n#include <uv.h>\n'),
    (checks.check_includes, "server/api/x.c", '#include "server/http/route.h"\n'),
    (checks.check_includes, "cpu/x.c", '#include "cpu/team.h"\n#include "backend/ops.h"\n'),
    (checks.check_backend_types, "cpu/x.h", "typedef struct CpuTeam CpuTeam;\n"),
    (checks.check_backend_types, "cpu/x.c", "typedef struct Region {\n} Region;\n"),
    (checks.check_backend_symbols, "cpu", "x.o:\n0000000000000010 T cpu_team_run\n"),
    (checks.check_backend_symbols, "cpu", "0000000000000010 T __odr_asan.cpu_ops\n"),
    (checks.check_leftovers, "util/x.c", 'char t[] = "/tmp/x-XXX' + 'XXX";\n'),
    (checks.check_function_length, "util/x.c", "static const int a[] = {\n" + 90 * "1,\n" + "};\n"),
]


@pytest.mark.parametrize("check, path, text", INNOCENT)
def test_good_text_passes(check, path, text):
    assert not list(check(path, text))
