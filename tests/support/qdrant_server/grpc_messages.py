"""Messages of gRPC, translated from and to the objects that REST sends in JSON."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import (
    GrpcToRest,
    RestToGrpc,
    grpc_field_type_to_payload_schema,
)
from qdrant_client.http.models import QueryResponse
from tests.support.qdrant_server.calls import Upsert


def given(message: Any, name: str, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a field, or None if it is not set."""
    return convert(getattr(message, name)) if message.HasField(name) else None


def ids(message: Any) -> list[Any]:
    return [GrpcToRest.convert_point_id(point) for point in message]


def upsert(message: Any) -> Upsert:
    points = [
        models.PointStruct.model_construct(  # validating every number would take long
            id=GrpcToRest.convert_point_id(point.id),
            payload=GrpcToRest.convert_payload(point.payload),
            vector=given(point, "vectors", GrpcToRest.convert_vectors) or {},
        )
        for point in message.points
    ]
    return Upsert(
        points,
        given(message, "update_filter", GrpcToRest.convert_filter),
        given(message, "update_mode", GrpcToRest.convert_update_mode),
    )


def selected(selector: Any) -> dict[str, Any]:
    """Return the points that a change is about, as REST names them in its body."""
    found = GrpcToRest.convert_points_selector(selector)
    if isinstance(found, models.PointIdsList):
        return {"points": found.points}
    return {"filter": found.filter}


def shown(message: Any) -> dict[str, Any]:
    """Return what a read wants to see of each point."""
    return {
        "with_payload": given(message, "with_payload", GrpcToRest.convert_with_payload_selector),
        "with_vector": given(message, "with_vectors", GrpcToRest.convert_with_vectors_selector),
    }


def filtered(message: Any) -> models.Filter | None:
    return given(message, "filter", GrpcToRest.convert_filter)


def update_vectors(message: Any) -> models.UpdateVectors:
    return models.UpdateVectors(
        points=[GrpcToRest.convert_point_vectors(point) for point in message.points],
        update_filter=given(message, "update_filter", GrpcToRest.convert_filter),
    )


def set_payload(message: Any) -> models.SetPayload:
    return models.SetPayload(
        payload=GrpcToRest.convert_payload(message.payload),
        key=given(message, "key"),
        **selected(message.points_selector),
    )


def field_index(message: Any) -> models.CreateFieldIndex:
    schema = given(message, "field_index_params", GrpcToRest.convert_payload_schema_params)
    if schema is None:
        kind = given(message, "field_type", grpc_field_type_to_payload_schema)
        schema = None if kind is None else GrpcToRest.convert_payload_schema_type(kind)
    return models.CreateFieldIndex(field_name=message.field_name, field_schema=schema)


def vector_config(message: Any) -> models.VectorNameConfig:
    if message.HasField("dense_config"):
        dense = message.dense_config
        return models.DenseVectorNameConfig(
            dense=models.DenseVectorConfig(
                size=dense.size,
                distance=GrpcToRest.convert_distance(dense.distance),
                multivector_config=given(
                    dense, "multivector_config", GrpcToRest.convert_multivector_config
                ),
                datatype=given(dense, "datatype", GrpcToRest.convert_datatype),
            )
        )
    sparse = message.sparse_config
    return models.SparseVectorNameConfig(
        sparse=models.SparseVectorConfig(
            modifier=given(sparse, "modifier", GrpcToRest.convert_modifier),
            datatype=given(sparse, "datatype", GrpcToRest.convert_datatype),
        )
    )


def create(message: Any) -> models.CreateCollection:
    config = message.vectors_config
    return models.CreateCollection(
        vectors=given(message, "vectors_config", GrpcToRest.convert_vectors_config)
        if config.WhichOneof("config")
        else None,
        sparse_vectors=given(
            message, "sparse_vectors_config", GrpcToRest.convert_sparse_vector_config
        ),
        hnsw_config=given(message, "hnsw_config", GrpcToRest.convert_hnsw_config_diff),
        wal_config=given(message, "wal_config", GrpcToRest.convert_wal_config_diff),
        optimizers_config=given(
            message, "optimizers_config", GrpcToRest.convert_optimizers_config_diff
        ),
        quantization_config=given(
            message, "quantization_config", GrpcToRest.convert_quantization_config
        ),
        strict_mode_config=given(
            message, "strict_mode_config", GrpcToRest.convert_strict_mode_config
        ),
        shard_number=given(message, "shard_number"),
        replication_factor=given(message, "replication_factor"),
        write_consistency_factor=given(message, "write_consistency_factor"),
        on_disk_payload=given(message, "on_disk_payload"),
        metadata=GrpcToRest.convert_payload(message.metadata) or None,
    )


def query_groups(message: Any) -> models.QueryGroupsRequest:
    return models.QueryGroupsRequest(
        prefetch=[GrpcToRest.convert_prefetch_query(stage) for stage in message.prefetch] or None,
        query=given(message, "query", GrpcToRest.convert_query),
        using=given(message, "using"),
        filter=filtered(message),
        params=given(message, "params", GrpcToRest.convert_search_params),
        score_threshold=given(message, "score_threshold"),
        lookup_from=given(message, "lookup_from", GrpcToRest.convert_lookup_location),
        with_lookup=given(message, "with_lookup", GrpcToRest.convert_with_lookup),
        limit=given(message, "limit"),
        group_size=given(message, "group_size"),
        group_by=message.group_by,
        **shown(message),
    )


def matrix(message: Any) -> models.SearchMatrixRequest:
    return models.SearchMatrixRequest(
        filter=filtered(message),
        sample=given(message, "sample"),
        limit=given(message, "limit"),
        using=given(message, "using"),
    )


def scrolled(result: models.ScrollResult) -> Message:
    after = result.next_page_offset
    return grpc.ScrollResponse(
        result=[record(point) for point in result.points],
        next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
    )


def record(record: models.Record) -> Message:
    if record.payload is None:
        record = record.model_copy(update={"payload": {}})
    return RestToGrpc.convert_record(record)


def changed(result: models.UpdateResult) -> Message:
    return grpc.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))


def collection_changed(result: bool) -> Message:
    return grpc.CollectionOperationResponse(result=result)


def described(result: dict[str, Any]) -> Message:
    info = models.CollectionInfo.model_validate(result)
    return grpc.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))


def queried(result: QueryResponse) -> list[Message]:
    return [RestToGrpc.convert_scored_point(point) for point in result.points]


def aliases(result: models.CollectionsAliasesResponse) -> Message:
    return grpc.ListAliasesResponse(
        aliases=[RestToGrpc.convert_alias_description(alias) for alias in result.aliases]
    )
