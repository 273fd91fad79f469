"""The option `--template`: the name of a reranker's template, or a file that contains one."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone.encoding.templates import AnyTemplate

_SUFFIXES = (".json", ".toml")


def read_template(value: str | None) -> AnyTemplate | None:
    """Return the template that the user named, or read it from a `.json` or `.toml` file.

    The file contains the fields of a `PairTemplate`.

    Raises:
        ConfigError: The name is unknown; or the file does not exist, is damaged, or contains
            something else.
    """
    from quernstone.encoding.templates import OFFICIAL, PairTemplate

    if value is None or value in OFFICIAL:
        return cast("AnyTemplate | None", value)
    path = Path(value).expanduser()
    if path.suffix.lower() not in _SUFFIXES:
        names = " or ".join(map(repr, OFFICIAL))
        raise ConfigError(f"unknown template {value!r}; use {names}, or a .json or .toml file")
    content = _read(path)
    known = [field.name for field in fields(PairTemplate)]
    unknown = [name for name in content if name not in known]
    if unknown or "prefix" not in content:
        problem = f"unknown field `{unknown[0]}`" if unknown else "`prefix` is missing"
        raise ConfigError(f"--template {path}: {problem}; the fields are {', '.join(known)}")
    try:
        return PairTemplate(**content)
    except ConfigError as error:
        raise ConfigError(f"--template {path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    import orjson

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template {path}: cannot be read: {error}") from error
    try:
        content = orjson.loads(text) if path.suffix.lower() == ".json" else _read_toml(text)
    except ValueError as error:  # of both parsers
        raise ConfigError(f"--template {path}: not valid {path.suffix[1:]}: {error}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ConfigError(f"--template {path}: expected an object with fields, not a {found}")
    return content


def _read_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    raise ConfigError("--template: TOML needs Python 3.11 or newer; write the file as JSON")
