"""The notebooks run from top to bottom, and are stored without outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
EXPECTED = {
    "langchain": lambda names: (
        "image editor" in names["best"][0].page_content and "plays video" in names["answer"]
    ),
    "llamaindex": lambda names: (
        "image editor" in names["best"][0].text and "plays video" in names["answer"]
    ),
    "qdrant": lambda names: (
        names["report"].embedded == 1 and "image editor" in names["hits"][0].text
    ),
}


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    names = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{path}:cell {number}", "exec"), names)
    assert EXPECTED[name](names)
