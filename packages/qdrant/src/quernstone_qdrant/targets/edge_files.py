"""Files of the collections in a folder of Qdrant Edge."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

DESCRIPTION = "collection.json"
"""File with the settings and metadata of a collection."""


def edge_collections(path: str | Path) -> list[str]:
    """Return the sorted names of the collections in a folder, which may be missing."""
    found = Path(path).glob(f"*/{DESCRIPTION}")
    return sorted(unquote(description.parent.name) for description in found)


def folder_name(collection: str) -> str:
    """Return a name that is valid on every file system and cannot leave the parent folder."""
    return quote(collection, safe="").replace(".", "%2E")


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: a crash leaves either the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Sync a folder, so that a rename survives a power failure. Not needed on Windows."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
