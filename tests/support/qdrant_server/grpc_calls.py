"""The gRPC methods: which operation each one is, and how its messages are translated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from tests.support.qdrant_server import grpc_messages as messages


@dataclass(frozen=True)
class Rpc:
    """One gRPC method."""

    operation: str
    """Name in `OPERATIONS`."""
    request: type[Message]
    answer: Callable[[Any], Message]
    """Translates a result."""
    body: Callable[[Any], Any] = lambda message: None
    """Translates the request to the body that REST has."""
    item: str | None = None
    """Field that REST has in its path, besides the collection's name."""


_COLLECTIONS = {
    "Get": Rpc("describe", grpc.GetCollectionInfoRequest, messages.described),
    "List": Rpc(
        "collections",
        grpc.ListCollectionsRequest,
        lambda result: grpc.ListCollectionsResponse(
            collections=[
                RestToGrpc.convert_collection_description(found) for found in result.collections
            ]
        ),
    ),
    "Create": Rpc("create", grpc.CreateCollection, messages.collection_changed, messages.create),
    "Update": Rpc(
        "update",
        grpc.UpdateCollection,
        messages.collection_changed,
        GrpcToRest.convert_update_collection,
    ),
    "Delete": Rpc("drop", grpc.DeleteCollection, messages.collection_changed),
    "UpdateAliases": Rpc(
        "change_aliases",
        grpc.ChangeAliases,
        messages.collection_changed,
        lambda message: models.ChangeAliasesOperation(
            actions=[GrpcToRest.convert_alias_operations(action) for action in message.actions]
        ),
    ),
    "ListCollectionAliases": Rpc(
        "collection_aliases", grpc.ListCollectionAliasesRequest, messages.aliases
    ),
    "ListAliases": Rpc("aliases", grpc.ListAliasesRequest, messages.aliases),
    "CollectionClusterInfo": Rpc(
        "collection_cluster",
        grpc.CollectionClusterInfoRequest,
        lambda result: RestToGrpc.convert_collection_cluster_info(
            models.CollectionClusterInfo.model_validate(result)
        ),
    ),
    "CollectionExists": Rpc(
        "exists",
        grpc.CollectionExistsRequest,
        lambda result: grpc.CollectionExistsResponse(
            result=grpc.CollectionExists(exists=result.exists)
        ),
    ),
}

_POINTS = {
    "Upsert": Rpc("upsert", grpc.UpsertPoints, messages.changed, messages.upsert),
    "Delete": Rpc(
        "delete",
        grpc.DeletePoints,
        messages.changed,
        lambda message: GrpcToRest.convert_points_selector(message.points),
    ),
    "UpdateVectors": Rpc(
        "update_vectors", grpc.UpdatePointVectors, messages.changed, messages.update_vectors
    ),
    "DeleteVectors": Rpc(
        "delete_vectors",
        grpc.DeletePointVectors,
        messages.changed,
        lambda message: models.DeleteVectors(
            vector=list(message.vectors.names), **messages.selected(message.points_selector)
        ),
    ),
    "SetPayload": Rpc("set_payload", grpc.SetPayloadPoints, messages.changed, messages.set_payload),
    "OverwritePayload": Rpc(
        "overwrite_payload", grpc.SetPayloadPoints, messages.changed, messages.set_payload
    ),
    "DeletePayload": Rpc(
        "delete_payload",
        grpc.DeletePayloadPoints,
        messages.changed,
        lambda message: models.DeletePayload(
            keys=list(message.keys), **messages.selected(message.points_selector)
        ),
    ),
    "ClearPayload": Rpc(
        "clear_payload",
        grpc.ClearPayloadPoints,
        messages.changed,
        lambda message: GrpcToRest.convert_points_selector(message.points),
    ),
    "UpdateBatch": Rpc(
        "batch",
        grpc.UpdateBatchPoints,
        lambda results: grpc.UpdateBatchResponse(
            result=[RestToGrpc.convert_update_result(result) for result in results]
        ),
        lambda message: models.UpdateOperations(
            operations=[
                GrpcToRest.convert_points_update_operation(part) for part in message.operations
            ]
        ),
    ),
    "CreateFieldIndex": Rpc(
        "create_index", grpc.CreateFieldIndexCollection, messages.changed, messages.field_index
    ),
    "DeleteFieldIndex": Rpc(
        "delete_index", grpc.DeleteFieldIndexCollection, messages.changed, item="field_name"
    ),
    "CreateVectorName": Rpc(
        "create_vector",
        grpc.CreateVectorNameRequest,
        messages.changed,
        messages.vector_config,
        item="vector_name",
    ),
    "DeleteVectorName": Rpc(
        "delete_vector", grpc.DeleteVectorNameRequest, messages.changed, item="vector_name"
    ),
    "Get": Rpc(
        "retrieve",
        grpc.GetPoints,
        lambda result: grpc.GetResponse(result=[messages.record(point) for point in result]),
        lambda message: models.PointRequest(
            ids=messages.ids(message.ids), **messages.shown(message)
        ),
    ),
    "Scroll": Rpc(
        "scroll",
        grpc.ScrollPoints,
        messages.scrolled,
        lambda message: models.ScrollRequest(
            filter=messages.filtered(message),
            offset=messages.given(message, "offset", GrpcToRest.convert_point_id),
            limit=messages.given(message, "limit"),
            order_by=messages.given(message, "order_by", GrpcToRest.convert_order_by),
            **messages.shown(message),
        ),
    ),
    "Count": Rpc(
        "count",
        grpc.CountPoints,
        lambda result: grpc.CountResponse(result=RestToGrpc.convert_count_result(result)),
        lambda message: models.CountRequest(
            filter=messages.filtered(message), exact=messages.given(message, "exact")
        ),
    ),
    "Query": Rpc(
        "query",
        grpc.QueryPoints,
        lambda result: grpc.QueryResponse(result=messages.queried(result)),
        GrpcToRest.convert_query_points,
    ),
    "QueryBatch": Rpc(
        "query_batch",
        grpc.QueryBatchPoints,
        lambda results: grpc.QueryBatchResponse(
            result=[grpc.BatchResult(result=messages.queried(result)) for result in results]
        ),
        lambda message: models.QueryRequestBatch(
            searches=[GrpcToRest.convert_query_points(part) for part in message.query_points]
        ),
    ),
    "QueryGroups": Rpc(
        "query_groups",
        grpc.QueryPointGroups,
        lambda result: grpc.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(result)),
        messages.query_groups,
    ),
    "Facet": Rpc(
        "facet",
        grpc.FacetCounts,
        lambda result: grpc.FacetResponse(
            hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in result.hits]
        ),
        lambda message: models.FacetRequest(
            key=message.key,
            filter=messages.filtered(message),
            limit=messages.given(message, "limit"),
            exact=messages.given(message, "exact"),
        ),
    ),
    "SearchMatrixPairs": Rpc(
        "matrix_pairs",
        grpc.SearchMatrixPoints,
        lambda result: grpc.SearchMatrixPairsResponse(
            result=RestToGrpc.convert_search_matrix_pairs(result)
        ),
        messages.matrix,
    ),
    "SearchMatrixOffsets": Rpc(
        "matrix_offsets",
        grpc.SearchMatrixPoints,
        lambda result: grpc.SearchMatrixOffsetsResponse(
            result=RestToGrpc.convert_search_matrix_offsets(result)
        ),
        messages.matrix,
    ),
}

_SNAPSHOTS = {
    "Create": Rpc(
        "create_snapshot",
        grpc.CreateSnapshotRequest,
        lambda result: grpc.CreateSnapshotResponse(
            snapshot_description=RestToGrpc.convert_snapshot_description(result)
        ),
    ),
    "List": Rpc(
        "list_snapshots",
        grpc.ListSnapshotsRequest,
        lambda results: grpc.ListSnapshotsResponse(
            snapshot_descriptions=[
                RestToGrpc.convert_snapshot_description(result) for result in results
            ]
        ),
    ),
    "Delete": Rpc(
        "delete_snapshot",
        grpc.DeleteSnapshotRequest,
        lambda result: grpc.DeleteSnapshotResponse(),
        item="snapshot_name",
    ),
}

_SERVICE = {
    "HealthCheck": Rpc("info", grpc.HealthCheckRequest, RestToGrpc.convert_health_check_reply)
}

RPCS = {
    f"/qdrant.{service}/{name}": rpc
    for service, rpcs in (
        ("Collections", _COLLECTIONS),
        ("Points", _POINTS),
        ("Snapshots", _SNAPSHOTS),
        ("Qdrant", _SERVICE),
    )
    for name, rpc in rpcs.items()
}
"""All methods, by their full names."""
