"""Strict mode: the requests that a collection refuses because of its settings.

Rules and messages are those of Qdrant's source (`lib/collection/src/operations/verification`); some
are recorded as well. The model differs from it in these ways: the condition of a conditional update
(`update_filter`) counts as the filter of an update, which the source does not show; the sizes of a
collection are exact, while a server estimates them; and multivectors have no limit.
"""

import json
from collections.abc import Iterator
from typing import Any

from qdrant_client import models
from tests.support.qdrant_server.calls import Call, Refusal, Upsert
from tests.support.qdrant_server.config import named_vectors
from tests.support.qdrant_server.limits import RateLimiter

_LIMIT, _GROUP_SIZE = 10, 3
"""Points of a request that names no number."""
_MATCHES = {
    "keyword": {"keyword"}, "integer": {"integer"}, "uuid": {"uuid"}, "bool": {"bool"},
    "float": {"float range"}, "datetime": {"datetime range"}, "text": {"text"}, "geo": {"geo"},
}  # fmt: skip
"""Conditions that an index of each type serves; `integer` serves ranges of floats as well."""


class StrictMode:
    """The limits of one collection, and what is left of its rates."""

    def __init__(self):
        self._limiters: dict[str, RateLimiter] = {}

    def check(self, call: Call, strict: dict[str, Any], collection: Any, memory: int) -> None:
        """Check one request.

        Args:
            call: The request.
            strict: Strict mode settings.
            collection: The collection.
            memory: Resident memory of the server in percent.

        Raises:
            Refusal: It exceeds a limit.
        """
        if not strict.get("enabled", True):
            return
        _at_most(strict, "max_timeout", int(call.params.get("timeout", 0)), "timeout")
        if call.operation.kind in ("read", "write"):
            self._check_rate(strict, call.operation.kind, _price(call))
        rules = _Rules(strict, collection)
        if isinstance(call.body, models.UpdateOperations):
            for operation in call.body.operations:
                ((_, body),) = operation
                rules.check_update(body, memory)
        elif call.operation.kind == "write":
            rules.check_update(call.body, memory)
        elif isinstance(call.body, models.CreateFieldIndex):
            rules.check_new_index()
        elif call.operation.kind == "read":
            rules.check_read(call.body)

    def _check_rate(self, strict: dict[str, Any], kind: str, price: int) -> None:
        limit = strict.get(f"{kind}_rate_limit")
        if limit is None:
            return
        limiter = self._limiters.get(kind)
        if limiter is None or limiter.per_minute != limit:
            limiter = self._limiters[kind] = RateLimiter(limit)
        limiter.take(price, kind.title())


class _Rules:
    """The checks of one request."""

    def __init__(self, strict: dict[str, Any], collection: Any):
        self._strict, self._collection = strict, collection
        self._schema: dict[str, dict[str, Any]] = collection.payload_schema

    def check_update(self, body: Any, memory: int) -> None:
        points = getattr(body, "points", None) or []
        if isinstance(body, Upsert | models.PointsList):
            _at_most(self._strict, "upsert_max_batchsize", len(points), "upsert limit")
        if isinstance(body, models.UpdateVectors):
            _at_most(self._strict, "upsert_max_batchsize", len(points), "update limit")
        if isinstance(body, Upsert | models.PointsList | models.UpdateVectors):
            self._check_vectors(points)
            self._check_sizes("vector", "payload", "points")
        if isinstance(body, models.SetPayload):
            self._check_sizes("payload")
        grows = (Upsert, models.PointsList, models.UpdateVectors, models.SetPayload)
        limit = self._strict.get("max_resident_memory_percent")
        if isinstance(body, grows) and limit is not None and memory >= limit:
            raise _refused(
                f"Resident memory usage is at {memory}% of total memory, exceeding the configured "
                f"limit of {limit}%",
                "Reduce memory usage (e.g. delete points or drop collections), or raise "
                "`max_resident_memory_percent` in the strict mode config of this collection.",
            )
        for name in ("filter", "update_filter"):
            self._check_filter(getattr(body, name, None), "unindexed_filtering_update")

    def check_new_index(self) -> None:
        most = self._strict.get("max_payload_index_count")
        if most is not None and len(self._schema) >= most:
            raise _refused(
                f"Collection already has the maximum number of payload indices ({most})",
                "Please delete an existing index before creating a new one.",
            )

    def check_read(self, body: Any) -> None:
        if isinstance(body, models.QueryRequestBatch):
            _at_most(self._strict, "search_max_batchsize", len(body.searches), "search batch size")
            for search in body.searches:
                self.check_read(search)
            return
        if isinstance(body, models.QueryRequest):
            for stage in _prefetches(body):
                self._check_prefetch(stage)
        if isinstance(body, models.QueryRequest | models.QueryGroupsRequest):
            if not _prefetches(body):
                self._check_scan(body)
            self._check_formula(body.query)
        if isinstance(body, models.QueryGroupsRequest):
            self._check_grouping(body.group_by)
        self._check_stage(body)
        exact = isinstance(body, models.CountRequest) and body.exact is not False
        if exact or getattr(body, "exact", False):
            self._check_exact()

    def _check_prefetch(self, stage: models.Prefetch) -> None:
        for inner in _prefetches(stage):
            self._check_prefetch(inner)
        self._check_scan(stage)
        self._check_formula(stage.query)
        self._check_stage(stage)

    def _check_stage(self, stage: Any) -> None:
        if hasattr(stage, "limit"):
            limit = _LIMIT if stage.limit is None else stage.limit
            if isinstance(stage, models.QueryGroupsRequest):
                limit *= _GROUP_SIZE if stage.group_size is None else stage.group_size
            _at_most(self._strict, "max_query_limit", limit, "limit")
        self._check_filter(getattr(stage, "filter", None), "unindexed_filtering_retrieve")
        params = getattr(stage, "params", None)
        if params is not None:
            quantization = params.quantization
            oversampling = (quantization and quantization.oversampling) or 0
            _at_most(self._strict, "search_max_oversampling", oversampling, "oversampling")
            _at_most(self._strict, "search_max_hnsw_ef", params.hnsw_ef or 0, "hnsw_ef")
            if params.exact:
                self._check_exact()

    def _check_exact(self) -> None:
        if self._strict.get("search_allow_exact") is False:
            raise _refused("Exact search disabled!", "Set exact=false.")

    def _check_scan(self, stage: Any) -> None:
        """Refuse a dense search without a graph: also one that ranks points of a prefetch."""
        config, using = self._collection.config, stage.using or ""
        query = stage.query
        fused = (models.FusionQuery, models.RrfQuery, models.FormulaQuery, models.OrderByQuery)
        dense = named_vectors(config["params"]["vectors"])
        if query is None or isinstance(query, fused) or using not in dense:
            return
        if self._strict.get("search_allow_exact") is False and not self._collection.optimizer.edges(
            config, using
        ):
            where = f" on '{using}'" if using else ""
            raise _refused(
                f"Request is forbidden{where} because global vector indexing is disabled "
                "(hnsw_config.m = 0)",
                "Use tenant-specific filter, enable global vector indexing or enable strict mode "
                "`search_allow_exact` option",
            )

    def _check_formula(self, query: Any) -> None:
        if self._strict.get("unindexed_filtering_retrieve") is not False:
            return
        if isinstance(query, models.FormulaQuery):
            for path in _variables(query.formula.model_dump(exclude_none=True)):
                if not {"integer", "float range"} & self._served(path):
                    raise _unindexed(path, {"float", "integer"}, "formula expression")

    def _check_grouping(self, path: str) -> None:
        if self._strict.get("unindexed_filtering_retrieve") is not False:
            return
        help_ = "Create an index supporting `match` for this key."
        if path not in self._schema:
            raise _refused(f'Index required but not found for "{path}"', help_)
        if not {"keyword", "integer", "uuid", "bool"} & self._served(path):
            kind = self._schema[path]["data_type"].title()
            raise _refused(f'Index of type "{kind}" found for "{path}"', help_)

    def _check_filter(self, where: models.Filter | None, setting: str) -> None:
        conditions = list(_conditions(where))
        _filter_limit(self._strict, "filter_max_conditions", len(conditions))
        sizes = [_input_size(condition) for _, condition in conditions]
        _filter_limit(self._strict, "condition_max_size", max(sizes, default=0))
        for prefix, condition in conditions if self._strict.get(setting) is False else ():
            key, wanted = _required(condition)
            path = prefix + key
            if wanted and not wanted & self._served(path):
                raise _unindexed(path, {one.removesuffix(" range") for one in wanted}, "filter")

    def _served(self, path: str) -> set[str]:
        index = self._schema.get(path)
        return set() if index is None else _MATCHES[index["data_type"]]

    def _check_sizes(self, *kinds: str) -> None:
        local = self._collection.replicas[0].local
        for kind in kinds:
            name = "max_points_count" if kind == "points" else f"max_collection_{kind}_size_bytes"
            limit = self._strict.get(name)
            if limit is None:
                continue
            count = self._collection.count()
            if kind == "points":
                found, shown, what = count, f"{limit}", "points count"
            elif kind == "vector":
                vectors = named_vectors(self._collection.config["params"]["vectors"]).values()
                found = count * sum(vector["size"] * 4 for vector in vectors)
                shown, what = f"{limit / 2**20:g}MB", "vector storage size"
            else:
                found = sum(len(json.dumps(payload)) for payload in local.payload)
                shown, what = f"{limit / 2**20:g}MB", "payload storage size"
            if found >= limit:
                raise Refusal(400, f"Bad request: Max {what} limit of {shown} reached!")

    def _check_vectors(self, points: Any) -> None:
        for name, limits in self._strict.get("sparse_config", {}).items():
            for point in points:
                vector = point.vector.get(name) if isinstance(point.vector, dict) else None
                length = len(getattr(vector, "indices", ()))
                if length > limits.get("max_length", length):
                    raise Refusal(
                        400,
                        f"Bad request: Sparse vector '{name}' has a limit of "
                        f"{limits['max_length']} indices, but {length} were provided!",
                    )


def _prefetches(stage: Any) -> list[models.Prefetch]:
    found = stage.prefetch or []
    return found if isinstance(found, list) else [found]


def _price(call: Call) -> int:
    body = call.body
    if isinstance(body, Upsert):
        return len(body.points)
    if call.points:
        return call.points
    searches = body.searches if isinstance(body, models.QueryRequestBatch) else [body]
    return sum(map(_search_price, searches))


def _search_price(stage: Any) -> int:
    inner = _prefetches(stage) if hasattr(stage, "prefetch") else []
    conditions = len(list(_conditions(getattr(stage, "filter", None))))
    return 1 + conditions + sum(map(_search_price, inner))


def _required(condition: Any) -> tuple[str, set[str]]:
    """Return the path of a condition, and the indexes of which one must exist; empty: none."""
    anything = set().union(*_MATCHES.values())
    if isinstance(condition, models.IsEmptyCondition):
        return condition.is_empty.key, anything
    if isinstance(condition, models.IsNullCondition):
        return condition.is_null.key, anything
    if not isinstance(condition, models.FieldCondition):
        return "", set()
    match, wanted = condition.match, set()
    if isinstance(match, models.MatchText | models.MatchTextAny | models.MatchPhrase):
        wanted |= {"text"}
    elif match is not None:
        listed = getattr(match, "any", getattr(match, "except_", None))
        value = getattr(match, "value", listed[0] if listed else None)
        if value is not None:
            wanted |= {bool: {"bool"}, int: {"integer"}}.get(type(value), {"keyword"})
    if isinstance(condition.range, models.DatetimeRange):
        wanted |= {"datetime range"}
    elif condition.range is not None:
        wanted |= {"float range", "integer"}
    if condition.values_count or condition.is_empty is not None or condition.is_null is not None:
        wanted |= anything
    return condition.key, wanted


def _input_size(condition: Any) -> int:
    if isinstance(condition, models.HasIdCondition):
        return len(condition.has_id)
    match = getattr(condition, "match", None)
    return len(getattr(match, "any", getattr(match, "except_", None)) or ())


def _conditions(where: models.Filter | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the conditions of a filter and of those in it, with the path of the nested object."""
    for group in ("must", "should", "must_not", "min_should"):
        part = getattr(where, group, None) or []
        part = getattr(part, "conditions", part)
        for condition in part if isinstance(part, list) else [part]:
            if isinstance(condition, models.Filter):
                yield from _conditions(condition, prefix)
            elif isinstance(condition, models.NestedCondition):
                key = condition.nested.key.removesuffix("[]")
                yield from _conditions(condition.nested.filter, f"{prefix}{key}[].")
            else:
                yield prefix, condition


def _variables(expression: Any) -> Iterator[str]:
    """Yield the payload paths that a formula reads, without those of its conditions."""
    if isinstance(expression, str):
        if not expression.startswith("$"):
            yield expression
    elif isinstance(expression, list):
        for part in expression:
            yield from _variables(part)
    elif isinstance(expression, dict):
        operators = ("mult", "sum", "neg", "abs", "div", "left", "right", "sqrt", "pow", "base",
                     "exponent", "exp", "log10", "ln", "exp_decay", "gauss_decay", "lin_decay",
                     "x", "target", "max", "min")  # fmt: skip
        for name in operators:
            if name in expression:
                yield from _variables(expression[name])


def _at_most(strict: dict[str, Any], setting: str, value: float, name: str) -> None:
    limit = strict.get(setting)
    if limit is not None and value > limit:
        raise _refused(
            f'Limit exceeded {value:g} > {limit:g} for "{name}"',
            f'Reduce the "{name}" parameter to or below {limit:g}.',
        )


def _filter_limit(strict: dict[str, Any], setting: str, value: int) -> None:
    limit = strict.get(setting)
    if limit is not None and value > limit:
        counts = setting == "filter_max_conditions"
        what = "Filter condition limit" if counts else "Condition size limit"
        advice = "amount of conditions of your filter" if counts else "size of your condition"
        raise _refused(f"{what} reached ({value} > {limit})", f"Reduce the {advice}.")


def _unindexed(path: str, types: set[str], use: str) -> Refusal:
    return _refused(
        f'Index required but not found for "{path}" of one of the following types: '
        f"[{', '.join(sorted(types))}]",
        f"Create an index for this key or use a different {use}.",
    )


def _refused(message: str, advice: str) -> Refusal:
    return Refusal(400, f"Bad request: {message}. Help: {advice}")
