"""The limits of a collection's strict mode, in its configuration and in the server's refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from qdrant_client import models

from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.targets.state import CollectionState, Limits

Refused = Literal["size", "content", "request"]
"""The cause of a refusal: the number of points or conditions of the request, the content of one of
its points, or the kind of request."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A setting of strict mode, and how a server refuses a request because of it."""

    setting: str
    refused: Refused
    message: re.Pattern[str]
    """Part of the server's message."""
    fix: str


def _rule(setting: str, refused: Refused, message: str, fix: str) -> Rule:
    return Rule(setting, refused, re.compile(message, re.IGNORECASE), fix)


_RAISE = "raise it"
_FULL = "the collection is full: raise it, or delete points"
_SMALLER = "send smaller requests, or raise it"
RULES = (
    _rule("max_query_limit", "size", r'for \\?"limit', "ask for fewer hits, or raise it"),
    _rule("max_timeout", "size", r'for \\?"timeout', "ask for a shorter timeout, or raise it"),
    _rule("upsert_max_batchsize", "size", r'for \\?"(upsert|update) limit', _SMALLER),
    _rule("search_max_batchsize", "size", r'for \\?"search batch size', _SMALLER),
    _rule("search_max_hnsw_ef", "size", r'for \\?"hnsw_ef', _RAISE),
    _rule("search_max_oversampling", "size", r'for \\?"oversampling', _RAISE),
    _rule("condition_max_size", "size", "condition size limit reached", _SMALLER),
    _rule("write_rate_limit", "size", "write rate limit .* rate limiter capacity", _SMALLER),
    _rule("read_rate_limit", "size", "larger than rate limiter capacity", _SMALLER),
    _rule("search_allow_exact", "size", "exact search disabled", "allow it"),
    _rule(
        "search_allow_exact",
        "request",
        "request is forbidden.* indexing is disabled",
        "allow it: this search ranks by vectors without a graph, such as the full vectors of a "
        "pair in a hybrid search or with a boost, or while a load defers the index by `m0`",
    ),
    _rule(
        "unindexed_filtering_retrieve",
        "request",
        r"index required but not found|index of type .* found for",
        "index the field (`quern load --index` or `CollectionSettings`), or allow it (for updates: "
        "`unindexed_filtering_update`)",
    ),
    _rule("filter_max_conditions", "request", "filter condition limit", "use fewer, or raise it"),
    _rule(
        "max_payload_index_count",
        "request",
        "maximum number of payload indices",
        "raise it, or delete an index",
    ),
    _rule("max_points_count", "request", "points count limit of", _FULL),
    _rule("max_collection_vector_size_bytes", "request", "vector storage size limit of", _FULL),
    _rule("max_collection_payload_size_bytes", "request", "payload storage size limit of", _FULL),
    _rule("max_resident_memory_percent", "request", "resident memory usage is at", _RAISE),
    _rule("sparse_config", "content", r"sparse vector .* has a limit of", "split it, or raise it"),
    _rule("multivector_config", "content", "multivector .* has a limit of", _RAISE),
)
"""All settings but `enabled`; the messages about unindexed filters do not say which one it is."""
_HELP = re.compile(r"Bad request: .*\. Help: ")
"""The form of all refusals by strict mode, also those that this version does not know."""


def refused_by(message: str) -> tuple[Refused, str] | None:
    """Recognize a refusal by strict mode.

    Args:
        message: The server's message.

    Returns:
        What is at fault, and the setting and the fix in words; None for another error.
    """
    for rule in RULES:
        if rule.message.search(message):
            return rule.refused, f"`{rule.setting}` of the collection's strict mode: {rule.fix}"
    if _HELP.search(message):
        return "request", "a limit of the collection's strict mode: raise it"
    return None


def needs_index(message: str) -> bool:
    """Return True if a server refused a filter because a payload index is missing."""
    return "index required but not found" in message.lower()


def limits(strict: models.StrictModeConfigOutput | None) -> Limits:
    """Return the limits that requests are fitted to."""
    if strict is None or not strict.enabled:
        return Limits()
    return Limits(
        upsert=strict.upsert_max_batchsize,
        query=strict.max_query_limit,
        read_rate=strict.read_rate_limit,
        write_rate=strict.write_rate_limit,
        oversampling=strict.search_max_oversampling,
        searches=strict.search_max_batchsize,
        condition=strict.condition_max_size,
        indexes=strict.max_payload_index_count,
    )


def check_new_indexes(collection: str, state: CollectionState, paths: list[str]) -> None:
    """Raise a `CollectionError` if strict mode does not allow so many payload indexes more."""
    held, most = len(state.payload_indexes), state.limits.indexes
    if paths and most is not None and held + len(paths) > most:
        raise CollectionError(
            collection,
            f"it has {held} payload indexes and needs {len(paths)} more ({', '.join(paths)}), but "
            f"`max_payload_index_count` of its strict mode is {most}: raise it, or delete an index",
        )
