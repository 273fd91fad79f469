"""The options of `quern load` that say how a new collection stores its points."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, get_args

import typer

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.settings import (
    PRESETS,
    CollectionSettings,
    DeferIndex,
    FieldType,
    Preset,
)

_PANEL = "Collection"
PresetName = Annotated[
    Preset | None,
    typer.Option(
        "--preset",
        help="How vectors are stored. (default: dense, or as it is)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Prefix = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Preset mrl: numbers of the short vectors. (default: a quarter)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
LayoutOption = Annotated[
    LayoutName | None,
    typer.Option(
        "--layout",
        help="Shape of the payload. (default: universal, or as it is)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Hybrid = Annotated[
    bool | None,
    typer.Option(
        "--hybrid/--no-hybrid",
        help="Whether it can be searched by words, too (BM25). (default: no, or as it is)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        help="Language of the words, in English. (default: english)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Indexes = Annotated[
    list[str] | None,
    typer.Option(
        "--index",
        metavar="FIELD=TYPE",
        help="Metadata field to be filtered on: keyword, integer, float, bool, datetime, uuid, "
        "text; may be repeated.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Defer = Annotated[
    DeferIndex,
    typer.Option(
        "--defer-index",
        help="How to put a server's indexing off until the load has ended.",
        rich_help_panel=_PANEL,
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Wait so long until all is indexed. (default: do not wait)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


def chosen_preset(
    preset: Preset | None, prefix: int | None, language: str | None, indexes: list[str] | None
) -> Preset | CollectionSettings | None:
    """What the options ask of a collection; None: nothing.

    Raises:
        ConfigError: Settings that cannot go together.
    """
    if prefix is None and language is None and not indexes:
        return preset
    settings = PRESETS[preset or "dense"]
    if prefix is not None:
        settings = replace(settings, prefix=prefix)
    if language is not None:
        settings = replace(settings, language=language)
    return replace(settings, indexes=dict(_index(text) for text in indexes or ()))


def _index(text: str) -> tuple[str, FieldType]:
    name, _, kind = text.partition("=")
    for known in get_args(FieldType):
        if name and kind == known:
            return name, known
    raise ConfigError(
        f"--index {text!r} is not of the form FIELD=TYPE, with {', '.join(get_args(FieldType))}"
    )
