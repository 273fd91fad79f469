"""The sizes of a collection's chunks, which its first load decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone_qdrant.retry import Retry
    from quernstone_qdrant.targets import Target

KEY = "quernstone_load_options"
"""Key of the collection's metadata under which the options of its loads are recorded."""
_SIZE = 1200

ChunkSize: TypeAlias = "int | Literal['auto'] | None"
"""Maximum number of characters per chunk; `auto`: as recorded, or 1,200; None: whole texts."""


def chosen_sizes(
    collection: str, recorded: Mapping[str, Any], size: ChunkSize, overlap: int | None
) -> tuple[int | None, int | None]:
    """Return the maximum length of a chunk and the overlap, recorded or given.

    Args:
        collection: Name of the collection, for the message.
        recorded: The options in its metadata, which may be empty.
        size: The requested size.
        overlap: The requested overlap; None: as recorded, or a tenth of the size.

    Returns:
        The size, or None for whole texts; the overlap, or None for a tenth of the size.

    Raises:
        ConfigError: Another size or overlap is recorded.
    """
    if "chunk_size" not in recorded:
        return (_SIZE if size == "auto" else size), overlap
    known = recorded["chunk_size"] or None
    if size not in ("auto", known):
        _refuse(collection, "chunk_size", known, size)
    tenth = (known or 0) // 10
    before = recorded.get("chunk_overlap")
    before = tenth if before is None else before
    if overlap not in (None, before):
        _refuse(collection, "chunk_overlap", before, overlap)
    return known, None if before == tenth else before


def record_sizes(
    target: Target,
    size: ChunkSize,
    overlap: int | None,
    retry: Retry,
    note: Callable[[str], None],
) -> tuple[int | None, int | None]:
    """Return what `chosen_sizes` does, after recording what is requested, if nothing is recorded.

    Args:
        target: The collection, which exists.
        size: See `chosen_sizes`.
        overlap: See `chosen_sizes`.
        retry: Policy for failed requests.
        note: Called if stored documents may have other chunks.

    Raises:
        ConfigError: Another size or overlap is recorded.
        TargetError: Qdrant failed.
    """
    state = retry.call(target.state)
    recorded = state.metadata.get(KEY) or {}
    chosen = chosen_sizes(target.collection, recorded, size, overlap)
    if "chunk_size" not in recorded and (size, overlap) != ("auto", None):
        sizes = {"chunk_size": chosen[0] or 0, "chunk_overlap": chosen[1]}
        retry.call(lambda: target.describe({KEY: {**recorded, **sizes}}))
        if state.points:
            note(
                f"the chunks of this collection now have {_limit(chosen[0])}; "
                "documents that were loaded with other chunks are embedded again when "
                "they are loaded"
            )
    return chosen


def _refuse(collection: str, name: str, known: int | None, given: object) -> None:
    raise ConfigError(
        f"collection {collection!r} was loaded with {_named(name, known)}, but this load requests "
        f"{_named(name, given)}: leave it out, or load into another collection"
    )


def _named(name: str, value: object) -> str:
    return "whole texts" if value is None else f"`{name}={value}`"


def _limit(size: int | None) -> str:
    return "no limit" if size is None else f"at most {size:,} characters"
