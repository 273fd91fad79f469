"""Programs in the documentation."""

import re
from pathlib import Path

from tests.support.environments import ROOT

DOCS = ROOT / "docs"

TRANSLATED = {
    ROOT / "README.zh-CN.md": ROOT / "README.md",
    **{page: DOCS / page.name for page in sorted((DOCS / "zh").glob("*.md"))},
}
"""Chinese pages and their originals; `test_translations.py` compares them."""


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def write_program(page: str, folder: Path, name: str) -> None:
    """Write the first Python block of a page as a module."""
    code = re.search(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert code is not None, page
    (folder / f"{name}.py").write_text(code[1])
