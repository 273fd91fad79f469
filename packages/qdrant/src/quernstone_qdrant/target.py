"""The few requests that are made to Qdrant, each with its failures named.

This is the one place that knows what the clients (REST, gRPC, embedded) raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from quernstone.types import Float32Array
from quernstone_qdrant.errors import CollectionNotFoundError, TargetError
from quernstone_qdrant.points import Point

_SECONDS = 60
"""The client's own limit of 5 s is too short for a bulk write that waits for completion."""


def connect(
    *, path: str | None = None, url: str | None = None, api_key: str | None = None
) -> QdrantClient:
    """Open an embedded Qdrant in a folder, or a server.

    Args:
        path: Folder of the embedded Qdrant, created when missing; `:memory:` keeps nothing.
        url: Address of a server. Exactly one of `path` and `url` is given.
        api_key: For the server.

    Raises:
        TargetError: Another process has the folder open, or the address is no address.
    """
    try:
        if url is not None:
            return QdrantClient(
                url=url, api_key=api_key, timeout=_SECONDS, check_compatibility=False
            )
        if path == ":memory:":
            return QdrantClient(":memory:")
        return QdrantClient(path=path)
    except RuntimeError as error:
        raise TargetError(
            f"the folder {path!r} is in use by another process; close it, or run a Qdrant server "
            "and pass its address (`--url`)"
        ) from error
    except (OSError, ValueError) as error:
        raise TargetError(f"{url or path!r} cannot be opened: {error}") from error


class Target:
    """One collection, seen through a client.

    Every call is made on the caller's thread: an embedded client must not be shared by threads.
    """

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self.client, self.collection = client, collection

    def exists(self) -> bool:
        """Whether the collection is there."""
        with self._failures("looking for the collection"):
            return self.client.collection_exists(self.collection)

    def info(self) -> models.CollectionInfo:
        """Read the collection's configuration and metadata.

        Raises:
            CollectionNotFoundError: It does not exist.
        """
        if not self.exists():
            with self._failures("listing the collections"):
                names = [found.name for found in self.client.get_collections().collections]
            raise CollectionNotFoundError(self.collection, sorted(names))
        with self._failures("reading the configuration"):
            return self.client.get_collection(self.collection)

    def create(self, size: int, metadata: dict[str, Any]) -> None:
        """Create the collection: one unnamed cosine vector of `size` numbers."""
        with self._failures("creating the collection"):
            self.client.create_collection(
                self.collection,
                vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE),
                metadata=metadata,
            )

    def describe(self, metadata: dict[str, Any]) -> None:
        """Merge `metadata` into the collection's."""
        with self._failures("writing the metadata"):
            self.client.update_collection(self.collection, metadata=metadata)

    def payloads(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Read some payload fields of those of `ids` that exist, by id."""
        if not ids:
            return {}
        with self._failures(f"reading {len(ids)} points"):
            found = self.client.retrieve(
                self.collection, ids=list(ids), with_payload=list(fields), with_vectors=False
            )
        return {str(point.id): point.payload or {} for point in found}

    def upsert(self, points: Sequence[Point], vectors: Float32Array) -> None:
        """Write points and wait until they are applied.

        Args:
            points: What to store.
            vectors: One row per point. Shape: (len(points), dimensions).
        """
        # Through orjson the numbers keep float32's shortest digits: `tolist()` would send the
        # 17 digits of a double, nearly twice the bytes.
        rows = orjson.loads(orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY))
        batch = models.Batch(
            ids=[point.id for point in points],
            vectors=rows,
            payloads=[point.payload() for point in points],
        )
        self._apply(
            f"writing {len(points)} points",
            lambda: self.client.upsert(self.collection, points=batch, wait=True),
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by id and wait until that is applied."""
        self._apply(
            f"deleting {len(ids)} points",
            lambda: self.client.delete(
                self.collection, points_selector=models.PointIdsList(points=list(ids)), wait=True
            ),
        )

    def nearest(
        self, vector: Float32Array, limit: int, query_filter: models.Filter | None
    ) -> list[models.ScoredPoint]:
        """The `limit` points nearest to `vector`, best first, with payloads."""
        with self._failures("searching"):
            return self.client.query_points(
                self.collection,
                query=vector.tolist(),
                limit=limit,
                query_filter=query_filter,
                with_payload=True,
            ).points

    def _apply(self, doing: str, request: Callable[[], models.UpdateResult]) -> None:
        with self._failures(doing):
            status = request().status
        if status != models.UpdateStatus.COMPLETED:
            raise TargetError(
                f"Qdrant answered {status.value!r} instead of 'completed' to {doing} "
                f"(collection {self.collection!r}); some may be missing, run the load again"
            )

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Turn what the clients raise into a `TargetError` that says what was being done."""
        try:
            yield
        except (ApiException, QdrantException, OSError, ValueError, RuntimeError) as error:
            raise TargetError(
                f"Qdrant failed at {doing} (collection {self.collection!r}): {_reason(error)}"
            ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, UnexpectedResponse):
        content = (error.content or b"").decode("utf-8", "replace").strip()
        return f"status {error.status_code}: {content or error.reason_phrase}"
    return str(error) or type(error).__name__
