"""Check search options that only some targets support."""

from __future__ import annotations

from collections.abc import Collection

from quernstone.errors import ConfigError
from quernstone_qdrant.targets.configuration import version_of
from quernstone_qdrant.targets.requests import Feature

_SINCE: dict[Feature, tuple[int, int]] = {"feedback": (1, 17)}
"""Minimum server versions, if newer than the one that collection metadata needs. Over gRPC, an
older server would silently ignore the option."""
_SERVER_ONLY: dict[Feature, str] = {
    "consistency": "there is one copy of each point",
    "timeout": "a search runs in this process",
}


def check_local(features: Collection[Feature], place: str, *, groups: bool = True) -> None:
    """Check features for a target in this process.

    Args:
        features: The options that searches use.
        place: Name of the target, for the error.
        groups: True if it can group hits.

    Raises:
        ConfigError: The target lacks a feature.
    """
    for feature in sorted(features):
        if feature in _SERVER_ONLY:
            raise ConfigError(
                f"`{feature}` needs a server; in {place}, {_SERVER_ONLY[feature]}: search without "
                f"`{feature}`"
            )
        if feature == "group_by" and not groups:
            raise ConfigError(
                f"{place} cannot group hits: search without `group_by` and `per_document`, or use "
                "the embedded client or a server"
            )


def check_version(features: Collection[Feature], version: str | None) -> None:
    """Check features for a server.

    Args:
        features: The options that searches use.
        version: Version of the server; None if it does not say.

    Raises:
        ConfigError: The server is too old for a feature, or does not say its version.
    """
    for feature in sorted(features):
        since = _SINCE.get(feature, (0, 0))
        if (version_of(version) or (0, 0)) < since:
            raise ConfigError(
                f"`{feature}` needs Qdrant {since[0]}.{since[1]}; this server is "
                f"{version or 'of an unknown version'}: upgrade it, or search without `{feature}`"
            )
