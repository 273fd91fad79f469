"""Options of searches that not every target has."""

from __future__ import annotations

from collections.abc import Collection

from quernstone.errors import ConfigError
from quernstone_qdrant.targets.requests import Feature

_SERVER_ONLY: dict[Feature, str] = {
    "consistency": "there is one copy of each point",
    "timeout": "a search runs in this process",
}


def check_local(features: Collection[Feature], place: str) -> None:
    """Check features for a target in this process.

    Args:
        features: What searches ask for.
        place: Name of the target, for the error.

    Raises:
        ConfigError: A feature needs a server.
    """
    for feature in sorted(features):
        if feature in _SERVER_ONLY:
            raise ConfigError(
                f"`{feature}` needs a server; in {place}, {_SERVER_ONLY[feature]}: search without "
                f"`{feature}`"
            )
