"""Find the hits of searches in a collection that may be replaced while it is searched."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial

from quernstone.types import Float32Array
from quernstone_qdrant.checks.fields import missing_fields
from quernstone_qdrant.embedder_choice import EmbedderChoice
from quernstone_qdrant.errors import TargetError, TransientError
from quernstone_qdrant.opened import OpenedCollection
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import Question, Reading
from quernstone_qdrant.searching.plan import Search
from quernstone_qdrant.searching.vectors import embed
from quernstone_qdrant.targets import Target
from quernstone_qdrant.targets.requests import Feature

_SECONDS_BETWEEN_CHECKS = 1.0
MAX_SEARCHES = 5
"""Maximum number of attempts, if the collection is replaced during each of them."""


class Finder:
    """The collection that a name stands for, for searches by vectors.

    Args:
        named: The collection by the name that the user gave, which may be an alias.
        embedders: The embedders to choose from.
        allow_mismatch: Search a collection of another model.
        retry: How long failed requests are retried.
        reading: Which replicas answer, and until when.

    Raises:
        ConfigError: The target does not support `reading`.
        CollectionNotFoundError: The collection does not exist.
        ProvenanceError: It was created with another model.
        CollectionError: It does not record its model.
    """

    def __init__(
        self,
        named: Target,
        embedders: EmbedderChoice,
        *,
        allow_mismatch: bool,
        retry: Retry,
        reading: Reading,
    ) -> None:
        self.named = named
        self._embedders = embedders
        self._allow_mismatch = allow_mismatch
        self._retry = retry
        self._reading = reading
        self._check(named, [])
        self._replacing = threading.Lock()
        self._warned: set[str] = set()
        """Fields that were already checked for a warning."""
        self.opened = self._read()
        """The collection as it was last read."""

    def _read(self) -> OpenedCollection:
        """Read the collection that the name stands for now, which may be an alias."""
        named, embedders, allow_mismatch = self.named, self._embedders, self._allow_mismatch
        return self._retry.call(
            lambda: OpenedCollection.read(named, embedders, allow_mismatch=allow_mismatch)
        )

    def reopened(self) -> OpenedCollection:
        """Read the collection again, and keep it for the next searches."""
        opened = self._read()
        with self._replacing:
            if opened.checked > self.opened.checked:  # another thread may have read it later
                self.opened = opened
        return opened

    def current(self) -> OpenedCollection:
        """Return the collection, after reading it again if the last check is too old.

        An error leaves `opened` as it is, so a refused collection is refused again.
        """
        opened = self.opened
        is_server = self.named.kind == "server"  # the only one with aliases and limits
        if is_server and time.monotonic() - opened.checked > _SECONDS_BETWEEN_CHECKS:
            return self.reopened()
        return opened

    def plan(self, opened: OpenedCollection, questions: Sequence[Question]) -> list[Search]:
        """Check the arguments, and return one search per question.

        Raises:
            ConfigError: An argument is out of range, or the target or the collection does not
                support an option.
        """
        self._check(opened.target, questions[0].features)  # equal in all of them
        return [opened.plan(question) for question in questions]

    def _check(self, target: Target, features: Sequence[Feature]) -> None:
        wanted = [*self._reading.features, *features]
        self._retry.call(partial(target.check_features, wanted))

    def find(
        self,
        opened: OpenedCollection,
        questions: Sequence[Question],
        vectors: Sequence[Float32Array],
    ) -> tuple[OpenedCollection, Sequence[Float32Array], list[list[SearchHit]]]:
        """Search, and repeat it if the collection was replaced or its limits changed meanwhile.

        Returns:
            The collection that was searched, the vectors that were used, and the hits of each
            question.

        Raises:
            TransientError: Qdrant failed temporarily, or the collection was replaced each time.
            TargetError: Qdrant failed.
            ProvenanceError: The new collection needs another embedder, and a vector was given.
        """
        for _ in range(MAX_SEARCHES):
            opened, vectors, found = self.find_once(opened, questions, vectors)
            if found is not None:
                return opened, vectors, found
        raise self.replaced_repeatedly()

    def find_once(
        self,
        opened: OpenedCollection,
        questions: Sequence[Question],
        vectors: Sequence[Float32Array],
    ) -> tuple[OpenedCollection, Sequence[Float32Array], list[list[SearchHit]] | None]:
        """Search once; see `find`.

        The hits are valid if the collection has the same identity after the search: it cannot have
        been replaced in between. Identities are random. Only a rollback in Edge restores an old
        one, and then `close_count` has changed.

        Returns:
            As for `find`. If the collection was replaced, or its limits changed: the collection and
            the vectors for the next attempt, and None.
        """
        searches = self.plan(opened, questions)
        found: list[list[SearchHit]] = []
        failure: TargetError | None = None
        try:
            found = self._retry.call(partial(opened.find, searches, vectors, self._reading))
            if self._retry.call(partial(opened.is_current, self.named)):
                self._warn_of_missing(opened, questions[0], found)
                return opened, vectors, found
        except TransientError:
            raise
        except TargetError as error:
            failure = error
        now = self.reopened()
        if now.identity == opened.identity:
            # The same searches would fail again; with new limits, others may succeed.
            if failure is not None and self.plan(now, questions) == searches:
                raise failure
            if failure is None and now.provenance == opened.provenance:
                return opened, vectors, found
        if now.embedder is not opened.embedder:
            if not questions[0].embedded:  # a given vector cannot be computed again
                name = self.named.collection
                now.provenance.check(Provenance.of(opened.embedder, name), name)
            vectors = embed(now.embedder, questions)
        return now, vectors, None

    def replaced_repeatedly(self) -> TransientError:
        """Return the error for a collection that was replaced during each search."""
        return TransientError(
            f"collection {self.named.collection!r} was replaced during each of {MAX_SEARCHES} "
            "searches"
        )

    def _warn_of_missing(
        self, opened: OpenedCollection, question: Question, found: Sequence[Sequence[SearchHit]]
    ) -> None:
        """Warn, once per field, of fields in the options that no document has."""
        wanted = question.boosted_fields if all(found) else question.fields
        names = [name for name in wanted if name not in self._warned]
        self._warned.update(names)
        for name in missing_fields(opened.target, names, opened.provenance.settings.payloads):
            warnings.warn(
                f"no document of collection {self.named.collection!r} has the field {name!r} of "
                "the search: check its spelling",
                stacklevel=6,
            )
