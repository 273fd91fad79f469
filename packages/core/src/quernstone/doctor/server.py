"""What a server can be asked beyond embeddings and scores."""

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
"""Dialects in which `/v1/embeddings` may take lists of token ids, as OpenAI's does."""

# `owned_by` in `/v1/models` -> dialect
_OWNERS: dict[str, DialectName] = {"vllm": "vllm", "sglang": "sglang", "infinity": "infinity"}


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a server says it is."""

    dialect: DialectName
    model: str
    """The first model that it serves; empty where it does not say."""


def recognise(endpoint: str) -> Recognised:
    """Ask the server at an address what it is.

    One that does not answer is `openai` and serves nothing: what is wrong shows when it is used.

    Raises:
        ConfigError: It is no address.
    """
    with Server(RemoteOptions(endpoint=endpoint)) as server:
        try:
            return server.recognise()
        except RemoteUnavailableError:
            return Recognised("openai", "")


class Server:
    """One server, asked without patience: what it does not answer, it does not know."""

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

    def recognise(self) -> Recognised:
        """Find out the dialect and the model.

        Raises:
            RemoteUnavailableError: Nobody answers.
        """
        info = self._get("/info")
        if isinstance(info, dict) and "model_id" in info:
            return Recognised("tei", str(info["model_id"]))
        models = self._get("/v1/models") or self._get("/models")
        cards = models.get("data") if isinstance(models, dict) else None
        card = cards[0] if isinstance(cards, list) and cards else {}
        if not isinstance(card, dict):
            card = {}
        dialect = _OWNERS.get(str(card.get("owned_by", "")).lower(), "openai")
        return Recognised(dialect, str(card.get("id", "")))

    def pooling(self) -> str | None:
        """How the server says that it pools; None where it does not say."""
        if self.options.dialect != "tei":
            return None
        info = self._get("/info")
        kinds = info.get("model_type") if isinstance(info, dict) else None
        kind = kinds.get("embedding") if isinstance(kinds, dict) else None
        return str(kind["pooling"]) if isinstance(kind, dict) and "pooling" in kind else None

    def embed_ids(self, model: str, sequences: Sequence[Sequence[int]]) -> Float32Array | None:
        """Embeddings of token ids; None where the server takes none."""
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
        """An answer; None where the server does not know the path."""
        try:
            return self._transport.start(self._transport.get(path)).result()
        except RemoteRequestError:
            return None
