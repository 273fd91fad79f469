"""Find fields that no document has, such as a misspelled one in a filter."""

from __future__ import annotations

from collections.abc import Iterable

from qdrant_client.models import Filter, IsEmptyCondition, IsNullCondition, PayloadField

from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.documents.paths import field_paths
from quernstone_qdrant.targets import Target


def missing_fields(target: Target, names: Iterable[str], layout: Layout) -> list[str]:
    """Return the names of metadata fields that no point has.

    Raises:
        TargetError: The collection cannot be read.
    """
    missing = []
    for name in dict.fromkeys(names):
        fields = [PayloadField(key=layout.field(path)) for path in field_paths(name)]
        # One condition per request: strict mode may limit their number.
        has_value = [Filter(must_not=[IsEmptyCondition(is_empty=field)]) for field in fields]
        has_null = [Filter(must=[IsNullCondition(is_null=field)]) for field in fields]
        if not any(_finds(target, where) for where in (*has_value, *has_null)):
            missing.append(name)
    return missing


def _finds(target: Target, where: Filter) -> bool:
    return next(iter(target.scroll([], batch=1, where=where)), None) is not None
