"""Compare an existing collection with its wanted settings, and change those that can change.

Everything is compared before anything is written, so a collection that is refused stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from quernstone_qdrant.errors import CollectionError, ProvenanceError
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.settings import (
    BM25,
    CONFIGURED,
    IN_PLACE,
    PREFIX,
    CollectionSettings,
    VectorSettings,
)
from quernstone_qdrant.targets import CollectionState, Target, VectorState
from quernstone_qdrant.targets.deferred_indexing import deferring_loads

_ELSEWHERE = "use another collection"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A difference between a collection and its settings."""

    setting: str
    """Field of `CollectionSettings`."""
    what: str
    found: object
    wanted: object


def updated_settings(
    existing: CollectionSettings, overrides: SettingsOverrides, dimensions: int, collection: str
) -> CollectionSettings:
    """Return the settings of an existing collection with the changes that are requested.

    Raises:
        CollectionError: A setting is requested that cannot change.
    """
    differences = overrides.apply_to(existing).differences(existing)
    fixed = [one for one in differences if one[0] not in IN_PLACE]
    if fixed:
        found = ", ".join(f"{name}={value!r}" for name, value, _ in fixed)
        expected = ", ".join(f"{name}={value!r}" for name, _, value in fixed)
        raise CollectionError(
            collection,
            f"it was created with {found}, but {expected} is requested; do not request it, or use "
            "another collection",
        )
    changes: dict[str, object] = {name: value for name, _, value in differences}
    return replace(existing, **changes).resolved(dimensions)  # type: ignore[arg-type]


def adopted_settings(
    state: CollectionState, overrides: SettingsOverrides, dimensions: int, *, embedded: bool
) -> CollectionSettings:
    """Return the settings of an empty collection that another program created.

    Settings that are not requested stay as that program chose them, if ours can express them.
    """
    found = CollectionSettings()
    if len(state.vectors) == 1 and not embedded:
        (vector,) = state.vectors.values()
        quantization = vector.quantization if vector.quantization != "product" else None
        found = replace(
            found,
            datatype="float16" if vector.datatype == "float16" else "float32",
            quantization=quantization,  # type: ignore[arg-type]
            on_disk=vector.on_disk,
        )
    return overrides.apply_to(found).resolved(dimensions)


def reconcile(
    target: Target,
    state: CollectionState,
    settings: CollectionSettings,
    dimensions: int,
    *,
    requested: Collection[str] | None,
    note: Callable[[str], None],
) -> None:
    """Make an existing collection fit its settings, or refuse it before anything is written.

    Args:
        target: The collection.
        state: Its state.
        settings: The settings that it should have.
        dimensions: Size of the embeddings.
        requested: Names of the settings that the caller requests. A difference in any other setting
            is an error, because another program may have changed it on purpose. None: the
            collection is empty, and gets all settings.
        note: Called with each change, in words.

    Raises:
        CollectionError: The collection cannot get these settings; the error names the fix.
        ProvenanceError: The size of a vector differs.
    """
    adopting = requested is None
    missing = _check_vectors(target, state, settings, dimensions, adopting=adopting)
    found = [] if target.kind == "embedded" else _mismatches(state, settings, dimensions)
    fixed = [one for one in found if one.setting not in IN_PLACE]
    if fixed:
        raise CollectionError(
            target.collection,
            "; ".join(f"{one.what} is {one.found!r}, not {one.wanted!r}" for one in fixed)
            + f", which cannot change: do not request it, or {_ELSEWHERE}",
        )
    unrequested = (
        [] if requested is None else [one for one in found if one.setting not in requested]
    )
    if unrequested:
        raise CollectionError(
            target.collection,
            "; ".join(
                f"{one.what} is {one.found!r}, but {one.wanted!r} is recorded"
                for one in unrequested
            )
            + f": request {', '.join(f'{one.setting}={one.wanted!r}' for one in unrequested)} to "
            "change the collection, or the present value to record it",
        )
    if any(one.setting == "m" for one in found) and deferring_loads(state):
        raise CollectionError(
            target.collection,
            "`m` cannot change while a load defers indexing; load again after it, or restore the "
            "index settings with `quern collection index --restore`",
        )
    names = {one.setting for one in found}
    for one in found:
        note(f"changed {one.what} from {one.found!r} to {one.wanted!r}")
    if missing:
        # Qdrant adds vectors with its default storage, so set ours afterwards.
        names |= {"quantization", "on_disk"}
        note(f"added {_described(missing)}")
    if missing or found or adopting:
        target.change(settings, dimensions, names)


def _check_vectors(
    target: Target,
    state: CollectionState,
    settings: CollectionSettings,
    dimensions: int,
    *,
    adopting: bool,
) -> list[str]:
    """Refuse vectors that cannot change; return the names of those that can be added."""
    collection, needed = target.collection, settings.vectors(dimensions)
    missing = [name for name in needed if name not in state.vectors]
    unused = state.unused - needed.keys()
    extra = [name for name in state.vectors if name not in needed and name not in unused]
    if extra or (missing and (missing != [PREFIX] or not adopting)):
        raise CollectionError(
            collection,
            f"it has {_described(state.vectors)}, but the settings need {_described(needed)}: "
            "request settings with these names (`vector`), or use another collection",
        )
    for name, vector in state.vectors.items():
        if name in unused:
            continue
        _check_vector(collection, name, vector, needed[name], embedded=target.kind == "embedded")
    if settings.bm25 == "sparse":
        if BM25 not in state.sparse:
            if not adopting:
                raise CollectionError(
                    collection,
                    f"its points have no sparse vectors `{BM25}` for hybrid search; load them into "
                    "another collection with `hybrid=True`",
                )
            missing.append(BM25)
        elif not state.sparse[BM25]:
            raise CollectionError(
                collection,
                f"its sparse vector `{BM25}` has no IDF modifier, without which BM25 ranks "
                "wrongly: create it with `SparseVectorParams(modifier=Modifier.IDF)`, or "
                f"{_ELSEWHERE}",
            )
    unfilled = [name for name in state.sparse if name != BM25 or settings.bm25 != "sparse"]
    if unfilled and adopting:
        raise CollectionError(
            collection,
            f"it has the sparse vector `{unfilled[0]}`, which these settings would leave empty: "
            f"load with `hybrid=True` if it is named `{BM25}`, or {_ELSEWHERE}",
        )
    return missing


def _check_vector(
    collection: str, name: str, found: VectorState, needed: VectorSettings, *, embedded: bool
) -> None:
    label = f"vector `{name}`: " if name else ""
    if found.size != needed.size:
        raise ProvenanceError(collection, "dimensions", found.size, needed.size)
    if found.multivector:
        raise CollectionError(
            collection,
            f"{label}it is a multivector, of which a point has several; {_ELSEWHERE}",
        )
    if found.datatype != needed.datatype and not embedded:
        raise CollectionError(
            collection,
            f"{label}its datatype is {found.datatype}, but the settings need {needed.datatype}: "
            f"request datatype={found.datatype!r} if you want it, or {_ELSEWHERE}",
        )
    distances = {"Cosine", "Dot"} if needed.distance == "Cosine" else {"Euclid"}
    if found.distance not in distances:
        raise CollectionError(
            collection,
            f"{label}its distance is {found.distance}; it must be "
            f"{' or '.join(sorted(distances))}: {_ELSEWHERE}",
        )


def _mismatches(
    state: CollectionState, settings: CollectionSettings, dimensions: int
) -> list[Mismatch]:
    """Return the differences in storage, graph and indexes. Most of them can change in place."""
    found: list[Mismatch] = []
    needed = settings.vectors(dimensions)
    for name, vector in state.vectors.items():
        if name not in needed:  # the vector of a migration in place
            continue
        for setting in ("quantization", "on_disk"):
            is_now, wanted = getattr(vector, setting), getattr(needed[name], setting)
            if is_now != wanted:
                what = f"{setting} of vector `{name}`" if name else setting
                found.append(Mismatch(setting, what, is_now, wanted))
    deferred = deferring_loads(state)
    for name in CONFIGURED:
        wanted, is_now = getattr(settings, name), state.config.get(name)
        if name == "m" and deferred:
            is_now = deferred[0].original.m
        same = is_now == wanted or (wanted is False and is_now is None)
        if wanted is not None and name in state.config and not same:
            found.append(Mismatch(name, name, is_now, wanted))
    for path, kind in settings.fields().items():
        if (is_now := state.payload_indexes.get(path, kind)) != kind:
            found.append(Mismatch("indexes", f"the payload index of {path}", is_now, kind))
    return found


def _described(vectors: Iterable[str]) -> str:
    names = [f"`{name}`" for name in vectors if name]
    return f"named vectors ({', '.join(names)})" if names else "one unnamed vector"
