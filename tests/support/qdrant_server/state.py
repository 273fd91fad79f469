"""The state of a server or a cluster, and the operations that change it.

Requests of both transports end here, in the objects of `qdrant_client.models`.
"""

import copy
import threading
from typing import TYPE_CHECKING, Any

from qdrant_client import models
from tests.support.qdrant_server.calls import Call, Refusal
from tests.support.qdrant_server.collection import Collection, Replica, embedded_params
from tests.support.qdrant_server.config import (
    add_vector,
    new_config,
    plain,
    remove_vector,
    updated_config,
)
from tests.support.qdrant_server.optimizer import optimizations
from tests.support.qdrant_server.points import Points
from tests.support.qdrant_server.replication import Replication
from tests.support.qdrant_server.snapshots import Snapshots
from tests.support.qdrant_server.telemetry import cluster_status, collection_shards, telemetry

if TYPE_CHECKING:
    from tests.support.qdrant_server.server import Server


class Machine:
    """Collections and aliases. The methods without an underscore are named in `OPERATIONS`."""

    def __init__(self, server: "Server"):
        self._server = server
        self._names = threading.Lock()
        self._replication = Replication(server)
        self._points = Points(self._replication)
        self._snapshots = Snapshots()
        self.held: dict[str, Collection] = {}
        self.alias_of: dict[str, str] = {}

    def run(self, call: Call) -> Any:
        """Do what a request asks for.

        Returns:
            The result: a model of `qdrant_client`, or JSON.

        Raises:
            Refusal: The answer is an error.
        """
        operation = call.operation
        if operation.kind == "service":
            return getattr(self, operation.name)(call)
        collection = self._find(call.names["collection"])
        runs = self if operation.kind == "collection" else self._points
        with collection.lock:
            changes = operation.kind != "read" and operation.method != "GET"
            if changes:
                collection.counts.clear()
            strict = self.strict_mode(collection)
            if strict:
                memory = self._server.memory_percent
                collection.strict_mode.check(call, strict, collection, memory)
            try:
                return getattr(runs, operation.name)(collection, call)
            except ValueError as error:  # the embedded client refuses the request
                raise Refusal(400, f"Wrong input: {error}") from error
            finally:
                if changes:
                    collection.counts.clear()

    def strict_mode(self, collection: Collection) -> dict[str, Any]:
        """Return the strict mode of a collection, with the settings of `Server.strict`."""
        own = collection.config.get("strict_mode_config", {})
        given = self._server.strict
        return {**own, "enabled": True, **given} if given else own

    def info(self, call: Call) -> Any:
        version, commit = self._server.version, "db8fa43fcb6aedec1e739487e17a99731b74590a"
        return models.VersionInfo(
            title="qdrant - vector search engine", version=version, commit=commit
        )

    def healthz(self, call: Call) -> Any:
        return "healthz check passed"

    def livez(self, call: Call) -> Any:
        return "livez check passed"

    def readyz(self, call: Call) -> Any:
        return "all shards are ready"

    def metrics(self, call: Call) -> Any:
        return (
            "# HELP app_info information about qdrant server\n# TYPE app_info gauge\n"
            f'app_info{{name="qdrant",version="{self._server.version}"}} 1\n'
            "# HELP collections_total number of collections\n# TYPE collections_total gauge\n"
            f"collections_total {len(self.held)}\n"
        )

    def telemetry(self, call: Call) -> Any:
        level = int(call.params.get("details_level", 0))
        return telemetry(self._server, level)

    def cluster(self, call: Call) -> Any:
        return cluster_status(self._server, call.node)

    def collections(self, call: Call) -> Any:
        names = [models.CollectionDescription(name=name) for name in self.held]
        return models.CollectionsResponse(collections=names)

    def exists(self, call: Call) -> Any:
        name = call.names["collection"]
        known = name in self.held or name in self.alias_of
        return models.CollectionExistence(exists=known)

    def create(self, call: Call) -> Any:
        name, body = call.names["collection"], call.body
        defaults = {"shard_number": len(self._server.nodes), **self._server.replication}
        config = new_config(body, defaults)
        with self._names:
            if name in self.held:
                raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self.alias_of:
                raise Refusal(
                    400,
                    f"Wrong input: Can't create collection with name {name}. Alias with the same "
                    "name already exists",
                )
            replicas = self._place(name, config)
            try:
                for replica in replicas:
                    replica.create(config)
            except ValueError as error:
                raise Refusal(400, f"Wrong input: {error}") from error
            created = self.held[name] = Collection(name, config, replicas)
            if body.metadata and self._server.at_least(1, 16):
                created.change_metadata(body.metadata, self._server.metadata_delay)
        return True

    def drop(self, call: Call) -> Any:
        with self._names:
            collection = self.held.pop(call.names["collection"], None)
            if collection is None:
                return False
            aliases = self.alias_of.items()
            self.alias_of = {key: name for key, name in aliases if name != collection.name}
            with collection.lock:
                for replica in collection.replicas:
                    replica.drop()
        return True

    def recover(self, call: Call) -> Any:
        """Replace a collection by a snapshot, or create it from one."""
        snapshot, name = self._snapshots.find(call.body.location), call.names["collection"]
        with self._names:
            self.held[name] = snapshot.collection(name, self._place(name, snapshot.config))
        return True

    def aliases(self, call: Call) -> Any:
        return self._aliases(lambda name: True)

    def change_aliases(self, call: Call) -> Any:
        """Apply all actions, or none if one is refused."""
        with self._names:
            aliases = dict(self.alias_of)
            for action in call.body.actions:
                if isinstance(action, models.CreateAliasOperation):
                    alias, name = (
                        action.create_alias.alias_name,
                        action.create_alias.collection_name,
                    )
                    if name not in self.held:
                        raise _missing_collection(name)
                    if alias in self.held:
                        raise Refusal(400, f"Wrong input: Collection `{alias}` already exists!")
                    aliases[alias] = name
                elif isinstance(action, models.DeleteAliasOperation):
                    aliases.pop(action.delete_alias.alias_name, None)
                else:
                    old = action.rename_alias.old_alias_name
                    if old not in aliases:
                        raise Refusal(404, f"Not found: Alias {old} does not exists!")
                    aliases[action.rename_alias.new_alias_name] = aliases.pop(old)
            self.alias_of = aliases
        return True

    def describe(self, collection: Collection, call: Call) -> Any:
        """Return the collection's state in JSON: its settings have values that models leave out."""
        config = copy.deepcopy(collection.config)
        metadata = collection.visible_metadata()
        if metadata is not None and self._server.at_least(1, 16):
            config["metadata"] = self._replication.returned(metadata, call)
        strict = self.strict_mode(collection)
        if strict:
            config["strict_mode_config"] = strict
        error = self._server.optimizer_error
        shards = config["params"]["shard_number"]
        return {
            "status": self._server.next_status(),
            "optimizer_status": "ok" if error is None else {"error": error},
            "indexed_vectors_count": collection.indexed_vectors(),
            "points_count": collection.count(),
            "segments_count": 2 * shards,
            "config": config,
            "payload_schema": collection.schema(),
            "update_queue": {"length": self._server.queued_writes},
        }

    def update(self, collection: Collection, call: Call) -> Any:
        body: models.UpdateCollection = call.body
        collection.config = updated_config(collection.config, body)
        if body.metadata and self._server.at_least(1, 16):
            collection.change_metadata(body.metadata, self._server.metadata_delay)
        collection.optimize()
        self._server.wake_optimizer()
        return True

    def collection_aliases(self, collection: Collection, call: Call) -> Any:
        return self._aliases(lambda name: name == collection.name)

    def collection_cluster(self, collection: Collection, call: Call) -> Any:
        return collection_shards(self._server, collection, call.node)

    def optimizations(self, collection: Collection, call: Call) -> Any:
        asked, status = call.params.get("with", ""), self._server.current_status
        return self._server.optimizations or optimizations(status, collection.count(), asked)

    def list_snapshots(self, collection: Collection, call: Call) -> Any:
        return self._snapshots.of(collection.name)

    def create_snapshot(self, collection: Collection, call: Call) -> Any:
        return self._snapshots.create(collection)

    def delete_snapshot(self, collection: Collection, call: Call) -> Any:
        return self._snapshots.delete(collection.name, call.names["item"])

    def create_index(self, collection: Collection, call: Call) -> Any:
        body: models.CreateFieldIndex = call.body
        schema = body.field_schema
        if schema is None:
            raise Refusal(400, "Wrong input: Field type is not specified")
        if isinstance(schema, models.PayloadSchemaType):
            index = {"data_type": schema.value}
        else:
            index = {"data_type": schema.type.value, "params": plain(schema)}
            ranks = index["params"].get("scoring") and self._server.at_least(1, 20)
            if not ranks:
                index["params"].pop("scoring", None)  # older servers do not know it
            for replica in collection.replicas if ranks else ():
                # the embedded client ranks words without a stemmer and stop words
                simple = models.TextIndexParams(type=schema.type, scoring=True)
                replica.local.create_payload_index(body.field_name, simple)
        collection.payload_schema[body.field_name] = index
        return self._completed(collection)

    def delete_index(self, collection: Collection, call: Call) -> Any:
        collection.payload_schema.pop(call.names["item"], None)
        for replica in collection.replicas:
            replica.local.delete_payload_index(call.names["item"])
        return self._completed(collection)

    def create_vector(self, collection: Collection, call: Call) -> Any:
        self._needs(1, 18)
        name, body = call.names["item"], call.body
        config = copy.deepcopy(collection.config)
        if add_vector(config, name, body):
            for replica in collection.replicas:
                if isinstance(body, models.DenseVectorNameConfig):
                    vector = embedded_params(plain(body.dense))
                    replica.local.create_dense_vector_name(name, vector)
                else:
                    replica.local.create_sparse_vector_name(name, body.sparse)
            collection.config = config
        collection.optimize()
        return self._completed(collection)

    def delete_vector(self, collection: Collection, call: Call) -> Any:
        self._needs(1, 18)
        remove_vector(collection.config, call.names["item"])
        for replica in collection.replicas:
            replica.local.delete_vector_name(call.names["item"])
        collection.optimize()
        return self._completed(collection)

    def restart(self, node: int) -> None:
        """Let the dead replicas of a node catch up."""
        for collection in list(self.held.values()):
            with collection.lock:
                collection.counts.clear()
                source = next(r for r in collection.replicas if r.state == "Active")
                for replica in collection.replicas:
                    if replica.node == node and replica.state == "Dead":
                        replica.load(source.local)

    def _place(self, name: str, config: dict[str, Any]) -> list[Replica]:
        """Return the replicas of a new collection: on the first nodes."""
        nodes = self._server.nodes
        copies = min(config["params"]["replication_factor"], len(nodes))
        return [Replica(number, nodes[number].embedded, name) for number in range(copies)]

    def _find(self, name: str) -> Collection:
        found = self.held.get(self.alias_of.get(name, name))
        if found is None:
            raise _missing_collection(name)
        return found

    def _aliases(self, wanted: Any) -> models.CollectionsAliasesResponse:
        return models.CollectionsAliasesResponse(
            aliases=[
                models.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self.alias_of.items()
                if wanted(name)
            ]
        )

    def _completed(self, collection: Collection) -> models.UpdateResult:
        return models.UpdateResult(
            operation_id=collection.next_operation(), status=models.UpdateStatus.COMPLETED
        )

    def _needs(self, major: int, minor: int) -> None:
        if not self._server.at_least(major, minor):
            raise Refusal(404, "")


def _missing_collection(name: str) -> Refusal:
    return Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
