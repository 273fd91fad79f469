"""The (query, document, instruction) triples of a rerank call, created one by one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import accumulate
from typing import cast

import numpy as np

from quernstone.errors import (
    EngineError,
    EngineMemoryError,
    InputError,
    InputTooLongError,
    NonFiniteError,
    QuernstoneError,
    RemoteError,
)
from quernstone.types import Float32Array

InstructedPair = tuple[str, str, str]
"""A query, a document and an instruction."""


class QueryPairs:
    """Iterable of one `InstructedPair` for each document of each query, query by query."""

    def __init__(
        self,
        queries: Sequence[str],
        documents: Sequence[str] | Sequence[Iterable[str]],
        instructions: Sequence[str],
    ) -> None:
        """Match queries with documents and instructions.

        Args:
            queries: The queries.
            documents: One list of documents for all queries, or one list for each.
            instructions: One instruction for each query.

        Raises:
            InputError: `documents` does not match `queries`; the index is that of the wrong entry
                of `documents`, or of the query without a list.
        """
        self._queries = queries
        self._documents = _lists(queries, documents)
        self._instructions = instructions
        self._ends = list(accumulate(map(len, self._documents)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[InstructedPair]:
        rows = zip(self._queries, self._documents, self._instructions, strict=True)
        for query, documents, instruction in rows:
            for document in documents:
                yield query, document, instruction

    def by_query(self, scores: Float32Array) -> list[Float32Array]:
        """Split the scores of all pairs into those of each query."""
        return np.split(scores, self._ends)[:-1]

    @contextmanager
    def naming_documents(self) -> Iterator[None]:
        """Convert the index in errors, which counts pairs, to a query and its document."""
        try:
            yield
        except (InputError, EngineError) as error:
            index = getattr(error, "index", None)
            if index is None:
                raise
            query = bisect_right(self._ends, index)
            document = index - (self._ends[query - 1] if query else 0)
            raise _of_document(error, query, document) from error


def _lists(
    queries: Sequence[str], documents: Sequence[str] | Sequence[Iterable[str]]
) -> Sequence[Sequence[str]]:
    """Return the documents of each query."""
    lists = [
        # A sequence is not copied, because it may create its documents only when they are read.
        entry if isinstance(entry, Sequence) else list(entry)
        for entry in documents
        if _is_list(entry)
    ]
    if not lists:
        return [cast("Sequence[str]", documents)] * len(queries)
    if len(lists) != len(documents):
        wrong = [_is_list(entry) for entry in documents].index(not _is_list(documents[0]))
        raise InputError(
            wrong,
            "`documents` mixes lists with something else; pass one list of strings for all "
            "queries, or one list of strings for each",
        )
    if len(lists) != len(queries):
        reason = (
            f"there are {len(queries)} queries and {len(lists)} lists of documents; pass one list "
            "for each query"
        )
        raise InputError(min(len(lists), len(queries)), reason)
    return lists


def _is_list(entry: object) -> bool:
    return isinstance(entry, Iterable) and not isinstance(entry, str | bytes | Mapping | Set)


def _of_document(error: QuernstoneError, query: int, document: int) -> QuernstoneError:
    """Return the error with the index of a query, naming the document in its text."""
    where = f"document {document}"
    match error:
        case InputTooLongError(what="the text"):
            return InputTooLongError(query, error.tokens, error.limit, where)
        case InputTooLongError():
            return error.at(query)
        case InputError():
            return InputError(query, f"{where}: {error.reason}")
        case NonFiniteError():
            return NonFiniteError(query, f"for {where}, {error.detail}")
        case EngineMemoryError():
            return EngineMemoryError(query, error.tokens, f"{where}: {error.detail}")
        case RemoteError():
            return type(error)(f"{error.reason} ({where})", error.url, error.status, query)
    return error
