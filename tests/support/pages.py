"""Programs in the documentation."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def write_program(page: str, folder: Path, name: str) -> None:
    """Write the first Python block of a page as a module."""
    code = re.search(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert code is not None, page
    (folder / f"{name}.py").write_text(code[1])
