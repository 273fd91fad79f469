"""The examples in docstrings are run, too."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
MODULES = sorted(
    ".".join(path.relative_to(source).with_suffix("").parts)
    for source in PACKAGES.glob("*/src")
    for path in source.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
