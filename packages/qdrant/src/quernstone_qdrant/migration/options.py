"""Arguments that both kinds of migrations use."""

from __future__ import annotations

from dataclasses import dataclass

from quernstone.errors import ConfigError
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.migration.comparison import Queries
from quernstone_qdrant.migration.report import RunningReport
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOptions:
    """Checked arguments of `QdrantMigration`."""

    target: Target
    """The collection by the name that programs use."""
    embedder: TextEmbedder | None
    overrides: SettingsOverrides
    queries: Queries
    to: str | None
    batch_size: int
    request_bytes: int
    retry: Retry
    sample: int
    skip_errors: bool
    most_passes: int
    index_timeout: float
    running: RunningReport

    def model(self) -> TextEmbedder:
        """Return the new embedder.

        Raises:
            ConfigError: None was given.
        """
        if self.embedder is None:
            raise ConfigError("`embedder` is None: pass the model of the new collection")
        return self.embedder

    def check_reachable(self) -> None:
        """Check that the server answers, with a short patience.

        Raises:
            TargetError: It does not.
        """
        if self.target.kind == "server":
            Retry(min(self.retry.patience, OPENING_PATIENCE)).call(self.target.exists)
