"""Compare the payload indexes of a collection with its settings."""

from __future__ import annotations

from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets.base import CollectionState, TargetKind


def indexed_paths(settings: CollectionSettings) -> list[str]:
    """Return the payload paths that have an index in a collection with these settings."""
    text = [settings.text_field] if settings.bm25 == "text" else []
    return [*settings.fields(), *settings.key_fields(), *text]


def wrong_indexes(
    settings: CollectionSettings, state: CollectionState, kind: TargetKind
) -> dict[str, str]:
    """Describe each payload index that is missing or has another type, by path.

    The embedded client filters without indexes and lists none.
    """
    if kind == "embedded":
        return {}
    paths = indexed_paths(settings)
    wrong = {path: "is missing" for path in paths if path not in state.payload_indexes}
    for path, wanted in settings.fields().items():
        found = state.payload_indexes.get(path, wanted)
        if found != wanted:
            wrong[path] = f"has type {found!r} instead of {wanted!r}"
    return wrong
