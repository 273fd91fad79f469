"""The models that the checks examine: an embedder or a reranker, with its files or its server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, Literal, TypeVar, cast

import numpy as np

from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.doctor.reference import LibraryReference, Reference
from quernstone.doctor.report import Outcome
from quernstone.doctor.server import Server
from quernstone.embedder import Embedder
from quernstone.encoding.encoder import EncodedBatch
from quernstone.encoding.prompts import ENDOFTEXT
from quernstone.encoding.templates import full_template
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder
from quernstone.engines.padding import whole_ids
from quernstone.errors import InputError
from quernstone.model import session_of
from quernstone.reranker import Reranker
from quernstone.runtime.session import Session
from quernstone.types import Encoded, Float32Array, TokenArray, unit_prefix

User = TypeVar("User", Embedder, Reranker)
Examined = TypeVar("Examined", "EmbeddingSubject", "RerankingSubject")

Ending = Literal["endoftext", "im_end", "nothing", "unknown"]

IM_END = "<|im_end|>"

# Limits of 1 - cosine. For vectors that must be equal, it is below 1e-6, even in bfloat16. For
# vectors that must differ, it was above 5e-4 with the tiny and with random models.
SAME = 3e-5
DIFFERENT = 1e-4


@dataclass(frozen=True, slots=True)
class Check(Generic[Examined]):
    """One check of a report."""

    name: str
    looks_at: str
    run: Callable[[Examined], Outcome]


@dataclass(eq=False)
class Subject(Generic[User]):
    """A loaded model, with its files, its server or its reference."""

    user: User
    checkpoint: Checkpoint | None = None
    """The model's files; `None` for a server."""
    server: Server | None = None
    """`None` for an engine on this machine."""
    reference: Reference | LibraryReference | None = None

    @property
    def _session(self) -> Session:
        return session_of(self.user)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer; None if the engine tokenizes."""
        return self._session.tokenizer

    def encoder(self, max_length: int) -> TokenEncoder | None:
        """Return our encoder with another limit; None if the engine tokenizes."""
        if self.tokenizer is None:
            return None
        first, final = "", ENDOFTEXT
        if self.checkpoint is not None:
            first, final = self.checkpoint.first_token, self.checkpoint.final_token
        return TokenEncoder(
            self.tokenizer,
            max_length=max_length,
            prompts=self._session.prompts,
            first_token=first,
            final_token=final,
        )

    @property
    def own_prompts(self) -> bool:
        """True if the model has its own prompts and tokenizer, so that ours do not apply.

        This applies to models other than Qwen3, loaded by sentence-transformers.
        """
        return self._session.own_prompts

    @property
    def width(self) -> int:
        """Numbers per row of the engine: for an embedder, the uncut length of a vector."""
        return self._session.width

    @property
    def dtype(self) -> str:
        """Dtype of the computation; `unknown` if a server does not report it."""
        return self.user.info.dtype

    @property
    def recomputed(self) -> int:
        """Inputs that overflowed the dtype and were computed again in float32."""
        return self.user.usage.recomputed


@dataclass(eq=False)
class EmbeddingSubject(Subject[Embedder]):
    """An embedder, with what its vectors reveal."""

    _known: dict[tuple[str, str | None], Float32Array] = field(default_factory=dict)

    def documents(self, texts: Sequence[str]) -> Float32Array:
        """Return vectors of documents, each computed alone to exclude faults of batching."""
        return np.stack([self._vector(text, None) for text in texts])

    def queries(self, texts: Sequence[str], instruction: str | None = None) -> Float32Array:
        """Return vectors of queries, each computed alone."""
        chosen = self.user.instruction if instruction is None else instruction
        return np.stack([self._vector(text, chosen) for text in texts])

    def ids(self, sequences: Sequence[Sequence[int]]) -> Float32Array | None:
        """Return unit vectors of unchanged token ids; `None` if the engine takes only text."""
        if self.server is not None:
            rows = self.server.embed_ids(self.user.model, sequences)
        elif self.tokenizer is not None:
            encoded = [Encoded(np.array(ids, dtype=np.int32)) for ids in sequences]
            rows = self._session.run_encoded(encoded)
        else:
            return None
        return None if rows is None else unit_prefix(rows, rows.shape[1])

    @cached_property
    def ending(self) -> Ending:
        """The token that a server appends to a text, inferred from its vectors.

        In a decoder, equal tokens have equal states: each attends to copies of one value, whose
        average is that value. So one control token and eight copies of it have the same vector if
        the pooled sequence holds nothing else, the appended token included.
        """
        same = {}
        for token in (ENDOFTEXT, IM_END):
            try:
                once, often = self.documents([token, token * 8])
            except InputError:  # some servers refuse texts without words
                return "unknown"
            distance = 1.0 - float(once @ often)
            if SAME < distance < DIFFERENT:
                return "unknown"
            same[token] = distance <= SAME
        if all(same.values()):
            return "nothing"
        if same[ENDOFTEXT]:
            return "endoftext"
        return "im_end" if same[IM_END] else "unknown"

    def _vector(self, text: str, instruction: str | None) -> Float32Array:
        key = (text, instruction)
        if key not in self._known:
            vector = (
                self.user.embed_documents([text])[0]
                if instruction is None
                else self.user.embed_query(text, instruction)
            )
            # Checks compare by cosine, also vectors that the model does not normalize.
            self._known[key] = unit_prefix(vector, len(vector))
        return self._known[key]


@dataclass(eq=False)
class RerankingSubject(Subject[Reranker]):
    """A reranker."""

    _known: dict[tuple[str, str, str], float] = field(default_factory=dict)

    @property
    def has_other_answers(self) -> bool:
        """True if the answers are not the tokens `no` and `yes`."""
        return bool(self.head_rows)

    @property
    def head_rows(self) -> tuple[int, ...]:
        """The rows of the head for other answers than `no` and `yes`: see `EngineConfig`."""
        return self._session.head_rows

    @property
    def score_name(self) -> str:
        """The name of a score, for messages."""
        return "P(yes)" if self._gives_probabilities else "the logit is"

    @property
    def _gives_probabilities(self) -> bool:
        return full_template(self.user.template).score == "probability"

    def logits(self, scores: Float32Array) -> Float32Array:
        """Return logits of scores: see `log_odds`. Shape: unchanged."""
        return log_odds(scores) if self._gives_probabilities else scores

    def scores(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None = None
    ) -> Float32Array:
        """Return P(yes) of pairs, each computed alone to exclude faults of batching."""
        chosen = self.user.instruction if instruction is None else instruction
        for query, document in pairs:
            key = (query, document, chosen)
            if key not in self._known:
                self._known[key] = float(self.user.score([(query, document)], chosen)[0])
        found = [self._known[query, document, chosen] for query, document in pairs]
        return np.array(found, dtype=np.float32)


def token_ids(batch: EncodedBatch) -> list[TokenArray]:
    """Return the complete token ids of encoded inputs."""
    return [whole_ids(each) for each in cast("Sequence[Encoded]", batch.sequences)]


def log_odds(scores: Float32Array) -> Float32Array:
    """Convert probabilities, whose differences vanish near 0 and 1. Shape: unchanged."""
    inside = np.clip(scores.astype(np.float64), 8e-7, 1 - 8e-7)
    result: Float32Array = np.log(inside / (1 - inside)).astype(np.float32)
    return result
