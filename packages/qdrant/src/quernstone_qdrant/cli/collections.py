"""The options of `quern load` that decide how a collection stores its points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args, get_type_hints

import typer

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, FieldType, Preset

SET_HELP = (
    "Any other setting of `CollectionSettings`: m, ef_construct, full_scan_threshold, "
    "max_indexing_threads, payload_m, graph_on_disk, payload_on_disk, on_disk, quantization, "
    "datatype, vector, shards. May be repeated."
)

_option = partial(typer.Option, rich_help_panel="Collection")


@dataclass(frozen=True)
class StorageOptions:
    """How a collection stores and indexes its points."""

    preset: Annotated[
        Preset | None, _option(help="How a new collection stores vectors. (default: dense)")
    ] = None
    prefix: Annotated[
        int | None,
        _option(min=1, help="Preset mrl: length of the short vectors. (default: a quarter)"),
    ] = None
    layout: Annotated[
        LayoutName | None,
        _option(help="Payload layout of a new collection. (default: universal)"),
    ] = None
    hybrid: Annotated[
        bool | None,
        _option(
            "--hybrid/--no-hybrid",
            help="Index the words of a new collection for hybrid search (BM25). (default: no)",
        ),
    ] = None
    language: Annotated[
        str | None, _option(help="Language of the words, in English. (default: english)")
    ] = None
    indexes: Annotated[
        list[str] | None,
        _option(
            "--index",
            metavar="FIELD=TYPE",
            help="Metadata field to filter by: keyword, tenant, integer, float, bool, datetime, "
            "uuid, text. May be repeated.",
        ),
    ] = None
    replication_factor: Annotated[
        int | None, _option(min=1, help="Replicas of each shard of a cluster's collection.")
    ] = None
    write_consistency: Annotated[
        int | None, _option(min=1, help="Replicas that must confirm a write.")
    ] = None
    assignments: Annotated[
        list[str] | None, _option("--set", metavar="NAME=VALUE", help=SET_HELP)
    ] = None
    defer_index: Annotated[
        DeferIndex,
        _option(
            help="How to defer indexing on a server until the load has ended: threshold, or m0 for "
            "an empty collection."
        ),
    ] = "none"
    wait: Annotated[
        float | None,
        _option(
            min=0,
            metavar="SECONDS",
            help="Wait up to this long until everything is indexed. (default: do not wait)",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `QdrantLoader`.

        Raises:
            ConfigError: A setting or its value is not valid.
        """
        return {
            "preset": self.preset,
            "settings": self.changes(),
            "layout": self.layout,
            "hybrid": self.hybrid,
            "defer_index": self.defer_index,
            "index_timeout": self.wait,
        }

    def changes(self) -> dict[str, object]:
        """Return the single settings that are given, by their names in `CollectionSettings`.

        Raises:
            ConfigError: A setting or its value is not valid.
        """
        given = {
            "prefix": self.prefix,
            "language": self.language,
            "indexes": dict(_index(text) for text in self.indexes or ()) or None,
            "replication_factor": self.replication_factor,
            "write_consistency": self.write_consistency,
        }
        named = {name: value for name, value in given.items() if value is not None}
        return {**assigned(self.assignments or ()), **named}


def assigned(assignments: Iterable[str]) -> dict[str, object]:
    """Parse settings of the form NAME=VALUE.

    Raises:
        ConfigError: A name is not a setting, or a value is not of its type.
    """
    types = get_type_hints(CollectionSettings)
    del types["indexes"]  # set by --index
    values: dict[str, object] = {}
    for text in assignments:
        name, _, value = text.partition("=")
        if name not in types or not value:
            raise ConfigError(
                f"--set {text!r} is not of the form NAME=VALUE; the names are {', '.join(types)}"
            )
        values[name] = _value(name, value, types[name])
    return values


def _value(name: str, text: str, kind: Any) -> object:
    """Convert the text of an option to the type of a setting."""
    members = get_args(kind) or (kind,)
    if bool in members:
        if text not in ("true", "false"):
            raise ConfigError(f"--set {name}={text}: the value must be true or false")
        return text == "true"
    if text == "none" and type(None) in members:
        return None
    if int in members and text.isdecimal():
        return int(text)
    if int in members and str not in {type(one) for one in _literals(members)}:
        raise ConfigError(f"--set {name}={text}: the value must be a whole number")
    return text  # `CollectionSettings` checks it


def _literals(members: tuple[Any, ...]) -> list[object]:
    return [value for member in members for value in get_args(member)]


def _index(text: str) -> tuple[str, FieldType]:
    name, _, kind = text.rpartition("=")
    for known in get_args(FieldType):
        if name and kind == known:
            return name, known
    raise ConfigError(
        f"--index {text!r} is not of the form FIELD=TYPE, with {', '.join(get_args(FieldType))}"
    )
