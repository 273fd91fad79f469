from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def import_examples(monkeypatch):
    """Examples import their neighbours the way a script does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
