"""`python -m quernstone.testing FOLDER PAGE`: write the capabilities table into a page."""

from __future__ import annotations

import sys
from pathlib import Path

from quernstone.testing.capabilities import read, render, replaced


def main(folder: str, page: str) -> None:
    """Replace the table of `page` by one of the results in `folder`."""
    path = Path(page)
    path.write_text(replaced(path.read_text(), render(read(Path(folder)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
