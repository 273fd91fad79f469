"""The four packages as a workspace: versions, typing markers, licences, lazy imports."""

import ast
import importlib.metadata
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


@pytest.mark.parametrize("folder", DISTRIBUTIONS.values())
def test_every_package_is_typed_licensed_and_introduced(folder):
    package = ROOT / "packages" / folder
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (package / "README.md").stat().st_size > 300
    markers = list(package.glob("src/**/py.typed"))
    modules = {path.parent for path in package.glob("src/**/__init__.py")}
    tops = {m for m in modules if m.parent not in modules}
    assert {marker.parent for marker in markers} == tops


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
