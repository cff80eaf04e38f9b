# SPDX-License-Identifier: Apache-2.0
"""The files in docker/: their form, that their packages are those that ./dev installs, and a build
of the one that needs no GPU."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest


FILES = {"Dockerfile": 2, "Dockerfile.cuda": 3}  # and their stages


@pytest.fixture(scope="module", params=FILES)
def file(request):
    return request.param


@pytest.fixture(scope="module")
def instructions(root, file):
    text = (root / "docker" / file).read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.split("\n") if line.strip()]


def arguments(instructions, name):
    return [argument for instruction, argument in instructions if instruction == name]


def last_stage(instructions):
    start = max(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def packages(text):
    words = text.split("--no-install-recommends")[1].split("&&")[0].split()
    return {word for word in words if word != "\\"}


def test_only_the_install_tree_crosses_to_the_last_stage(instructions, file):
    assert len(arguments(instructions, "FROM")) == FILES[file]
    assert [a for a in arguments(last_stage(instructions), "COPY")] == ["--from=build /out/ /"]


def test_runs_as_an_ordinary_user_with_health_and_stop_signal(instructions):
    stage = last_stage(instructions)
    assert arguments(stage, "USER")[-1] not in ("root", "0")
    assert arguments(stage, "STOPSIGNAL") == ["SIGTERM"]
    assert "/health" in arguments(stage, "HEALTHCHECK")[0]


def test_health_check_is_a_program_that_parses(instructions):
    check = arguments(last_stage(instructions), "HEALTHCHECK")[0]
    python, flag, code = json.loads(check[check.index("CMD ") + 4:])
    assert (python, flag) == ("python3", "-c")
    compile(code, "HEALTHCHECK", "exec")


def test_variables_are_options(instructions, kvasird, clean_environment):
    variables = dict(pair.split("=", 1) for line in arguments(last_stage(instructions), "ENV")
                     for pair in line.split())
    out = subprocess.run([kvasird, "config", "--json"], env=clean_environment | variables,
                         check=True, capture_output=True, text=True).stdout
    values = json.loads(out)
    for variable in variables:
        if variable.startswith("NVIDIA_"):  # the container toolkit's
            continue
        option = variable.removeprefix("KVASIR_").lower()
        assert values[option]["from"] == f"environment {variable}"


def test_builds_with_the_packages_that_dev_installs(instructions, root):
    dev = (root / "dev").read_text()
    wanted = set(re.search(r"build_packages=\((.*?)\)", dev, re.DOTALL).group(1).split())
    run = next(a for a in arguments(instructions, "RUN") if "ninja-build" in a)
    # node-llhttp is chosen at run time there.
    assert packages(run) - {"node-llhttp"} == wanted


def test_both_run_alike(root):
    """But for what a GPU takes, the last stages are the same."""
    def last_lines(file):
        text = (root / "docker" / file).read_text()
        return [line.replace("libcublas-13-0", "").strip()
                for line in text[text.rindex("FROM "):].split("\n")[1:]
                if not line.startswith(("#", "ENV NVIDIA")) and line.strip(" \\")]
    cuda = [line for line in last_lines("Dockerfile.cuda") if line != "\\"]
    assert cuda == last_lines("Dockerfile")


def test_options_of_the_build_exist(instructions, root):
    options = set(re.findall(r"^option\('(\w+)'", (root / "meson_options.txt").read_text(),
                             re.MULTILINE))
    run = next(a for a in arguments(instructions, "RUN") if "meson setup" in a)
    assert set(re.findall(r"-D(\w+)=", run)) <= options


def test_every_library_that_kvasird_links_is_in_the_image(instructions, kvasird):
    listing = subprocess.run(["ldd", kvasird], capture_output=True, text=True).stdout
    run = next(a for a in arguments(last_stage(instructions), "RUN") if "libuv1" in a)
    names = {re.sub(r"[-.\d]+$", "", package) for package in packages(run)}
    # llhttp is compiled in there, and a library where the distribution has it as one.
    base = {"libc", "libm", "libdl", "libpthread", "libz", "libexpat", "libasan", "libubsan",
            "libgcc_s", "libstdc++", "linux-vdso", "libllhttp"}
    for library in re.findall(r"^\s*(\S+?)\.so", listing, re.MULTILINE):
        library = library.rsplit("/", 1)[-1]
        if library.startswith("ld-linux") or library in base:
            continue
        stem = re.sub(r"[-.\d]+$", "", library)
        assert any(stem == name or name.startswith(stem) for name in names), library


def engine():
    for name in ("docker", "buildah"):
        if shutil.which(name) and subprocess.run(
                [name, "info"], capture_output=True, timeout=60).returncode == 0:
            return name
    return None


def run(*args, **options):
    return subprocess.run([str(arg) for arg in args], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def image(root):
    """(engine, image), built from the tree. DOCKER_BASE names another base than Debian's."""
    name = engine()
    if not name:
        pytest.skip("neither docker nor buildah works here")
    base = os.environ.get("DOCKER_BASE", "debian:12-slim")
    build = ["docker", "build"] if name == "docker" else ["buildah", "bud", "--format", "docker"]
    built = run(*build, "--build-arg", f"BASE={base}", "-t", "kvasird-test",
                "-f", "docker/Dockerfile", ".", cwd=root)
    if built.returncode and re.search(r"pull|resolve|manifest|registry|lookup", built.stderr):
        pytest.skip(f"{base} cannot be pulled here")
    assert built.returncode == 0, built.stderr[-4000:]
    return name, "kvasird-test"


@pytest.mark.timeout(1800)
def test_image_runs_the_program(image):
    engine_name, name = image
    if engine_name == "docker":
        result = run("docker", "run", "--rm", "--read-only", name, "config")
    else:
        container = run("buildah", "from", name, check=True).stdout.strip()
        result = run("buildah", "run", container, "--", "kvasird", "config")
        run("buildah", "rm", container)
    assert result.returncode == 0, result.stderr
    assert "0.0.0.0  [environment KVASIR_HOST]" in result.stdout


@pytest.mark.timeout(1800)
def test_container_becomes_healthy_and_stops(image, default_model):
    engine_name, name = image
    if engine_name != "docker":
        pytest.skip(f"{engine_name} has no daemon that checks health")
    container = run("docker", "run", "-d", "--read-only", "-v", f"{default_model}:/model.gguf:ro",
                    name, "serve", "--model", "/model.gguf", "--kv-memory", "256MiB",
                    check=True).stdout.strip()
    try:
        deadline = time.monotonic() + 120
        status = ""
        while status != "healthy" and time.monotonic() < deadline:
            time.sleep(1)
            status = run("docker", "inspect", "-f", "{{.State.Health.Status}}", container,
                         check=True).stdout.strip()
        assert status == "healthy"
        run("docker", "stop", "-t", "35", container, check=True)
        code = run("docker", "inspect", "-f", "{{.State.ExitCode}}", container).stdout.strip()
        assert code == "0"
    finally:
        run("docker", "rm", "-f", container)
