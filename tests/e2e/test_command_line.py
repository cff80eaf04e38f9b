# SPDX-License-Identifier: Apache-2.0
"""The command line as people meet it: exit status, where text goes, help, config."""

import json
import re
import resource
import subprocess

import pytest


@pytest.fixture
def run(kvasird, clean_environment):
    def run_(*args, **variables):
        return subprocess.run(
            [kvasird, *args], env=clean_environment | variables, capture_output=True, text=True,
            timeout=60, stdin=subprocess.DEVNULL)
    return run_


def commands_of(run):
    text = run("--help").stdout
    return re.findall(r"^  ([a-z-]+) ", text[text.index("Commands:"):], re.MULTILINE)


def test_no_arguments_is_short_usage(run):
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Usage: kvasird ")


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(run, word):
    result = run(word)
    assert result.returncode == 0 and re.fullmatch(r"kvasird \d+\.\d+\.\d+\n", result.stdout)
    result = run(word, "x")
    assert result.returncode == 2 and '"x"' in result.stderr


def test_a_model_needs_no_flag(run, tmp_path):
    given, flag = run("plan", "/nowhere/a"), run("plan", "--model", "/nowhere/a")
    assert (given.returncode, given.stderr) == (flag.returncode, flag.stderr) == (1, flag.stderr)
    assert "/nowhere/a: No such file" in given.stderr
    # It wins over the environment, as a flag does, and stands wherever options stand.
    assert "/nowhere/a:" in run("plan", "--kv", "f16", "/nowhere/a", "--kv-tokens", "64",
                                KVASIR_MODEL="/nowhere/b").stderr
    for command in commands_of(run):
        takes_one = "[options] [MODEL]\n" in run(command, "--help").stdout
        assert takes_one == (command != "config")


@pytest.mark.parametrize("args, words", [
    (["/a", "--model", "/b"], 'given twice: as "/a" and by --model "/b"'),
    (["--model", "/b", "/a"], 'given twice: as "/a" and by --model "/b"'),
    (["/a", "/b"], 'unexpected argument "/b"; the model is "/a" already'),
    (["/a", "-"], 'unexpected argument "-"'),
    ([""], "model"),
])
def test_one_model_is_enough(run, args, words):
    for command in ("serve", "plan", "tokenize"):
        result = run(command, *args)
        assert (result.returncode, result.stdout) == (2, "")
        assert words in result.stderr and result.stderr.count("\n") == 1


FILE_OPTIONS = {
    "serve": ["--chat-template", "--profile", "--kv=plan"],
    "chat-template": ["--chat-template"],
    "generate": ["--profile", "--input", "--kv=plan"],
    "logits": ["--profile", "--input", "--kv=plan"],
    "eval": ["--profile", "--text", "--kv=plan", "--reference=plan"],
    "profile": ["--text"],
    "bench": ["--kv=plan"],
    "plan": ["--kv=plan"],
}
REQUIRED = {"generate": ["--input", "/dev/null"], "eval": ["--text", "/dev/null"],
            "logits": ["--input", "/dev/null", "-o", "-"]}


@pytest.mark.parametrize("command", FILE_OPTIONS)
def test_files_are_looked_at_first(run, tmp_path, command):
    """The model is not there either, and would be missed if anything had been loaded."""
    readable = tmp_path / "file"
    readable.write_text("{}")
    required = [str(readable) if word == "/dev/null" else word
                for word in REQUIRED.get(command, [])]
    for option in FILE_OPTIONS[command]:
        flag, _, plan = option.partition("=")
        prefix = "plan:" if plan else ""
        for path, words in [("/nowhere/x", "No such file"), (str(tmp_path), "directory"),
                            ("/dev/null", "regular file")]:
            result = run(command, "/nowhere/model", *required, flag, prefix + path)
            assert result.returncode == 1 and result.stdout == ""
            assert result.stderr.startswith(f"kvasird {command}: flag {flag}: {path}: ")
            assert words in result.stderr and result.stderr.count("\n") == 1
        result = run(command, "/nowhere/model", *required, flag, prefix + str(readable), "--port=1"
                     if command == "serve" else "--log-level=info")
        assert f"flag {flag}: {readable}" not in result.stderr


ORIGIN = re.compile(r"^\S+ debug: the reason was given here origin=(\S+\.c):(\d+)$", re.MULTILINE)


@pytest.mark.parametrize("command", [
    "serve", "plan", "tokenize", "chat-template", "generate", "logits", "eval", "bench"])
def test_developers_are_told_where_an_error_comes_from(run, root, tmp_path, command):
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUX")
    required = [str(model) if word == "/dev/null" else word for word in REQUIRED.get(command, [])]
    port = ["--port=0"] if command == "serve" else []
    usual = run(command, str(model), *required, *port)
    assert usual.returncode == 1 and "not a GGUF file" in usual.stderr
    assert "origin=" not in usual.stderr
    debug = run(command, str(model), *required, *port, "--log-level=debug")
    assert debug.returncode == 1 and "not a GGUF file" in debug.stderr
    file, line = ORIGIN.search(debug.stderr).groups()
    assert file == "model/gguf.c"
    # A call of several lines has the number of one of them.
    near = (root / file).read_text().split("\n")[int(line) - 4:int(line)]
    assert any("reason_set" in text for text in near), near


def test_developers_are_told_where_an_answer_of_a_line_comes_from(kvasird, tiny_model):
    for command in ("tokenize", "detokenize", "chat-template"):
        for level, told in (("info", False), ("debug", True)):
            result = subprocess.run([kvasird, command, tiny_model, "--log-level", level],
                                    capture_output=True, text=True, input="[\n", timeout=60)
            assert "error" in json.loads(result.stdout)
            assert bool(ORIGIN.search(result.stderr)) == told, result.stderr


def test_a_file_is_blamed_on_where_it_was_named(run, tmp_path):
    file = tmp_path / "kvasird.json"
    file.write_text('{\n  "profile": "/nowhere/p"\n}\n')
    result = run("serve", "x", "--config", str(file))
    assert result.stderr == f"kvasird serve: {file}:2: profile: /nowhere/p: " \
                            "No such file or directory\n"
    result = run("serve", "x", KVASIR_CHAT_TEMPLATE="/nowhere/t")
    assert result.stderr.startswith("kvasird serve: environment KVASIR_CHAT_TEMPLATE: /nowhere/t: ")


def test_help_lists_commands_and_each_has_its_own(run):
    commands = commands_of(run)
    assert "config" in commands
    for command in commands:
        long, short, word = run(command, "--help"), run(command, "-h"), run("help", command)
        assert long.returncode == 0 and long.stderr == ""
        assert long.stdout == short.stdout == word.stdout
        assert long.stdout.startswith(f"Usage: kvasird {command} ")


def test_every_option_says_what_it_allows_and_its_default(run):
    for command in commands_of(run):
        text = run(command, "--help").stdout
        entries = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
        assert entries
        for entry in entries:
            entry = " ".join(entry.split())
            assert re.search(r"(Default: [^.]+|Required)", entry), entry
            if re.match(r"--\S+ (NUMBER|BYTES|TIME|TOKENS|N) ", entry):
                assert "Allowed: " in entry, entry


@pytest.mark.parametrize("columns", [20, 60, 80, 500])
def test_help_fits_the_terminal(run, columns):
    longest = max(map(len, run("config", "--help", COLUMNS=str(columns)).stdout.split("\n")))
    assert longest <= min(max(columns, 50), 100)


@pytest.mark.parametrize("args, words", [
    (["--port", "80"], "name a command before its options"),
    (["serv"], '"serv" is no command'),
    (["help", "serv"], '"serv" is no command'),
    (["config", "--prot", "80"], "did you mean --port?"),
    (["config", "--port", "65536"], 'flag --port: "65536" is out of bounds; allowed: 1 to 65535'),
    (["config", "--port"], "flag --port needs a value"),
    (["config", "80"], 'unexpected argument "80"'),
    (["config", "--config", "/nonexistent.json"], "/nonexistent.json: No such file"),
])
def test_what_is_not_understood(run, args, words):
    result = run(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr and result.stderr.startswith("kvasird")


def test_precedence_and_origins(run, tmp_path):
    file = tmp_path / "kvasird.json"
    file.write_text('{\n  "port": 1, // first\n  "max_choices": 1,\n  "max_prompts": 1\n}\n')
    result = run("config", "--json", "--config", str(file), "--port", "3",
                 KVASIR_PORT="2", KVASIR_MAX_CHOICES="2")
    assert result.returncode == 0 and result.stderr == ""
    values = json.loads(result.stdout)
    assert values["port"] == {"value": 3, "from": "flag --port"}
    assert values["max_choices"] == {"value": 2, "from": "environment KVASIR_MAX_CHOICES"}
    assert values["max_prompts"] == {"value": 1, "from": f"{file}:4"}
    assert values["max_num_seqs"]["from"] == "default"


def test_config_prints_every_value_and_its_origin(run):
    lines = run("config").stdout.splitlines()
    values = json.loads(run("config", "--json").stdout)
    assert [line.split()[0] for line in lines] == list(values)
    assert all(line.endswith("[default]") for line in lines)


def test_misspelt_variable_is_pointed_out_and_others_are_not(run):
    result = run("config", KVASIR_KV_MEMROY="1G", KVASIR_SHARED="/x", KVASIR_SERVICE_HOST="x")
    assert result.returncode == 0
    assert "KVASIR_KV_MEMROY" in result.stderr and "kv_memory" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["plan"], ["bench"], ["profile"], ["eval"], ["generate"], ["logits"]],
    ids=lambda command: command[0])
def test_every_command_that_computes_takes_a_device(command, kvasird, clean_environment):
    help_text = subprocess.run([kvasird, *command, "--help"], capture_output=True, text=True,
                               env=clean_environment).stdout
    assert "--device NAME" in help_text


def test_file_errors_name_the_line(run, tmp_path):
    file = tmp_path / "bad.json"
    file.write_text('{\n  # comment\n  "port": "80"\n}\n')
    result = run("config", "--config", str(file))
    assert result.returncode == 2
    assert f'{file}:3: port: expected a whole number, found "80"' in result.stderr


def test_full_standard_output_is_an_error(kvasird, clean_environment):
    with open("/dev/full", "w") as full:
        result = subprocess.run([kvasird, "config"], stdout=full, stderr=subprocess.PIPE, text=True,
                                env=clean_environment)
    assert result.returncode == 1 and "standard output" in result.stderr


def test_a_start_without_files_to_open_ends_with_words(kvasird, clean_environment):
    """The event loop and its listener want a dozen; each may be the one that there is no room for.
    With five or fewer the library below the loop gives up before any call of ours; one more is the
    socket of the process that compiles grammars."""
    failed_at = set()
    for n_files in range(7, 17):
        result = subprocess.run(
            [kvasird, "serve", "/nowhere", "--port", "0"], env=clean_environment,
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            preexec_fn=lambda n=n_files: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))
        assert result.returncode == 1, (n_files, result)
        failed_at |= set(re.findall("there can be no event loop|the event loop cannot be set up|"
                                    "cannot listen|/nowhere: No such file", result.stderr))
        assert result.stderr.rstrip().count("kvasird serve: ") == 1
    assert failed_at >= {"there can be no event loop", "cannot listen", "/nowhere: No such file"}
