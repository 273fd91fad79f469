"""Limits of requests: strict mode, rate limits, sizes and nesting."""

import math
import re
import threading
import time
from itertools import accumulate
from typing import Any

from qdrant_client import models
from tests.support.qdrant_server.calls import Call, Refusal, Upsert

REST_DEPTH = 127
"""Levels of objects and arrays that the JSON parser accepts, counted from the body itself.

gRPC refuses more than 100 nested messages, about 30 levels of a payload; protobuf checks it.
"""

_BETWEEN_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^][{}"]+', re.DOTALL)


class RateLimiter:
    """A bucket of tokens that refills within a minute; the price of a request is in points."""

    def __init__(self, per_minute: int):
        self.per_minute, self.tokens = per_minute, float(per_minute)
        self._filled, self._lock = time.monotonic(), threading.Lock()

    def take(self, price: int, kind: str) -> None:
        """Take tokens.

        Raises:
            Refusal: With status 429: there are too few.
        """
        what = f"Rate limiting exceeded: {kind} rate limit exceeded"
        if price > self.per_minute:
            raise Refusal(
                429,
                f"{what}, request larger than rate limiter capacity, please try to split your "
                "request",
            )
        with self._lock:
            now = time.monotonic()
            refill = (now - self._filled) * self.per_minute / 60
            self.tokens, self._filled = min(self.per_minute, self.tokens + refill), now
            if price <= self.tokens:
                self.tokens -= price
                return
            wait = math.ceil((price - self.tokens) * 60 / self.per_minute)
        raise Refusal(
            429,
            f"{what}: Operation requires {price} tokens but only {self.tokens:.1f} were "
            f"available. Retry after {wait}s",
            str(wait),
        )


class Limits:
    """The strict mode of one collection."""

    def __init__(self):
        self._limiters: dict[str, RateLimiter] = {}

    def check(self, call: Call, strict: dict[str, Any], schema: dict[str, Any], held: int) -> None:
        """Check one request.

        Args:
            call: The request.
            strict: Strict mode settings.
            schema: The indexes of the collection's payload, by field.
            held: Points in the collection.

        Raises:
            Refusal: It exceeds a limit.
        """
        if not strict.get("enabled", True):
            return
        body, kind = call.body, call.operation.kind
        _at_most(strict, "max_timeout", int(call.params.get("timeout", 0)), "timeout")
        if kind in ("read", "write"):
            self._check_rate(strict, kind, _price(call))
        if isinstance(body, Upsert):
            _at_most(strict, "upsert_max_batchsize", len(body.points), "upsert limit")
            _at_most(strict, "max_points_count", held + len(body.points), "points count")
        if isinstance(body, models.QueryRequestBatch):
            _at_most(strict, "search_max_batchsize", len(body.searches), "search batch size")
        for stage in _stages(body):
            _check_search(strict, stage)
            retrieves = kind == "read"
            allowed = "unindexed_filtering_retrieve" if retrieves else "unindexed_filtering_update"
            conditions = list(_conditions(getattr(stage, "filter", None)))
            _at_most(strict, "filter_max_conditions", len(conditions), "filter conditions")
            for condition in conditions:
                _check_condition(strict, condition, schema, strict.get(allowed) is False)

    def _check_rate(self, strict: dict[str, Any], kind: str, price: int) -> None:
        limit = strict.get(f"{kind}_rate_limit")
        if limit is None:
            return
        limiter = self._limiters.get(kind)
        if limiter is None or limiter.per_minute != limit:
            limiter = self._limiters[kind] = RateLimiter(limit)
        limiter.take(price, kind.title())


def check_depth(body: bytes) -> None:
    """Refuse a JSON body that nests too deeply."""
    brackets = _BETWEEN_BRACKETS.sub(b"", body)
    levels = accumulate(1 if bracket in b"{[" else -1 for bracket in brackets)
    if max(levels, default=0) > REST_DEPTH:
        raise Refusal(400, "Format error in JSON body: recursion limit exceeded at line 1")


def _stages(body: Any) -> list[Any]:
    """Return the parts of a request that select points: itself, its prefetches, a batch's parts."""
    if isinstance(body, models.QueryRequestBatch):
        return [stage for search in body.searches for stage in _stages(search)]
    prefetches = getattr(body, "prefetch", None) or []
    if not isinstance(prefetches, list):
        prefetches = [prefetches]
    return [body, *(stage for prefetch in prefetches for stage in _stages(prefetch))]


def _price(call: Call) -> int:
    body = call.body
    if isinstance(body, Upsert):
        return len(body.points)
    if call.points:
        return call.points
    return len(_stages(body)) + sum(
        len(list(_conditions(getattr(stage, "filter", None)))) for stage in _stages(body)
    )


def _check_search(strict: dict[str, Any], stage: Any) -> None:
    _at_most(strict, "max_query_limit", getattr(stage, "limit", None) or 0, "limit")
    params = getattr(stage, "params", None)
    exact = getattr(stage, "exact", False) or (params is not None and params.exact)
    if exact and strict.get("search_allow_exact") is False:
        raise Refusal(400, "Bad request: Exact search disabled!. Help: Set exact=false.")
    if params is not None:
        _at_most(strict, "search_max_hnsw_ef", params.hnsw_ef or 0, "hnsw_ef")
        quantization = params.quantization
        oversampling = (quantization and quantization.oversampling) or 0
        _at_most(strict, "search_max_oversampling", oversampling, "oversampling")


def _check_condition(
    strict: dict[str, Any], condition: models.FieldCondition, schema: dict[str, Any], indexed: bool
) -> None:
    listed = getattr(condition.match, "any", None) or getattr(condition.match, "except_", None)
    _at_most(strict, "condition_max_size", len(listed or ()), "condition size")
    if indexed and condition.key not in schema:
        raise Refusal(
            400,
            f'Bad request: Index required but not found for "{condition.key}" of one of the '
            f"following types: [{', '.join(_index_types(condition, listed))}]. Help: Create an "
            "index for this key or use a different filter.",
        )


def _index_types(condition: models.FieldCondition, listed: Any) -> list[str]:
    if condition.match is None:
        return ["integer", "float"]
    if isinstance(condition.match, models.MatchText):
        return ["text"]
    value = listed[0] if listed else getattr(condition.match, "value", None)
    return {bool: ["bool"], int: ["integer"]}.get(type(value), ["keyword", "uuid"])


def _conditions(where: models.Filter | None) -> Any:
    """Yield the conditions on fields of a filter and of the filters in it."""
    for group in ("must", "should", "must_not", "min_should"):
        part = getattr(where, group, None) or []
        part = getattr(part, "conditions", part)
        for condition in part if isinstance(part, list) else [part]:
            if isinstance(condition, models.Filter):
                yield from _conditions(condition)
            elif isinstance(condition, models.NestedCondition):
                yield from _conditions(condition.nested.filter)
            elif isinstance(condition, models.FieldCondition):
                yield condition


def _at_most(strict: dict[str, Any], setting: str, value: float, name: str) -> None:
    limit = strict.get(setting)
    if limit is not None and value > limit:
        raise Refusal(
            400,
            f'Bad request: Limit exceeded {value:g} > {limit:g} for "{name}". Help: Reduce the '
            f'"{name}" parameter to or below {limit:g}.',
        )
