#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real clients, each asking a running daemon what its users would: a table of what came of it.

    build/venv/bin/python tests/clients/run.py [--write] [CLIENT | CLIENT/SCRIPT ...]

makes a virtual environment for each client under build/clients/ with the versions pinned in its
folder's requirements.txt, starts the daemon with the default model (`./dev serve` fetches it), and
runs each folder's scripts within a time limit: ask.py, structure.py, tools.py and what else is
there. A script raises if what it got is not what its client's users need, and its last line says
what it got. `--write` puts what was run into the table of docs/clients.md, in place of the rows of
the same scripts. The exit status is 1 if a script failed.

Only the package index is asked for anything: the scripts run with hubs and analytics switched off,
and with a home directory of their own. Not part of the tests: the environments take gigabytes.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "load"))

from daemon import DEFAULT_MODEL, Daemon  # noqa: E402
from tokenizer import make_tokenizer  # noqa: E402

BUILD = ROOT / "build" / "clients"
DOCUMENT = ROOT / "docs" / "clients.md"
CLIENT_S = 300
MODEL_NAME = "smollm2"
HEADER = "| client | version | script | what was asked | result | seconds | on |"

QUIET = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "ANONYMIZED_TELEMETRY": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False",
    "AIDER_ANALYTICS": "false", "AIDER_CHECK_UPDATE": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGCHAIN_TRACING_V2": "false",
    "TOKENIZERS_PARALLELISM": "false", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    "NO_COLOR": "1", "COLUMNS": "200",
}


class Outcome:
    def __init__(self, script):
        requirement = (script.parent / "requirements.txt").read_text().split()[0]
        package, self.version = requirement.split("==")
        self.package = package.split("[")[0]
        self.script = f"{script.parent.name}/{script.stem}"
        self.asked = question_of(script)
        self.passed = False
        self.result = ""
        self.seconds = 0.0
        self.output = ""


def clients():
    return sorted(path.parent.name for path in HERE.glob("*/requirements.txt"))


def scripts_of(name):
    """The scripts that a client's name, or a client's and a script's, stands for."""
    client, _, script = name.partition("/")
    return sorted((HERE / client).glob(f"{script or '*'}.py")) if client in clients() else []


def question_of(script):
    """The docstring's first paragraph says what is asked."""
    return " ".join(script.read_text().split('"""')[1].split("\n\n")[0].split()).rstrip(".")


def make_environment(name):
    """Its Python; brought up to date when the requirements change."""
    directory, wanted = BUILD / name, HERE / name / "requirements.txt"
    if not (directory / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    installed = directory / "requirements.txt"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        print(f"installing {name}", file=sys.stderr, flush=True)
        subprocess.run([directory / "bin" / "pip", "install", "-q", "--disable-pip-version-check",
                        "-r", wanted], check=True)
        installed.write_bytes(wanted.read_bytes())
    return directory / "bin" / "python"


def environment(daemon, python, home, tokenizer):
    inherited = {k: os.environ[k] for k in ("LANG", "LC_ALL", "TMPDIR") if k in os.environ}
    return {
        **inherited, **QUIET,
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "PYTHONPATH": str(HERE / "shared"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SERVER_URL": f"http://127.0.0.1:{daemon.port}",
        "SERVER_MODEL": MODEL_NAME,
        "TOKENIZER": str(tokenizer),
        "OPENAI_BASE_URL": f"http://127.0.0.1:{daemon.port}/v1",
        "OPENAI_API_BASE": f"http://127.0.0.1:{daemon.port}/v1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{daemon.port}",
        "ANTHROPIC_API_KEY": "none",
    }


def run_script(command, **options):
    """(exit status, output); None for a script that had to be ended."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True, **options)
    try:
        output, _ = process.communicate(timeout=CLIENT_S)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def ask(script, daemon, tokenizer):
    outcome = Outcome(script)
    python = make_environment(script.parent.name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        start = time.monotonic()
        status, outcome.output = run_script(
            [python, "-u", script], cwd=home, env=environment(daemon, python, home, tokenizer))
        outcome.seconds = time.monotonic() - start
    lines = outcome.output.strip().split("\n")
    outcome.passed = status == 0
    outcome.result = lines[-1][:160] if status is not None else f"no end within {CLIENT_S} s"
    return outcome


def row(outcome):
    result = outcome.result.replace("|", "\\|")
    return (f"| {outcome.package} | {outcome.version} | {outcome.script} | {outcome.asked} | "
            f"{'' if outcome.passed else 'FAILED: '}{result} | {outcome.seconds:.0f} | "
            f"{date.today().isoformat()} |")


def kept_rows():
    """{script: row} of the document, without those of scripts that are no more."""
    lines = DOCUMENT.read_text().split("\n") if DOCUMENT.exists() else []
    rows = {line.split(" | ")[2]: line for line in lines if line.count(" | ") >= 6}
    return {script: line for script, line in rows.items() if scripts_of(script)}


def document(outcomes):
    rows = {**kept_rows(), **{o.script: row(o) for o in outcomes}}
    return "\n".join([
        "# Clients",
        "",
        "What other people's programs got from `kvasird` with its default model, and when; seconds "
        "are those of the whole script, the client's own start included. Made by "
        "`build/venv/bin/python tests/clients/run.py --write`; the scripts lie in "
        "`tests/clients/`, with the versions that they were run with.",
        "",
        HEADER,
        "|---" * HEADER.count(" | ") + "|---|",
        *(rows[script] for script in sorted(rows)),
        "",
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=" ".join(clients()))
    parser.add_argument("--kvasird", default=os.environ.get("KVASIRD", ROOT / "build" / "kvasird"))
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the default model, a .gguf file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/clients.md")
    args = parser.parse_args()
    for name in args.clients:
        if not scripts_of(name):
            parser.error(f"no such client or script: {name}")

    outcomes = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        tokenizer = make_tokenizer(args.model, Path(directory) / "tokenizer")
        daemon = Daemon(args.kvasird, args.model, "--served-model-name", MODEL_NAME,
                        "--kv-tokens", 32 * 1024)
        stack.callback(daemon.stop)
        for script in (s for name in args.clients or clients() for s in scripts_of(name)):
            outcomes.append(ask(script, daemon, tokenizer))
            if not outcomes[-1].passed:
                print(f"---- {script}\n{outcomes[-1].output[-6000:]}\n----", flush=True)
            print(row(outcomes[-1]), flush=True)
    if args.write:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(outcomes))
    return 0 if all(o.passed for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
