"""The files in `.github/`: linted, and in step with the Makefile and the packages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(program, *arguments):
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"{program} is not installed")
    result = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_zizmor():
    run("zizmor", "--offline", "--pedantic", ".github")


def test_actionlint():
    run("actionlint")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", "workflows/*.yml"),
        ("custom.github-workflows-require-timeout", "workflows/*.yml"),
        ("vendor.dependabot", "dependabot.yml"),
        ("vendor.github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_schemas(schema, files):
    run("check-jsonschema", "--builtin-schema", schema, *map(str, GITHUB.glob(files)))


def jobs():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            yield f"{path.name}/{name}", job


def test_every_command_is_a_target_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set()
    for _, job in jobs():
        for step in job["steps"]:
            used.update(re.findall(r"^make ([\w-]+)$", step.get("run", "")))
        used.update(job.get("strategy", {}).get("matrix", {}).get("command", []))
    assert {"check", "test", "test-all", "test-lowest", "versions", "dist"} <= used <= targets


def test_every_supported_python_is_tested():
    versions = dict(jobs())["ci.yml/test"]["strategy"]["matrix"]["python"]
    [resolved] = re.findall(r"^VERSIONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert resolved.split() == versions
    for path in ROOT.glob("packages/*/pyproject.toml"):
        text = path.read_text()
        assert re.findall(r"Python :: (3\.\d+)", text) == versions
        assert re.findall(r'^requires-python = ">=(.*)"$', text, re.MULTILINE) == versions[:1]


def test_every_package_is_published():
    projects = dict(jobs())["release.yml/publish"]["strategy"]["matrix"]["project"]
    names = [
        re.search(r'^name = "(.*)"$', path.read_text(), re.MULTILINE)[1].replace("-", "_")
        for path in ROOT.glob("packages/*/pyproject.toml")
    ]
    assert sorted(projects) == sorted(names)


def test_only_the_publishing_job_may_sign():
    assert {name for name, job in jobs() if "id-token" in job["permissions"]} == {
        "release.yml/publish"
    }
    assert all(yaml.safe_load(path.read_text())["permissions"] == {} for path in WORKFLOWS)
