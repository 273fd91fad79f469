"""Detect that a collection was replaced, or migrated in place, since it was opened."""

from __future__ import annotations

import time
from contextlib import suppress

from quernstone_qdrant.errors import (
    CollectionNotFoundError,
    CollectionReplacedError,
    RecordError,
    TargetError,
    TransientError,
)
from quernstone_qdrant.provenance import METADATA_PATIENCE, Provenance
from quernstone_qdrant.targets import Target


def check_unchanged(named: Target, pinned: Target, provenance: Provenance | None) -> None:
    """Raise an error if a name no longer leads to the collection that was opened.

    Args:
        named: The collection by the name that the user gave, which may be an alias.
        pinned: The collection that was opened.
        provenance: Its provenance at that time; None if another program created it.

    Raises:
        CollectionReplacedError: The collection was deleted or created again, or the alias leads to
            another collection.
        TargetError: The collection cannot be read.
    """
    now = named.pinned().collection
    if now != pinned.collection:
        change = f"the alias was switched from {pinned.collection!r} to {now!r}"
        if now == named.collection:  # a server deletes the aliases of a deleted collection
            change = f"the alias was deleted, perhaps with its collection {pinned.collection!r}"
        raise CollectionReplacedError(named.collection, change)
    if provenance is not None:
        check_identity(pinned, provenance)


def check_identity(pinned: Target, provenance: Provenance) -> None:
    """Raise an error if a collection was replaced or migrated in place since it was opened.

    Args:
        pinned: The collection.
        provenance: Its provenance when it was opened.

    Raises:
        CollectionReplacedError: It was deleted, replaced, or migrated in place.
        TargetError: The collection cannot be read.
    """
    deadline = time.monotonic() + METADATA_PATIENCE
    while True:
        identities: frozenset[str] = frozenset()
        now = None
        with suppress(CollectionNotFoundError):
            state = pinned.state()
            identities, now = state.identities, Provenance.read(state)
        if provenance.identity in identities or not provenance.identity:
            return
        if identities:
            raise CollectionReplacedError(pinned.collection, _change(provenance, now))
        if time.monotonic() > deadline:
            raise CollectionReplacedError(
                pinned.collection, "it was deleted, or another program replaced it"
            )
        time.sleep(METADATA_PATIENCE / 100)


def raise_if_replaced(
    error: TargetError | RecordError, named: Target, pinned: Target, provenance: Provenance
) -> None:
    """Raise `CollectionReplacedError` if a request failed because the collection was replaced.

    Returns if it was not. A temporary error has another reason, so nothing is requested for it.

    Raises:
        CollectionReplacedError: See `check_unchanged`. Its cause is `error`.
    """
    if isinstance(error, TransientError) or isinstance(error.__cause__, TransientError):
        return
    try:
        check_unchanged(named, pinned, provenance)
    except CollectionReplacedError as replaced:
        raise replaced from error
    except TargetError:
        return  # must not hide `error`


def _change(before: Provenance, now: Provenance | None) -> str:
    if (
        now is None
        or now.fingerprint != before.fingerprint
        or now.settings.vector == before.settings.vector
    ):
        return "it was deleted and created again"
    return (
        f"it was migrated in place from {before.model!r} ({before.dimensions} dimensions) to "
        f"{now.model!r} ({now.dimensions} dimensions)"
    )
