"""Operations on points, on every replica of a collection."""

import uuid
from collections.abc import Callable
from typing import Any

from qdrant_client import models
from qdrant_client.http.models import QueryResponse
from tests.support.qdrant_server.calls import Call, Refusal, Upsert
from tests.support.qdrant_server.collection import Collection, Replica
from tests.support.qdrant_server.config import named_vectors
from tests.support.qdrant_server.replication import Replication
from tests.support.qdrant_server.texts import encoded, encoded_vectors


class Points:
    """The operations, one method each, named as in `OPERATIONS`."""

    def __init__(self, replication: Replication):
        self._replication = replication

    def upsert(self, collection: Collection, call: Call) -> Any:
        body: Upsert = call.body
        named = _naming(collection)
        points = [
            point.model_copy(update={"vector": encoded_vectors(named(point.vector))})
            for point in body.points
        ]
        for point in points:
            _check_id(point.id)
            _check_vectors(collection, point.vector)
            point.payload = point.payload or {}
        return self._write(
            collection,
            call,
            lambda replica: replica.local.upsert(
                points, update_filter=body.update_filter, update_mode=body.update_mode
            ),
        )

    def delete(self, collection: Collection, call: Call) -> Any:
        return self._write(collection, call, lambda replica: replica.local.delete(call.body))

    def update_vectors(self, collection: Collection, call: Call) -> Any:
        body: models.UpdateVectors = call.body
        points = [
            point.model_copy(update={"vector": encoded_vectors(point.vector)})
            for point in body.points
        ]
        for point in points:
            _check_vectors(collection, point.vector)
        _check_exist(collection, points)
        return self._write(
            collection,
            call,
            lambda replica: replica.local.update_vectors(points, update_filter=body.update_filter),
        )

    def delete_vectors(self, collection: Collection, call: Call) -> Any:
        body: models.DeleteVectors = call.body
        return self._write(
            collection,
            call,
            lambda replica: replica.local.delete_vectors(body.vector, _selector(body)),
        )

    def set_payload(self, collection: Collection, call: Call) -> Any:
        body: models.SetPayload = call.body
        return self._write(
            collection,
            call,
            lambda replica: replica.local.set_payload(body.payload, _selector(body), body.key),
        )

    def overwrite_payload(self, collection: Collection, call: Call) -> Any:
        body: models.SetPayload = call.body
        return self._write(
            collection,
            call,
            lambda replica: replica.local.overwrite_payload(body.payload, _selector(body)),
        )

    def delete_payload(self, collection: Collection, call: Call) -> Any:
        body: models.DeletePayload = call.body
        return self._write(
            collection,
            call,
            lambda replica: replica.local.delete_payload(body.keys, _selector(body)),
        )

    def clear_payload(self, collection: Collection, call: Call) -> Any:
        return self._write(collection, call, lambda replica: replica.local.clear_payload(call.body))

    def batch(self, collection: Collection, call: Call) -> Any:
        operations = encoded(call.body.operations, query=False)
        for operation in operations:
            if isinstance(operation, models.UpdateVectorsOperation):
                _check_exist(collection, operation.update_vectors.points)
        self._write(collection, call, lambda replica: replica.local.batch_update_points(operations))
        collection.operations += len(operations) - 1
        last = collection.operations
        numbers = range(last - len(operations) + 1, last + 1)
        return [_done(number, call) for number in numbers]

    def retrieve(self, collection: Collection, call: Call) -> Any:
        body: models.PointRequest = call.body
        for point in body.ids:
            _check_id(point)
        return self._read(
            collection,
            call,
            lambda replica: replica.local.retrieve(
                body.ids, _default(body.with_payload, True), body.with_vector or False
            ),
        )

    def point(self, collection: Collection, call: Call) -> Any:
        name = call.names["item"]
        point = int(name) if name.isdigit() else name
        _check_id(point)
        found = self._read(
            collection, call, lambda replica: replica.local.retrieve([point], True, True)
        )
        if not found:
            raise Refusal(404, f"Not found: Point with id {name} does not exists!")
        return found[0]

    def scroll(self, collection: Collection, call: Call) -> Any:
        body: models.ScrollRequest = call.body
        if body.order_by is not None:
            order = body.order_by
            key = order if isinstance(order, str) else order.key
            if key not in collection.payload_schema:
                raise Refusal(
                    400,
                    f"Wrong input: No range index for `order_by` key: `{key}`. Please create one "
                    "to use `order_by`.",
                )
        after = None

        def scroll(replica: Replica) -> list[models.Record]:
            nonlocal after
            found, after = replica.client.scroll(
                collection.name,
                scroll_filter=body.filter,
                limit=_default(body.limit, 10),
                order_by=body.order_by,
                offset=body.offset,
                with_payload=_default(body.with_payload, True),
                with_vectors=body.with_vector or False,
            )
            return found

        points = self._read(collection, call, scroll)
        return models.ScrollResult(points=points, next_page_offset=after)

    def count(self, collection: Collection, call: Call) -> Any:
        replica = self._replication.reader(collection, call)
        return replica.local.count(count_filter=call.body.filter)

    def query(self, collection: Collection, call: Call) -> Any:
        return self._query(collection, call, encoded(call.body, query=True))

    def query_batch(self, collection: Collection, call: Call) -> Any:
        body = encoded(call.body, query=True)
        return [self._query(collection, call, search) for search in body.searches]

    def query_groups(self, collection: Collection, call: Call) -> Any:
        body: models.QueryGroupsRequest = encoded(call.body, query=True)

        def search(replica: Replica) -> list[models.PointGroup]:
            return replica.client.query_points_groups(
                collection.name,
                **_search(body),
                group_by=body.group_by,
                group_size=_default(body.group_size, 3),
                with_lookup=body.with_lookup,
            ).groups

        groups = self._replication.read(collection, call, search)
        for group in groups:
            self._replication.present(group.hits, call)
        return models.GroupsResult(groups=groups)

    def matrix_pairs(self, collection: Collection, call: Call) -> Any:
        return self._matrix(collection, call).search_matrix_pairs(
            collection.name, **_sampling(call.body)
        )

    def matrix_offsets(self, collection: Collection, call: Call) -> Any:
        return self._matrix(collection, call).search_matrix_offsets(
            collection.name, **_sampling(call.body)
        )

    def facet(self, collection: Collection, call: Call) -> Any:
        body: models.FacetRequest = call.body
        if body.key not in collection.payload_schema:
            raise Refusal(
                400,
                f"Wrong input: No appropriate index for faceting: `{body.key}`. Please create one "
                "to facet on this field. Check https://qdrant.tech/documentation/concepts/"
                "indexing/#payload-index to see which payload schemas support Match conditions",
            )
        replica = self._replication.reader(collection, call)
        return replica.local.facet(body.key, body.filter, _default(body.limit, 10))

    def _matrix(self, collection: Collection, call: Call) -> Any:
        return self._replication.reader(collection, call).client

    def _query(self, collection: Collection, call: Call, body: models.QueryRequest) -> Any:
        def search(replica: Replica) -> list[models.ScoredPoint]:
            return replica.client.query_points(
                collection.name, **_search(body), offset=body.offset
            ).points

        return QueryResponse(points=self._read(collection, call, search))

    def _write(
        self, collection: Collection, call: Call, apply: Callable[[Replica], Any]
    ) -> models.UpdateResult:
        self._replication.write(collection, call, apply)
        collection.optimize()
        return _done(collection.next_operation(), call)

    def _read(
        self, collection: Collection, call: Call, read: Callable[[Replica], list[Any]]
    ) -> list[Any]:
        found = self._replication.read(collection, call, read)
        self._replication.present(found, call)
        return found


def _search(body: models.QueryRequest | models.QueryGroupsRequest) -> dict[str, Any]:
    idf = body.params and body.params.idf  # the other parameters change nothing in exact search
    return {
        "query": body.query,
        "using": body.using,
        "prefetch": body.prefetch,
        "query_filter": body.filter,
        "search_params": models.SearchParams(idf=idf) if idf else None,
        "score_threshold": body.score_threshold,
        "limit": _default(body.limit, 10),
        "with_payload": _default(body.with_payload, False),
        "with_vectors": body.with_vector or False,
        "lookup_from": body.lookup_from,
    }


def _sampling(body: models.SearchMatrixRequest) -> dict[str, Any]:
    return {
        "query_filter": body.filter,
        "limit": _default(body.limit, 3),
        "sample": _default(body.sample, 10),
        "using": body.using,
    }


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _done(operation: int, call: Call) -> models.UpdateResult:
    status = models.UpdateStatus.COMPLETED if call.wait else models.UpdateStatus.ACKNOWLEDGED
    return models.UpdateResult(operation_id=operation, status=status)


def _selector(body: Any) -> Any:
    """Return the points that a change of payloads or vectors is about."""
    return body.filter if body.points is None else body.points


def _check_exist(collection: Collection, points: list[models.PointVectors]) -> None:
    ids = [point.id for point in points]
    found = collection.replicas[0].local.retrieve(ids, with_payload=False)
    known = {str(point.id) for point in found}
    for point in ids:
        if _normalized(point) not in known:
            raise Refusal(404, f"Not found: No point with id {point} found")


def _check_id(point: Any) -> None:
    try:
        if isinstance(point, int) and 0 <= point < 1 << 64:
            return
        uuid.UUID(point)
    except (ValueError, AttributeError, TypeError):
        raise Refusal(
            400,
            f"Format error in JSON body: value {point} is not a valid point ID, valid values are "
            "either an unsigned integer or a UUID",
        ) from None


def _normalized(point: Any) -> str:
    return str(point) if isinstance(point, int) else str(uuid.UUID(point))


def _naming(collection: Collection) -> Callable[[Any], Any]:
    """Return a function that names the unnamed vector of a point, if the collection has others."""
    if "size" in collection.config["params"]["vectors"]:
        return lambda given: given
    return lambda given: given if isinstance(given, dict) else {"": given}


def _check_vectors(collection: Collection, given: Any) -> None:
    params = collection.config["params"]
    dense = named_vectors(params["vectors"])
    for name, vector in (given if isinstance(given, dict) else {"": given}).items():
        if name not in dense and name not in params.get("sparse_vectors", {}):
            raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")
        if name not in dense or "multivector_config" in dense[name]:
            continue
        size, where = dense[name]["size"], f" for vector '{name}'" if name else ""
        if not isinstance(vector, list) or len(vector) != size:
            got = len(vector) if isinstance(vector, list) else "another kind of vector"
            raise Refusal(
                400, f"Wrong input: Vector dimension error: expected dim: {size}, got {got}{where}"
            )
