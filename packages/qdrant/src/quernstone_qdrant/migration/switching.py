"""The two collections of a migration, and how a name is switched from one to the other.

On a server and in an embedded Qdrant, an alias leads to the old or the new collection, and one
request switches it. Edge has no aliases, so two folders exchange their names. Which collection is
which is read from their metadata, so a migration continues after a kill at any moment.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from quernstone.errors import ConfigError
from quernstone_qdrant.errors import CollectionError, CollectionReplacedError
from quernstone_qdrant.migration.joining import MIGRATION_KEY
from quernstone_qdrant.targets import ClientTarget, CollectionState, Target
from quernstone_qdrant.targets.edge import EdgeTarget
from quernstone_qdrant.targets.edge_files import exchange_folders, finish_exchange, folder_name

_MAX_NAMES = 1000


class Pair(Protocol):
    """The old and the new collection of a migration.

    `old` and `new` lead to the collections themselves, whatever the name leads to.
    """

    name: str
    """The name that programs use."""
    old: Target
    new: Target
    switched: bool
    """True if `name` leads to the new collection."""
    gone: bool
    """True if the old collection was deleted, since its own name was switched."""

    def check_switchable(self) -> None:
        """Raise an error if `switch` cannot work.

        Raises:
            ConfigError: The name is that of a collection, which a server cannot rename.
        """
        ...

    def switch(self) -> None:
        """Let the name lead to the new collection.

        Raises:
            CollectionReplacedError: It does not lead to the old one any more.
        """
        ...

    def switch_back(self) -> None:
        """Let the name lead to the old collection."""
        ...

    def drop(self, which: Target) -> None:
        """Delete one of the two collections."""
        ...


def open_pair(
    target: Target, *, wanted: str | None, suffix: str, alias: str | None, replace: bool
) -> Pair:
    """Find the collections of a migration, by what their metadata says.

    Args:
        target: The collection by the name that programs use.
        wanted: Name of the new collection; None: that of a migration under way, or a free one.
        suffix: Part of the name of a new collection, such as that of the model.
        alias: Alias to switch if the target's name is that of a collection.
        replace: Delete a collection whose name is not an alias, and give its name to the new one.
    """
    if isinstance(target, EdgeTarget):
        return EdgePair(target, wanted, suffix)
    if isinstance(target, ClientTarget):
        return AliasPair(target, wanted, suffix, alias, replace=replace)
    raise ConfigError(
        f"a collection of {type(target).__name__} cannot be migrated: pass a `QdrantClient` or a "
        "target of this package"
    )


def migration_record(state: CollectionState) -> Mapping[str, Any]:
    """Return what a migration recorded in a collection; empty without one."""
    found = state.metadata.get(MIGRATION_KEY)
    return found if isinstance(found, dict) else {}


def _free_name(name: str, suffix: str, target: Any) -> str:
    base = f"{name}-{re.sub('[^A-Za-z0-9.]+', '-', suffix).strip('-').lower()}"
    for number in range(1, _MAX_NAMES):
        candidate = base if number == 1 else f"{base}-{number}"
        if not target(candidate).exists():
            return candidate
    raise ConfigError(f"{base!r} to {base}-{_MAX_NAMES - 1} exist: name the new collection")


class AliasPair:
    """Two collections of one client, and an alias."""

    def __init__(
        self,
        target: ClientTarget,
        wanted: str | None,
        suffix: str,
        alias: str | None,
        *,
        replace: bool,
    ) -> None:
        self._client = target.client
        if not target.exists():
            target = self._interrupted(target)
        here = target.pinned()
        is_alias = here.collection != target.collection
        self.name = target.collection if is_alias or replace else alias or target.collection
        self._replace = replace and not is_alias
        self._is_alias = is_alias or (alias is not None and not replace)
        if alias is not None and not is_alias and not replace:
            here = self._led_to(alias, here)
        record = migration_record(here.state())
        self.switched = bool(record.get("from"))
        self.gone = "replaces" in record
        if self.switched:
            self.new: Target = here
            self.old: Target = ClientTarget(self._client, str(record["from"]))
            return
        other = wanted or record.get("to") or _free_name(self.name, suffix, self._at)
        if other in (here.collection, self.name):
            raise ConfigError(f"the new collection {other!r} is the old one: use another name")
        self.old, self.new = here, ClientTarget(self._client, str(other))

    def _at(self, name: str) -> ClientTarget:
        return ClientTarget(self._client, name)

    def _led_to(self, alias: str, here: ClientTarget) -> ClientTarget:
        """Return the collection of an alias, which is created for the old one if it is missing."""
        named = self._at(alias)
        if not named.exists():
            return here
        found = named.pinned()
        of = migration_record(found.state()).get("from")
        if found.collection == alias or here.collection not in (found.collection, of):
            raise ConfigError(
                f"{alias!r} is not an alias of {here.collection!r}: choose another name"
            )
        return found

    def _interrupted(self, target: ClientTarget) -> ClientTarget:
        """Create the alias that a kill prevented after the old collection was deleted."""
        for known in self._client.get_collections().collections:
            found = self._at(known.name)
            record = migration_record(found.state())
            if record.get("replaces") == target.collection:
                found.take_alias(target.collection)
                return target
        return target

    def check_switchable(self) -> None:
        """See `Pair.check_switchable`."""
        if not self._is_alias and not self._replace:
            raise ConfigError(
                f"{self.name!r} is the name of a collection, and Qdrant cannot rename one. Either "
                "let your programs use an alias, which can be switched: `alias` (--alias) creates "
                "it for the old collection at once and switches it later. Or give up the way back: "
                f"`replace` (--replace) deletes {self.name!r} at the switch and makes its name an "
                "alias of the new collection"
            )
        if self._is_alias and not self._at(self.name).exists():
            cast("ClientTarget", self.old).take_alias(self.name)

    def switch(self) -> None:
        """See `Pair.switch`."""
        new = cast("ClientTarget", self.new)
        if self._replace:
            new.describe({MIGRATION_KEY: {**migration_record(new.state()), "replaces": self.name}})
            cast("ClientTarget", self.old).drop()
            self.gone = True
        else:
            led = self._at(self.name).pinned().collection
            if led != self.old.collection:
                raise CollectionReplacedError(
                    self.name, f"the alias was switched from {self.old.collection!r} to {led!r}"
                )
        new.take_alias(self.name)
        self.switched = True

    def switch_back(self) -> None:
        """See `Pair.switch_back`."""
        if self.gone:
            raise CollectionError(
                self.name, f"the old collection {self.old.collection!r} was deleted at the switch"
            )
        cast("ClientTarget", self.old).take_alias(self.name)
        self.switched = False

    def drop(self, which: Target) -> None:
        """See `Pair.drop`."""
        cast("ClientTarget", which).drop()


class EdgePair:
    """Two collections in one folder of Edge, which exchange their names."""

    def __init__(self, target: EdgeTarget, wanted: str | None, suffix: str) -> None:
        self.name, self._path, self.gone = target.collection, target.path, False
        finish_exchange(self._path / folder_name(self.name))
        record = migration_record(target.state())
        other = str(record.get("to") or wanted or _free_name(self.name, suffix, self._at))
        if other == self.name:
            raise ConfigError(f"the new collection {other!r} is the old one: use another name")
        self.switched = bool(record.get("from"))
        there = self._at(other)
        self.old: Target = there if self.switched else target
        self.new: Target = target if self.switched else there

    def _at(self, name: str) -> EdgeTarget:
        return EdgeTarget(self._path, name)

    def check_switchable(self) -> None:
        """See `Pair.check_switchable`. Folders can always be exchanged."""

    def switch(self) -> None:
        """See `Pair.switch`. The targets keep their names, so they change places."""
        self._exchange()
        self.switched = True

    def switch_back(self) -> None:
        """See `Pair.switch_back`."""
        self._exchange()
        self.switched = False

    def _exchange(self) -> None:
        one, other = cast("EdgeTarget", self.old), cast("EdgeTarget", self.new)
        if one.collection != self.name:
            one, other = other, one
        with one.closed() as here, other.closed() as there:
            exchange_folders(here, there)
        self.old, self.new = self.new, self.old

    def drop(self, which: Target) -> None:
        """See `Pair.drop`."""
        with cast("EdgeTarget", which).closed() as folder:
            # The description goes first: without it, the collection does not exist.
            (folder / "collection.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
