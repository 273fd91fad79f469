"""Files of the collections in a folder of Qdrant Edge."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote

from quernstone.errors import ConfigError
from quernstone_qdrant.errors import TargetError

if TYPE_CHECKING:
    from quernstone_qdrant.targets.base import CollectionState

EDGE_RESERVE = 128 << 20
"""Bytes that must stay free: Edge extends its log, vectors and payloads by 32 MiB each."""
DESCRIPTION = "collection.json"
"""File with the settings and metadata of a collection."""


def edge_collections(path: str | Path) -> list[str]:
    """Return the sorted names of the collections in a folder, which may be missing."""
    found = Path(path).glob(f"*/{DESCRIPTION}")
    return sorted(unquote(description.parent.name) for description in found)


def refuse_folder_of(path: str | Path, kind: Literal["edge", "embedded"]) -> None:
    """Refuse a folder whose collections are all of the given kind.

    Raises:
        ConfigError: The folder holds collections of `kind`, and none of the other kind.
    """
    edge = next(Path(path).glob(f"*/{DESCRIPTION}"), None) is not None
    embedded = (Path(path) / "meta.json").is_file()
    if edge == embedded or edge != (kind == "edge"):
        return
    if edge:
        raise ConfigError(
            f"the folder {str(path)!r} belongs to Qdrant Edge, not to an embedded Qdrant: use "
            "`EdgeTarget` (`--edge`), or name another folder"
        )
    raise ConfigError(
        f"the folder {str(path)!r} belongs to an embedded Qdrant, not to Edge: use "
        "`QdrantClient(path=...)` (`--path`), or name another folder"
    )


def size_on_disk(path: str | Path) -> int:
    """Return the bytes that the files of a folder take on disk; sparse files take less.

    Files that disappear meanwhile count as 0.
    """
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(os.path.join(folder, name))
                total += getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
    return total


def check_room(path: Path, needed: int, work: str = "write") -> None:
    """Raise an error if the disk is nearly full.

    Edge maps its files into memory. Writing to a mapped page for which the disk has no room ends
    the process with SIGBUS, which Python cannot catch.

    Args:
        path: Folder of the collection.
        needed: Size of the content to write, in bytes.
        work: Verb for the error message.

    Raises:
        TargetError: Too little is free.
    """
    free, wanted = shutil.disk_usage(path).free, needed + EDGE_RESERVE
    if free < wanted:
        raise TargetError(
            f"the disk of {str(path)!r} is nearly full: {free / 1e6:,.0f} MB are free, and Edge "
            f"needs {wanted / 1e6:,.0f} MB to {work}; free some space and load again, which "
            "continues from here"
        )


def check_room_for_index(shard: Path, state: CollectionState) -> None:
    """Raise an error if points must be indexed and the disk cannot hold the segments twice.

    Args:
        shard: Folder of the shard.
        state: State of the collection.

    Raises:
        TargetError: Too little is free.
    """
    is_indexed = (state.indexed or 0) >= state.points * len(state.vectors)
    check_room(shard, 0 if is_indexed else size_on_disk(shard), "build the index")


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


def exchange_folders(one: Path, other: Path) -> None:
    """Swap the names of two folders: atomically on Linux, elsewhere in three steps.

    If the process is killed between these steps, `finish_exchange` completes them.
    """
    if not _exchange_at_once(one, other):
        aside = _aside(one, other)
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
    _sync_folder(one.parent)


def finish_exchange(one: Path) -> None:
    """Complete an exchange that was interrupted; `one` is the first of its two folders."""
    # `folder_name` leaves no dot in a name.
    for aside in one.parent.glob(f"{one.name}.*.aside"):
        other = one.with_name(aside.name.split(".")[1])
        if not one.exists():
            other.rename(one)
        aside.rename(other)


def _aside(one: Path, other: Path) -> Path:
    return other.with_name(f"{one.name}.{other.name}.aside")


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Exchange two names by Linux's `renameat2`; return False if the system does not have it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h>
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _sync_folder(path: Path) -> None:
    """Sync a folder, so that a rename survives a power failure. Not needed on Windows."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
