"""The state of a server: loading, ready, stopping or failed."""

from __future__ import annotations

import asyncio
import gc
from typing import Literal

from quernstone.serve.failures import NotReadyError
from quernstone.serve.models import Load, Models
from quernstone.serve.options import ServeOptions
from quernstone.serve.telemetry import Telemetry


class State:
    """The models of a server, once they are loaded."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.telemetry = Telemetry()
        self.status: Literal["loading", "ready", "stopping", "failed"] = "loading"
        self.error: BaseException | None = None
        """The exception that was raised while loading, if any."""
        self._models: Models | None = None

    def models(self) -> Models:
        """Return the models.

        Raises:
            NotReadyError: The models are not loaded, or the server is stopping.
        """
        if self._models is None or self.status != "ready":
            raise NotReadyError(f"the server is {self.status}")
        return self._models

    async def load(self, load: Load) -> None:
        """Load the models in a thread."""
        self._models = await asyncio.to_thread(load)
        self.telemetry.watch(self._models)
        # Otherwise a full garbage collection would walk all loaded objects and stop every request.
        gc.collect()
        gc.freeze()
        self.status = "ready"

    def fail(self, error: BaseException) -> None:
        """Record that the models cannot be loaded."""
        self.status, self.error = "failed", error

    def stop(self) -> None:
        """Refuse new work, and finish what is running."""
        if self.status == "ready":
            self.status = "stopping"

    def close(self) -> None:
        """Release the models."""
        if self._models is not None:
            self._models.close()
