"""Paths of metadata fields, as Qdrant writes them."""

from __future__ import annotations

import re

from quernstone.errors import ConfigError

_PART = re.compile(r'("[^"\\]*"|[^"\\.\[\]]+)((?:\[\])*)')
_PLAIN = re.compile(r"[\w-]+")
_MAX_DOTS = 5
"""Names with more dots have more than 32 readings; they must be quoted."""


def field_path(*names: str) -> str:
    """Return the path of nested fields, with quotes around names that need them.

    Raises:
        ConfigError: A name has a double quote or a backslash, which no path can hold.
    """
    for name in names:
        if '"' in name or "\\" in name:
            raise ConfigError(
                f"the field {name!r} has a double quote or a backslash in its name, and paths of "
                "Qdrant have no way to write these: rename the field to filter by it"
            )
    return ".".join(name if _PLAIN.fullmatch(name) else f'"{name}"' for name in names)


def field_paths(name: str) -> list[str]:
    """Return the paths that the name of a field may stand for.

    A dot separates the names of nested fields or is part of a name, so `a.b` has two paths. Quotes
    take a part as it is, and `[]` enters a list.

    Raises:
        ConfigError: Qdrant has no path for the name, or it has more than five dots.
    """
    parts = _parts(name)
    if parts is None:  # brackets or quotes that are part of a name
        return [field_path(name)]
    if len(parts) > _MAX_DOTS + 1:
        raise ConfigError(
            f"the field {name!r} has more than {_MAX_DOTS} dots: put names that have dots in "
            'double quotes, such as "a.b".c'
        )
    readings: list[list[str]] = [[parts[0]]]
    for part in parts[1:]:
        readings = [
            longer
            for reading in readings
            for longer in ([*reading, part], [*reading[:-1], f"{reading[-1]}.{part}"])
            if len(longer) > len(reading) or not _is_fixed(reading[-1], part)
        ]
    return [".".join(map(_written, reading)) for reading in readings]


def _parts(name: str) -> list[str] | None:
    parts, place = [], 0
    while True:
        found = _PART.match(name, place)
        if found is None:
            return None
        parts.append(found[0])
        place = found.end()
        if place == len(name):
            return parts
        if name[place] != ".":
            return None
        place += 1


def _is_fixed(left: str, right: str) -> bool:
    return left.startswith('"') or left.endswith("[]") or right.startswith('"')


def _written(part: str) -> str:
    name = part.rstrip("[]")
    return part if name.startswith('"') else field_path(name) + part[len(name) :]
