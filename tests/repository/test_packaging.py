"""The four packages as a workspace: versions, typing markers, licences, lazy imports."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quernstone

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "quernstone": "core",
    "langchain-quernstone": "langchain",
    "llama-index-quernstone": "llamaindex",
    "quernstone-qdrant": "qdrant",
}


def test_the_four_versions_are_equal():
    versions = {importlib.metadata.version(name) for name in DISTRIBUTIONS}
    assert versions == {quernstone.__version__}


def test_every_package_reads_its_version_from_one_file(settings):
    assert settings["project"]["dynamic"] == ["version"]
    path = ROOT / "packages" / DISTRIBUTIONS[settings["project"]["name"]]
    source = path / settings["tool"]["hatch"]["version"]["path"]
    assert source.resolve() == ROOT / "packages/core/src/quernstone/__init__.py"


def test_packages_depend_on_this_minor_version_of_each_other(project):
    major, minor = map(int, quernstone.__version__.split(".")[:2])
    wanted = f">={major}.{minor}.0,<{major}.{minor + 1}"
    for line in [*project["dependencies"], *project["optional-dependencies"].get("qdrant", [])]:
        name, specifier = re.match(r"([\w-]+)(.*)", line).groups()
        if name in DISTRIBUTIONS:
            assert specifier == wanted


def test_the_changelog_keeps_its_format():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    for release in releases[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release)
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]


@pytest.mark.parametrize("folder", DISTRIBUTIONS.values())
def test_every_package_is_typed_licensed_and_introduced(folder):
    package = ROOT / "packages" / folder
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (package / "README.md").stat().st_size > 300
    markers = list(package.glob("src/**/py.typed"))
    modules = {path.parent for path in package.glob("src/**/__init__.py")}
    tops = {m for m in modules if m.parent not in modules}
    assert {marker.parent for marker in markers} == tops


@pytest.fixture(params=DISTRIBUTIONS)
def settings(request):
    tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11")
    path = ROOT / "packages" / DISTRIBUTIONS[request.param] / "pyproject.toml"
    return tomllib.loads(path.read_text())


@pytest.fixture
def project(settings):
    return settings["project"]


def test_the_metadata_of_every_package_is_complete(project):
    assert project["authors"] == [{"name": "The Quernstone developers"}]
    assert len(project["keywords"]) >= 5
    assert {"Typing :: Typed", "Intended Audience :: Developers"} <= {*project["classifiers"]}
    # a licence is named by its SPDX expression, which excludes a classifier
    assert project["license"] == "Apache-2.0"
    assert not [name for name in project["classifiers"] if name.startswith("License")]
    assert project["urls"]
    assert all(url.startswith("https://") for url in project["urls"].values())


def test_the_extras_of_every_package(project):
    extras = project["optional-dependencies"]
    engines = ("torch", "transformers", "sentence-transformers", "vllm")
    assert {*engines} <= extras.keys()
    if project["name"] != "quernstone":
        assert {name: extras[name] for name in engines} == {
            name: [f"quernstone[{name}]"] for name in engines
        }
    assert ("testing" in extras) == (project["name"] != "quernstone-qdrant")
    is_adapter = project["name"] in ("langchain-quernstone", "llama-index-quernstone")
    assert ("qdrant" in extras) == is_adapter


def test_the_public_names_are_sorted_and_exist():
    assert list(quernstone.__all__) == sorted(quernstone.__all__)
    for name in quernstone.__all__:
        assert hasattr(quernstone, name)


def test_importing_quernstone_imports_no_engine():
    code = "import quernstone, sys; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub", "pyarrow"}
    result = subprocess.run(
        [sys.executable, "-c", code.replace("{heavy}", repr(heavy))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(result.stdout) == []
