"""The pages for other documentation: their code runs, with the bundled models in memory."""

import re
from pathlib import Path

import pytest

LISTINGS = Path(__file__).parents[2] / "docs" / "listings"
PAGES = sorted([*LISTINGS.rglob("*.mdx"), *LISTINGS.rglob("frameworks/*.md")])
LOCAL = {
    '"Qwen/Qwen3-Embedding-0.6B"': '"tiny"',
    '"Qwen/Qwen3-Reranker-0.6B"': '"tiny"',
    '"http://localhost:6333"': '":memory:"',
}


def test_there_are_pages_for_langchain_and_qdrant():
    assert [page.name for page in PAGES].count("quernstone.mdx") == 2
    assert len(PAGES) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(LISTINGS)))
def test_the_code_of_a_page_runs(page, capsys):
    text = page.read_text()
    assert re.match(r"---\ntitle: .+\n", text)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for name, local in LOCAL.items():
        code = code.replace(name, local)
    assert "Qwen/" not in code
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if "print(" in code:
        assert "A quern is a hand mill" in printed


def test_the_instructions_name_files_that_exist():
    copied = re.findall(r"Copy `([^`]+)`", (LISTINGS / "README.md").read_text())
    assert len(copied) == 3
    for path in copied:
        assert (LISTINGS / path).exists() or (LISTINGS.parents[1] / path).exists()
