"""Records: the documents to load, and their conversion from other types."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from quernstone.types import TEXT_FIELDS, Float32Array
from quernstone_qdrant.documents.json_values import (
    JsonValue,
    UnstorableError,
    storable,
    to_json,
    to_metadata,
)
from quernstone_qdrant.documents.nodes import (
    NEWEST_NODE_RULE,
    NodeRule,
    embedded_text,
    fields_of,
    is_chunk,
    is_document,
    source_id,
)
from quernstone_qdrant.errors import RecordError

TextFormat = Literal["text", "markdown"]

RecordRule = Literal[1, 2]
"""Which metadata the rows of files have. 1: without `Record.added`, as in version 0.1.0. 2: all."""
NEWEST_RECORD_RULE: RecordRule = 2

ID_FIELDS = ("id", "key", "doc_id")
"""Fields that may hold the key of a mapping; the first one with a value is used. None, NaN and
pandas' NaT and NA are not values."""


@dataclass(frozen=True, slots=True)
class Record:
    """One document.

    The key identifies it: a later load with the same key compares and updates the document's points
    instead of duplicating them.
    """

    key: str
    """Unique name of the document in its collection."""
    text: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    """Stored in the payload, where LangChain and LlamaIndex can filter on it."""
    format: TextFormat = "text"
    """Format of the text, which decides how it is split."""
    source: str = ""
    """Origin of the document, such as a folder. Pruning deletes what is gone from its source."""
    alias: str = ""
    """Key that the row would have in a load without `id_field`. If a document with this key and
    source is stored, the load stops instead of storing the row twice."""
    added: Collection[str] = ()
    """Fields of the metadata that collections of record rule 1 do not have: the column of the id,
    and Hive partitions."""
    pages: Sequence[int] = ()
    """Start of each page in `text`, in characters. A chunk has the number of the page on which it
    begins in its metadata, as `page`."""
    node: Mapping[str, JsonValue] | None = None
    """Fields of the LlamaIndex node that it came as, without text, metadata and embedding."""
    vector: Float32Array | None = field(default=None, compare=False, repr=False)
    """Its vector, if that was computed before: the text is then stored whole, and not embedded.
    Shape: (dimensions,)"""

    @property
    def is_chunk(self) -> bool:
        """True for a node, which is not split. Several of them may have the same key."""
        return is_chunk(self.node)


def to_record(
    value: object,
    position: int,
    node_rule: NodeRule = NEWEST_NODE_RULE,
    record_rule: RecordRule | Literal["auto"] = "auto",
) -> Record:
    """Convert a value to a record.

    Args:
        value: A `Record`; a mapping, a dataclass instance, a pydantic model, a named tuple or a
            row of a database with a text field (`TEXT_FIELDS`) and optionally an id (`ID_FIELDS`),
            whose other fields are metadata; a string; a LangChain `Document`; or a LlamaIndex
            node. The key of a node is its `ref_doc_id`, if it has one.
            Without an id, or with the random one that LlamaIndex assigns by default, the key is a
            hash of the content: the next load finds the document again, but an edited text counts
            as a new document.
        position: Position of the value in its iterable, for error messages.
        node_rule: Rule for LlamaIndex nodes; see `documents/nodes.py`.
        record_rule: Rule for rows of files.

    Raises:
        RecordError: The value has no text, or its type is not supported.
    """
    if isinstance(value, Record):
        metadata = _clean(value.metadata, value.key)
        if record_rule == 1:
            metadata = {name: v for name, v in metadata.items() if name not in value.added}
        record = replace(value, metadata=metadata)
    elif isinstance(value, str):
        record = _make(None, value, {}, position)
    elif hasattr(value, "page_content") and hasattr(value, "metadata"):  # LangChain
        record = _make(getattr(value, "id", None), value.page_content, value.metadata, position)
    elif hasattr(value, "get_content") and hasattr(value, "node_id"):  # LlamaIndex
        record = _from_node(value, position, node_rule)
    elif (fields := _fields(value)) is not None:
        record = _from_fields(fields, position)
    else:
        raise RecordError(
            str(position),
            f"it has type {type(value).__name__}; pass mappings, dataclasses, strings, `Record`s, "
            "LangChain documents or LlamaIndex nodes",
        )
    _check(record, position)
    return record


def is_model(value: object) -> bool:
    """Return whether an object is a pydantic model. Does not import pydantic, which takes 0.1 s."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """Return the fields of an object that has named ones, or None."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        names: Iterable[Any] = (each.name for each in dataclasses.fields(value))
    elif is_model(value):
        names = [*type(value).model_fields, *(value.model_extra or ())]
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", ())  # a named tuple, or a row of SQLAlchemy
    elif hasattr(value, "keys") and hasattr(value, "__getitem__"):  # such as `sqlite3.Row`
        return {name: value[name] for name in value.keys()}  # noqa: SIM118 - not a mapping
    else:
        return None
    return {name: getattr(value, name) for name in names} or None


def _from_node(node: Any, position: int, rule: NodeRule) -> Record:
    text, metadata = node.get_content(), getattr(node, "metadata", {})
    if rule == 1:
        return _make(_lasting_id(node), text, metadata, position)
    try:
        fields = fields_of(node)
        key = None if is_document(node) else source_id(fields)
        record = _make(key or _lasting_id(node), text, metadata, position)
        embedded_text(fields, text, record.metadata)  # raises if it cannot be built
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(storable(str(node.node_id)), str(error)) from error
    return replace(record, node=fields)


def _from_fields(fields: Mapping[Any, Any], position: int) -> Record:
    text_field = next((name for name in TEXT_FIELDS if name in fields), None)
    if text_field is None:
        raise RecordError(
            str(position),
            f"it has no text field ({', '.join(TEXT_FIELDS)}); its fields are: "
            f"{', '.join(map(str, fields)) or 'none'}",
        )
    try:
        id_field = next((name for name in ID_FIELDS if to_json(fields.get(name)) is not None), None)
    except UnstorableError as error:
        raise RecordError(str(position), f"its id {error.reason}") from error
    metadata = metadata_fields(fields, without=(text_field, id_field))
    return _make(fields[id_field] if id_field else None, fields[text_field], metadata, position)


def metadata_fields(
    fields: Mapping[Any, Any], *, without: Collection[str | None]
) -> dict[str, Any]:
    """Return the fields of a row that are metadata: all except those in `without`.

    A field `metadata` that is a mapping is replaced by its own fields; other mappings stay nested.
    """
    rest = {str(name): value for name, value in fields.items() if name not in without}
    if isinstance(rest.get("metadata"), Mapping):
        nested = rest.pop("metadata")
        rest |= {str(name): value for name, value in nested.items()}
    return rest


def _make(key: object, text: Any, metadata: Mapping[Any, Any], position: int) -> Record:
    clean = _clean(metadata, position if key is None else key)
    if key is None:
        key = content_key(text, clean) if isinstance(text, str) else position
    return Record(str(key), text, clean)


def content_key(text: str, metadata: Mapping[str, JsonValue]) -> str:
    """Return the key of a document without an id: a hash of its content."""
    content = orjson.dumps([storable(text), metadata], option=orjson.OPT_SORT_KEYS)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _clean(metadata: Mapping[Any, Any], key: object) -> dict[str, JsonValue]:
    try:
        return to_metadata(metadata)
    except UnstorableError as error:
        raise RecordError(storable(str(key)), str(error)) from error


def _lasting_id(node: Any) -> str | None:
    """Return the id of a LlamaIndex node; None for a random UUID, which differs on every run."""
    return None if is_random_id(node.node_id) else str(node.node_id)


def is_random_id(text: str) -> bool:
    """Return True for a UUID of version 4, such as LlamaIndex assigns by default."""
    try:
        return uuid.UUID(text).version == 4
    except ValueError:
        return False


def _wrong(text: object) -> str:
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return f"is missing: it is {text}"
    return f"has type {type(text).__name__}, not str"


def _check(record: Record, position: int) -> None:
    if not isinstance(record.text, str):
        raise RecordError(record.key, f"its text {_wrong(record.text)} (record {position})")
    try:
        record.text.encode()
        record.key.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            storable(record.key),
            f"character {error.start} is a lone surrogate, which UTF-8 cannot encode",
        ) from error
    if not record.key:
        raise RecordError(str(position), "its key is empty")
