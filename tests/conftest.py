"""Fixtures of all packages. Nothing here or in any test reaches a network."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import pytest
import torch
from tests.support.checkpoints import Layout, random_checkpoint

import quernstone

pytest.register_assert_rewrite("quernstone.testing")
pytest_plugins = ["pytester", "quernstone.testing.capabilities"]

Checkpoints = Callable[..., Path]
EVALUATION = "tests/core/evaluation"
TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"

_NEEDS = {
    "core/evaluation": ["mteb", "gensim"],  # from Python 3.11, and before 3.14
    "core/serve/test_schema.py": ["schemathesis"],  # from Python 3.11
}
collect_ignore = [path for path, names in _NEEDS.items() if not all(map(find_spec, names))]


def pytest_report_header() -> list[str]:
    """Say what cannot be collected on this Python."""
    return [f"not collected: {path} needs {' and '.join(_NEEDS[path])}" for path in collect_ignore]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Makes a small random checkpoint of an official layout, once for each set of arguments.

    With `small_vocabulary`, it has the tokenizer of the tiny models, and opens many times as fast.
    """
    root = tmp_path_factory.mktemp("checkpoints")

    def make(
        layout: Layout,
        *,
        layers: int = 2,
        width: int = 8,
        dtype=torch.float32,
        small_vocabulary: bool = False,
    ) -> Path:
        name = f"{layout}-{layers}-{width}-{dtype}".replace("torch.", "")
        tokenizer = None
        if small_vocabulary:
            name += "-small"
            tokenizer = TINY / ("reranker" if layout.startswith("reranker") else "embedding")
        shape = {"layers": layers, "width": width, "dtype": dtype}
        return random_checkpoint(root / name, layout, **shape, tokenizer=tokenizer)

    return make


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process of `pytest -n`, so that they share loaded models.

    The table of capabilities is compared with what the contract suites of its folder found. The
    tests of the evaluation share a run of all tasks.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, name = nodeid.partition("::")[0].rpartition("/")
            shared = name in ("test_contract.py", "test_table.py")
            return folder if shared or folder == EVALUATION else f"{folder}/{name}"

    return ByFile(config, log)
