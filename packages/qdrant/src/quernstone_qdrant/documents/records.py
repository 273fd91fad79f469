"""A record: one document on its way into a collection, whatever it came as."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from quernstone.types import TEXT_FIELDS
from quernstone_qdrant.documents.json_values import JsonValue, storable, to_json
from quernstone_qdrant.errors import RecordError

TextFormat = Literal["text", "markdown"]

ID_FIELDS = ("id", "key", "doc_id")
"""Where the key of a mapping is looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Record:
    """One document.

    `key` decides everything: the same key is the same document on the next run, so its points
    are compared and updated and never duplicated.
    """

    key: str
    """Names the document within its collection."""
    text: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    """Goes into the payload, where both LangChain and LlamaIndex can filter on it."""
    format: TextFormat = "text"
    """How the text is split."""
    source: str = ""
    """Names where it is from, such as a folder: what is gone is looked for within a source."""


def to_record(value: object, position: int) -> Record:
    """Make a record of what people have.

    Args:
        value: A `Record`; a mapping or a dataclass instance with a text field (`TEXT_FIELDS`) and
            perhaps an id (`ID_FIELDS`), everything else being metadata; a plain string; a LangChain
            `Document`; or a LlamaIndex node. What has no id, or the random one that LlamaIndex
            gives by default, gets a key made of its content: the second run finds it again, but
            an edited text counts as a new document.
        position: Counts the records, for the error message.

    Raises:
        RecordError: There is no text in it, or it is nothing of the above.
    """
    if isinstance(value, Record):
        record = value
    elif isinstance(value, Mapping):
        record = _from_fields(value, position)
    elif isinstance(value, str):
        record = _make(None, value, {})
    elif hasattr(value, "page_content") and hasattr(value, "metadata"):  # LangChain
        record = _make(getattr(value, "id", None), value.page_content, value.metadata)
    elif hasattr(value, "get_content") and hasattr(value, "node_id"):  # LlamaIndex
        record = _make(_lasting_id(value), value.get_content(), getattr(value, "metadata", {}))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        record = _from_fields(
            {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, position
        )
    else:
        raise RecordError(
            str(position),
            f"a {type(value).__name__} is no record; pass mappings, dataclasses, `Record`s, "
            "LangChain documents or LlamaIndex nodes",
        )
    _check(record, position)
    return record


def _from_fields(fields: Mapping[Any, Any], position: int) -> Record:
    text_field = next((name for name in TEXT_FIELDS if name in fields), None)
    if text_field is None:
        raise RecordError(
            str(position),
            f"no text: none of {', '.join(TEXT_FIELDS)} is among its fields "
            f"({', '.join(map(str, fields)) or 'it has none'})",
        )
    id_field = next((name for name in ID_FIELDS if fields.get(name) is not None), None)
    metadata = metadata_fields(fields, without=(text_field, id_field))
    return _make(fields[id_field] if id_field else None, fields[text_field], metadata)


def metadata_fields(
    fields: Mapping[Any, Any], *, without: Collection[str | None]
) -> dict[str, Any]:
    """What the fields of a row say about it, apart from those named in `without`.

    A field `metadata` that is a mapping is replaced by its own fields. Any other mapping stays one.
    """
    rest = {str(name): value for name, value in fields.items() if name not in without}
    if isinstance(rest.get("metadata"), Mapping):
        nested = rest.pop("metadata")
        rest |= {str(name): value for name, value in nested.items()}
    return rest


def _make(key: object, text: Any, metadata: Mapping[Any, Any]) -> Record:
    clean = {str(name): to_json(value) for name, value in metadata.items()}
    if key is None and isinstance(text, str):
        content = orjson.dumps([storable(text), clean], option=orjson.OPT_SORT_KEYS)
        key = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Record(str(key), text, clean)


def _lasting_id(node: Any) -> str | None:
    """The id of a LlamaIndex node; None for a random one, which the next run will not repeat."""
    try:
        is_random = uuid.UUID(node.node_id).version == 4
    except ValueError:
        is_random = False
    return None if is_random else str(node.node_id)


def _check(record: Record, position: int) -> None:
    if not isinstance(record.text, str):
        raise RecordError(
            record.key, f"its text is {type(record.text).__name__}, not str (record {position})"
        )
    try:
        record.text.encode()
        record.key.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            storable(record.key),
            f"character {error.start} is half of a surrogate pair, which UTF-8 cannot hold",
        ) from error
    if not record.key:
        raise RecordError(str(position), "its key is empty")
