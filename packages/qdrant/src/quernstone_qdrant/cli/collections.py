"""The options of `quern load` that decide how a new collection stores its points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, get_args

import typer

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.settings import PRESETS, CollectionSettings, DeferIndex, FieldType, Preset

_option = partial(typer.Option, rich_help_panel="Collection")


@dataclass(frozen=True)
class StorageOptions:
    """How a new collection stores and indexes its points."""

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
            help="Metadata field to filter by: keyword, integer, float, bool, datetime, uuid, "
            "text. May be repeated.",
        ),
    ] = None
    defer_index: Annotated[
        DeferIndex, _option(help="How to defer indexing on a server until the load has ended.")
    ] = "none"
    wait: Annotated[
        float | None,
        _option(
            min=0,
            metavar="SECONDS",
            help="Wait up to this long until everything is indexed. (default: do not wait)",
        ),
    ] = None

    def settings(self) -> Preset | CollectionSettings | None:
        """Return the preset, with changes if there are any; None if no option was given.

        Raises:
            ConfigError: The settings contradict each other.
        """
        if self.prefix is None and self.language is None and not self.indexes:
            return self.preset
        settings = PRESETS[self.preset or "dense"]
        if self.prefix is not None:
            settings = replace(settings, prefix=self.prefix)
        if self.language is not None:
            settings = replace(settings, language=self.language)
        return replace(settings, indexes=dict(_index(text) for text in self.indexes or ()))


def _index(text: str) -> tuple[str, FieldType]:
    name, _, kind = text.partition("=")
    for known in get_args(FieldType):
        if name and kind == known:
            return name, known
    raise ConfigError(
        f"--index {text!r} is not of the form FIELD=TYPE, with {', '.join(get_args(FieldType))}"
    )
