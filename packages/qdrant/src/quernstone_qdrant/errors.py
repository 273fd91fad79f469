"""Exceptions of this package.

    QuernstoneError
    |-- SourceError (ValueError)           a file or one row of it; `.path`, `.row`
    |-- RecordError (ValueError)           one record; `.key`
    `-- TargetError (RuntimeError)         Qdrant failed
        |-- TransientError                 the same request may succeed later; `.delay`
        |   `-- ReplicaError               not every replica answered
        |-- TooLargeError                  a smaller request may succeed
        |-- LimitError                     the collection limits such requests: send less
        |-- RefusedError                   the content is refused; a part of it may be accepted
        |-- WriteError                     points that may not be written; `.ids`
        `-- CollectionError                one collection; `.collection`
            |-- CollectionNotFoundError (LookupError)   `.available` lists existing ones
            |-- CollectionReplacedError    it was deleted or replaced while in use
            `-- ProvenanceError            it has another model; `.recorded`, `.wanted`

All of them pickle: `args` equals the positional arguments of the constructor.
"""

from __future__ import annotations

from collections.abc import Sequence

from quernstone.errors import QuernstoneError
from quernstone.errors import SourceError as SourceError  # the readers of core raise it

_SHOWN = 3


class RecordError(QuernstoneError, ValueError):
    """One record cannot be loaded. `.key` is its key, or its position where it has none."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"record {self.key!r}: {self.reason}"


class TargetError(QuernstoneError, RuntimeError):
    """Qdrant cannot be reached, refused a request, or did not finish it."""


class TransientError(TargetError):
    """A request failed but may succeed later. Writes are idempotent, so any request may be retried.

    `.delay` is the number of seconds that the server asked to wait; None if it did not ask.
    """

    def __init__(self, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.args = (message, delay)
        self.message, self.delay = message, delay

    def __str__(self) -> str:
        return self.message


class ReplicaError(TransientError):
    """Points could not be read from every replica; one of them may still answer."""


class TooLargeError(TargetError):
    """The server refused a request because of its size."""


class LimitError(TargetError):
    """The request exceeds a limit of the collection: of its strict mode, or of a rate limiter.

    The limit may have changed since `CollectionState.limits` was read.
    """


class RefusedError(TargetError):
    """The server or its client refused the content of a request.

    The same content will be refused again. If it holds several points, one of them may be at fault.
    """


class WriteError(TargetError):
    """Points were not written, or their write was not confirmed. `.ids` lists the ones to retry."""

    def __init__(self, reason: str, ids: Sequence[str]) -> None:
        super().__init__(reason, ids)
        self.reason, self.ids = reason, ids

    def __str__(self) -> str:
        shown = ", ".join(self.ids[:_SHOWN])
        more = f" and {len(self.ids) - _SHOWN} more" if len(self.ids) > _SHOWN else ""
        return f"{self.reason} (points {shown}{more})"


class CollectionError(TargetError):
    """A collection cannot be used as requested."""

    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(collection, reason)
        self.collection, self.reason = collection, reason

    def __str__(self) -> str:
        return f"collection {self.collection!r}: {self.reason}"


class CollectionNotFoundError(CollectionError, LookupError):
    """The collection does not exist. `.available` lists the names of existing ones."""

    def __init__(self, collection: str, available: Sequence[str]) -> None:
        super().__init__(collection, "not found")
        self.args = (collection, available)
        self.available = available

    def __str__(self) -> str:
        others = (
            "available: " + ", ".join(repr(name) for name in self.available)
            if self.available
            else "no collection exists; load documents first"
        )
        return f"collection {self.collection!r} does not exist ({others})"


class CollectionReplacedError(CollectionError):
    """While in use, a collection was deleted or created again, or its alias was switched.

    What was written before may be missing: run the load again, or open the searcher again.
    """

    def __str__(self) -> str:
        return (
            f"collection {self.collection!r}: {self.reason} while it was in use, so points may be "
            "missing; open it and load again"
        )


class ProvenanceError(CollectionError):
    """The collection was loaded with another model or other settings."""

    def __init__(self, collection: str, what: str, recorded: object, wanted: object) -> None:
        super().__init__(collection, what)
        self.args = (collection, what, recorded, wanted)
        self.what, self.recorded, self.wanted = what, recorded, wanted

    def __str__(self) -> str:
        return (
            f"collection {self.collection!r} was created with {self.what} {self.recorded!r}, "
            f"but the embedder has {self.wanted!r}; use an embedder with the same {self.what}, "
            "or another collection"
        )
