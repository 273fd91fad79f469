"""Ask a server about itself: its dialect, model and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from quernstone.engines.remote.answers import ShapeError, read_embeddings
from quernstone.engines.remote.backend import find_key
from quernstone.engines.remote.options import DialectName, RemoteOptions
from quernstone.engines.remote.transport import Transport
from quernstone.errors import RemoteError, RemoteRequestError, RemoteUnavailableError
from quernstone.types import Float32Array

_TAKE_IDS: tuple[DialectName, ...] = ("openai", "vllm", "sglang")
"""Dialects in which `/v1/embeddings` may accept lists of token ids, as OpenAI's does."""

# `owned_by` in `/v1/models` -> dialect
_OWNERS: dict[str, DialectName] = {"vllm": "vllm", "sglang": "sglang", "infinity": "infinity"}


@dataclass(frozen=True, slots=True)
class Recognized:
    """Dialect and model that a server reports."""

    dialect: DialectName
    model: str
    """Name of the first model; empty if the server does not report it."""


def recognize(endpoint: str) -> Recognized:
    """Ask a server for its dialect and model.

    A server that does not answer counts as `openai` without a model; its first use then reports
    the fault.

    Raises:
        ConfigError: `endpoint` is not an address.
    """
    with Server(RemoteOptions(endpoint=endpoint)) as server:
        try:
            return server.recognize()
        except RemoteUnavailableError:
            return Recognized("openai", "")


class Server:
    """Connection to a server without retries; unanswered requests return None."""

    def __init__(self, options: RemoteOptions) -> None:
        self.options = options
        self._transport = Transport(replace(options, max_retries=0), find_key(options))

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._transport.close()

    def recognize(self) -> Recognized:
        """Detect the dialect and the model.

        Raises:
            RemoteUnavailableError: The server does not answer.
        """
        info = self._get("/info")
        if isinstance(info, dict) and "model_id" in info:
            return Recognized("tei", str(info["model_id"]))
        models = self._get("/v1/models") or self._get("/models")
        cards = models.get("data") if isinstance(models, dict) else None
        card = cards[0] if isinstance(cards, list) and cards else {}
        if not isinstance(card, dict):
            card = {}
        dialect = _OWNERS.get(str(card.get("owned_by", "")).lower(), "openai")
        return Recognized(dialect, str(card.get("id", "")))

    def pooling(self) -> str | None:
        """Return the pooling that the server reports; None if it does not."""
        if self.options.dialect != "tei":
            return None
        info = self._get("/info")
        kinds = info.get("model_type") if isinstance(info, dict) else None
        kind = kinds.get("embedding") if isinstance(kinds, dict) else None
        return str(kind["pooling"]) if isinstance(kind, dict) and "pooling" in kind else None

    def embed_ids(self, model: str, sequences: Sequence[Sequence[int]]) -> Float32Array | None:
        """Return embeddings of token ids; None if the server does not accept ids."""
        if self.options.dialect not in _TAKE_IDS:
            return None
        body = {"model": model, "input": [list(ids) for ids in sequences]}
        try:
            answer = self._transport.start(self._transport.post("/v1/embeddings", body)).result()
            rows = [vector for _, vector in sorted(read_embeddings(answer), key=lambda row: row[0])]
            vectors = np.asarray(rows, dtype=np.float32)
        except (RemoteError, ShapeError, ValueError):
            return None
        complete = vectors.ndim == 2 and len(vectors) == len(sequences)
        return vectors if complete and np.isfinite(vectors).all() else None

    def _get(self, path: str) -> Any:
        """Return the answer; None if the server does not know the path."""
        try:
            return self._transport.start(self._transport.get(path)).result()
        except RemoteRequestError:
            return None
