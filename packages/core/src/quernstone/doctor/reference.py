"""The same checkpoint, computed here: names the mistake that explains what an engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quernstone.checkpoints.checkpoint import resolve
from quernstone.doctor.report import Outcome, fail, ok, skipped
from quernstone.doctor.subject import IM_END, EmbeddingSubject, RerankingSubject, log_odds, unit
from quernstone.doctor.texts import DOCUMENTS, JOINTS, QUERIES
from quernstone.encoding.prompts import ENDOFTEXT, query_frame, render_pair
from quernstone.encoding.tokens import Tokenization
from quernstone.engines import load_engine
from quernstone.errors import ConfigError
from quernstone.types import Encoded, EngineConfig, Float32Array, RerankTemplate, Task, TokenArray

_NONE = skipped(
    "nothing to compare with", "`--reference` names a folder or a hub id of the same checkpoint"
)

# Cosine, and difference of log-odds, to the reference in float32. The looser ones are for 16-bit
# and quantised servers.
_ALIKE = {"float32": 0.9999}
_ALIKE_OTHERWISE = 0.985
_ODDS = {"float32": 0.02}
_ODDS_OTHERWISE = 1.0


@dataclass(frozen=True, slots=True)
class _Mistake:
    """What an engine may do to a text, and what the user does about it."""

    what: str
    fix: str


_RIGHT = _Mistake("as it must be", "")
_TOKENIZER = "take tokenizer.json from the newest revision of the checkpoint"
_LAST = "pool the last token (see the fix of `pooling` in docs/doctor.md)"
_RENDER = 'give the server the template of the model card, or use `template="client"`'


class Reference:
    """A Qwen3 checkpoint in float32 on our own engine, run on any token ids."""

    def __init__(self, name: str, task: Task) -> None:
        """Load it.

        Raises:
            ConfigError: It is no Qwen3 model.
            ModelLoadError: There is no such model, or it is not complete.
        """
        self.checkpoint = resolve(name, task)
        if not self.checkpoint.is_qwen3:
            raise ConfigError(f"the reference `{name}` is no Qwen3 model")
        self.tokenization = Tokenization(self.checkpoint.folder, self.checkpoint.vocab_size)
        config = EngineConfig(
            task=task, model=str(self.checkpoint.folder), engine="torch", dtype="float32"
        )
        self._engine = load_engine(config, self.checkpoint, self.tokenization)

    def run(self, sequences: Sequence[TokenArray]) -> Float32Array:
        """The engine's rows, neither cut nor normalised."""
        return self._engine.run([Encoded(ids) for ids in sequences])

    def states(self, ids: TokenArray) -> Float32Array:
        """The final state of every token: a decoder's state is that of the text up to it."""
        return self.run([ids[: end + 1] for end in range(len(ids))])

    def plain(self, text: str) -> TokenArray:
        """Ids of a text, control tokens as such, nothing appended."""
        return self.tokenization.encode_frame(text)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()


def compare_embeddings(subject: EmbeddingSubject) -> Outcome:
    """Compare documents and queries, then look for the mistake that gives the same vectors."""
    reference = subject.reference
    if reference is None:
        return _NONE
    size = subject.user.dimensions
    documents, queries = DOCUMENTS[:4], QUERIES[:4]
    found = np.concatenate([subject.documents(documents), subject.queries(queries)])
    frame = query_frame(subject.user.instruction)
    texts = [*documents, *(frame + query for query in queries)]
    alike = {}
    for mistake, vector in _embedding_mistakes(reference, frame).items():
        expected = unit(np.stack([vector(text) for text in texts])[:, :size])
        if expected.shape != found.shape:
            return fail(
                f"the vectors have {size} dimensions, the reference has {expected.shape[1]}",
                "name the folder of the checkpoint that the engine runs",
            )
        alike[mistake] = float(np.einsum("ij,ij->i", expected, found).min())
    right, best = alike[_RIGHT], max(alike, key=lambda mistake: alike[mistake])
    limit = _ALIKE.get(subject.dtype, _ALIKE_OTHERWISE)
    if best is not _RIGHT and alike[best] >= limit and alike[best] - right > 1 - alike[best]:
        return fail(
            f"the vectors are those of an engine that {best.what} (cosine {alike[best]:.5f}; "
            f"{right:.5f} with the right input)",
            best.fix,
        )
    if right < limit:
        return fail(
            f"the vectors are not those of the reference (cosine {right:.4f}, at least {limit} is "
            "expected) and no mistake that is known explains them",
            "see that the engine runs this very checkpoint, not quantised, and nothing changes "
            "the texts on their way",
        )
    return ok(f"{len(texts)} vectors agree with float32 here (cosine {right:.6f} at least)")


def _embedding_mistakes(
    reference: Reference, frame: str
) -> dict[_Mistake, Callable[[str], Float32Array]]:
    """What can go wrong -> the vector that a text then has."""
    end, other = ([reference.tokenization.token_id(token)] for token in (ENDOFTEXT, IM_END))

    def last(tail: Sequence[int], head: str = "") -> Callable[[str], Float32Array]:
        def vector(text: str) -> Float32Array:
            ids = np.concatenate((reference.plain(head + text), tail)).astype(np.int32)
            row: Float32Array = reference.run([ids])[0]
            return row

        return vector

    def mean(tail: Sequence[int]) -> Callable[[str], Float32Array]:
        def vector(text: str) -> Float32Array:
            ids = np.concatenate((reference.plain(text), tail)).astype(np.int32)
            row: Float32Array = reference.states(ids).mean(axis=0)
            return row

        return vector

    return {
        _RIGHT: last(end),
        _Mistake("appends nothing to a text", _TOKENIZER): last([]),
        _Mistake(f"appends `{IM_END}`", _TOKENIZER): last(other),
        _Mistake(f"appends `{ENDOFTEXT}` twice", "append it once"): last([*end, *end]),
        _Mistake("averages all tokens", _LAST): mean(end),
        _Mistake("averages all tokens and appends nothing", f"{_LAST}; {_TOKENIZER}"): mean([]),
        _Mistake(
            "puts the query prompt in front of every text",
            "start the server without a default prompt",
        ): last(end, frame),
    }


def compare_scores(subject: RerankingSubject) -> Outcome:
    """Compare pairs, then look for the mistake that gives the same scores."""
    reference = subject.reference
    if reference is None:
        return _NONE
    pairs = [(query, document) for query in QUERIES[:3] for document in DOCUMENTS[:3]]
    found = log_odds(subject.scores(pairs))
    off = {}
    for mistake, odds in _reranking_mistakes(subject, reference).items():
        expected = np.array([odds(query, document) for query, document in pairs])
        # beyond this a probability in float32 says no more
        off[mistake] = float(np.abs(np.clip(expected, -14, 14) - found).max())
    right, best = off[_RIGHT], min(off, key=lambda mistake: off[mistake])
    limit = _ODDS.get(subject.dtype, _ODDS_OTHERWISE)
    if best is not _RIGHT and off[best] <= limit and off[best] < right / 3:
        return fail(
            f"the scores are those of an engine that {best.what} (log-odds {off[best]:.3f} apart "
            f"at most; {right:.3f} from the right input)",
            best.fix,
        )
    if right > limit:
        return fail(
            f"the scores are not those of the reference (log-odds up to {right:.3f} apart, at "
            f"most {limit} is expected) and no mistake that is known explains them",
            "see that the engine runs this very checkpoint, not quantised, and that its template "
            "is byte for byte the model card's",
        )
    return ok(f"{len(pairs)} scores agree with float32 here (log-odds {right:.4f} apart at most)")


def _reranking_mistakes(
    subject: RerankingSubject, reference: Reference
) -> dict[_Mistake, Callable[[str, str], float]]:
    """What can go wrong -> the log-odds that a pair then has."""
    reranker = subject.user

    def odds(render: Callable[[str, str], str]) -> Callable[[str, str], float]:
        def of(query: str, document: str) -> float:
            no, yes = reference.run([reference.plain(render(query, document))])[0]
            return float(yes - no)

        return of

    def joined(joint: str) -> Callable[[str, str], str]:
        return lambda query, document: query + joint + document

    right = odds(reranker.format_pair)
    other: RerankTemplate = "eval" if reranker.template == "card" else "card"
    mistakes = {
        _RIGHT: right,
        _Mistake("gives P(no) for P(yes)", "swap the two tokens"): lambda q, d: -right(q, d),
        _Mistake(f"renders the template {other!r}", f'use `template="{other}"`'): odds(
            lambda query, document: render_pair(query, document, reranker.instruction, other)
        ),
    }
    for joint in JOINTS:
        what = f"has no template and puts {joint!r} between a query and a document"
        mistakes[_Mistake(what, _RENDER)] = odds(joined(joint))
    return mistakes
