"""The collection settings that a caller requests, for a new or an existing collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.settings import PRESETS, CollectionSettings, Preset, check_choice


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsOverrides:
    """The settings that a caller requests. None leaves a setting unchanged.

    Raises:
        ConfigError: The preset or the layout is unknown.
    """

    preset: Preset | CollectionSettings | None = None
    layout: LayoutName | None = None
    hybrid: bool | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Values of single fields of `CollectionSettings`, by name."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.changes) - {known.name for known in fields(CollectionSettings)})
        if unknown:
            raise ConfigError(
                f"`settings` names {', '.join(unknown)}; the settings of a collection are "
                f"{', '.join(known.name for known in fields(CollectionSettings))}"
            )
        if self.preset is not None or not self.changes:
            # Changes alone may only be valid with the other settings of an existing collection.
            self.apply_to(CollectionSettings())

    @property
    def names(self) -> frozenset[str]:
        """Names of the settings that are requested."""
        if self.preset is not None:
            return frozenset(known.name for known in fields(CollectionSettings))
        named = {"layout": self.layout, "bm25": self.hybrid}
        return frozenset([*self.changes, *(n for n, value in named.items() if value is not None)])

    def apply_to(self, settings: CollectionSettings) -> CollectionSettings:
        """Return `settings` with the requested changes."""
        if isinstance(self.preset, CollectionSettings):
            settings = self.preset
        elif self.preset is not None:
            check_choice("preset", self.preset, list(PRESETS))
            settings = PRESETS[self.preset]
        if self.changes:
            settings = replace(settings, **self.changes)
        if self.layout is not None:
            settings = replace(settings, layout=self.layout)
        if self.hybrid is not None and self.hybrid != (settings.bm25 is not None):
            settings = replace(settings, bm25="auto" if self.hybrid else None)
        return settings


NO_OVERRIDES = SettingsOverrides()
"""Leaves every setting unchanged."""
