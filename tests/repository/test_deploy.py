"""The files in `deploy/`: linted, and their commands are those of `quern serve`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from quernstone.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ["Dockerfile", "Dockerfile.cuda"]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(program, *arguments):
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"{program} is not installed")
    result = subprocess.run([found, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint(name):
    run("hadolint", str(DEPLOY / name))


def test_the_compose_file_meets_the_specification():
    schema = "vendor.compose-spec"
    run("check-jsonschema", "--builtin-schema", schema, str(DEPLOY / "compose.yaml"))


def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "quern.service"  # with a program that exists here
    text = (DEPLOY / "quern.service").read_text()
    unit.write_text(text.replace("/opt/quernstone/bin/quern", "/bin/true"))
    run("systemd-analyze", "verify", str(unit))


def commands():
    """Return the arguments of `quern` in each file."""
    for name in DOCKERFILES:
        text = (DEPLOY / name).read_text()
        start, end = (
            json.loads(re.search(rf"^{part} (.*)$", text, re.MULTILINE)[1])
            for part in ("ENTRYPOINT", "CMD")
        )
        yield name, [*start, *end]
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["quern"]
    yield "compose.yaml", ["quern", "serve", *service["command"]]
    unit = (DEPLOY / "quern.service").read_text()
    yield "quern.service", shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: str(value)[:18])
def test_commands_have_options_that_exist(name, command):
    program, subcommand, *arguments = command
    assert (Path(program).name, subcommand) == ("quern", "serve")
    serve = typer.main.get_command(app).get_command(None, "serve")
    with serve.make_context("serve", arguments) as context:
        assert context.params["embed"] == "Qwen/Qwen3-Embedding-0.6B"


def test_versions_are_those_that_the_project_is_tested_with():
    torch = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f"torch=={torch} " in (DEPLOY / "Dockerfile").read_text()
    image = re.search(r"qdrant/qdrant:\S+", (ROOT / "CONTRIBUTING.md").read_text())[0]
    assert image in (DEPLOY / "compose.yaml").read_text()
