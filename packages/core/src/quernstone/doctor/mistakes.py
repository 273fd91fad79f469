"""Comparisons with the reference, which also name the mistake that explains a difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from quernstone.doctor.reference import LibraryReference, Reference
from quernstone.doctor.report import Outcome, fail, ok, skipped
from quernstone.doctor.subject import IM_END, EmbeddingSubject, RerankingSubject, log_odds
from quernstone.doctor.texts import DOCUMENTS, JOINTS, QUERIES
from quernstone.embedder import Embedder
from quernstone.encoding.prompts import ENDOFTEXT, query_frame, render_pair
from quernstone.reranker import Reranker
from quernstone.types import Float32Array, RerankTemplate, unit_prefix

_NO_REFERENCE = skipped(
    "there is nothing to compare with",
    "pass `--reference` with a folder or a hub id of the same checkpoint",
)

# Cosine and log-odds difference to the reference in float32. The looser limits are for 16-bit
# engines and quantized servers.
_MIN_COSINE = {"float32": 0.9999}
_MIN_COSINE_OTHERWISE = 0.985
_MAX_LOG_ODDS = {"float32": 0.02}
_MAX_LOG_ODDS_OTHERWISE = 1.0


@dataclass(frozen=True, slots=True)
class _Mistake:
    """Something an engine may do to its input, and the fix."""

    description: str
    """Completes the sentence "the vectors are those of an engine that ..."."""
    fix: str


_OTHER_MODEL = (
    "make sure that the engine runs this checkpoint unquantized and that nothing changes the texts "
    "on their way"
)
_CORRECT = _Mistake("works correctly", "")
_TOKENIZER_FIX = "take tokenizer.json from the newest revision of the checkpoint"
_POOLING_FIX = "pool the last token (see the fix of `pooling` in docs/doctor.md)"
_TEMPLATE_FIX = 'give the server the template of the model card, or use `rendered_by="client"`'


def compare_with_library(
    subject: EmbeddingSubject | RerankingSubject, reference: LibraryReference
) -> Outcome:
    """Compare documents and queries, or pairs, with what another engine computes."""
    if reference.only_ours and subject.user.info.engine == "torch":
        return skipped(f"no other engine computes this model: {reference.only_ours}")
    where = f"{reference.engine} in float32"
    if isinstance(subject, EmbeddingSubject):
        size, other = subject.user.dimensions, cast("Embedder", reference.user)
        found = np.concatenate([subject.documents(DOCUMENTS[:4]), subject.queries(QUERIES[:4])])
        rows = [other.embed_documents(DOCUMENTS[:4]), other.embed_queries(QUERIES[:4])]
        expected = unit_prefix(np.concatenate(rows), size)
        if expected.shape != found.shape:
            return fail(*_other_size(size, expected.shape[1]))
        cosine = float(np.einsum("ij,ij->i", expected, found).min())
        limit = _MIN_COSINE.get(subject.dtype, _MIN_COSINE_OTHERWISE)
        if cosine < limit:
            return fail(
                f"the vectors differ from {where} (cosine {cosine:.4f}, expected at least {limit})",
                _OTHER_MODEL,
            )
        return ok(f"{len(found)} vectors agree with {where} (cosine at least {cosine:.6f})")
    pairs = [(query, document) for query in QUERIES[:3] for document in DOCUMENTS[:3]]
    expected = subject.logits(cast("Reranker", reference.user).score(pairs))
    difference = float(np.abs(subject.logits(subject.scores(pairs)) - expected).max())
    limit = _MAX_LOG_ODDS.get(subject.dtype, _MAX_LOG_ODDS_OTHERWISE)
    if difference > limit:
        return fail(
            f"the scores differ from {where} (logits by up to {difference:.3f}, expected at most "
            f"{limit})",
            _OTHER_MODEL,
        )
    return ok(f"{len(pairs)} scores agree with {where} (logits differ by at most {difference:.4f})")


def _other_size(size: int, expected: int) -> tuple[str, str]:
    return (
        f"the vectors have {size} dimensions, the reference has {expected}",
        "pass the checkpoint that the engine runs as `--reference`",
    )


def compare_embeddings(subject: EmbeddingSubject) -> Outcome:
    """Compare documents and queries, then look for the mistake that gives the same vectors."""
    reference = subject.reference
    if reference is None:
        return _NO_REFERENCE
    if isinstance(reference, LibraryReference):
        return compare_with_library(subject, reference)
    size = subject.user.dimensions
    documents, queries = DOCUMENTS[:4], QUERIES[:4]
    found = np.concatenate([subject.documents(documents), subject.queries(queries)])
    frame = query_frame(subject.user.instruction)
    texts = [*documents, *(frame + query for query in queries)]
    cosines = {}
    for mistake, vector in _embedding_mistakes(reference, frame).items():
        expected = unit_prefix(np.stack([vector(text) for text in texts]), size)
        if expected.shape != found.shape:
            return fail(*_other_size(size, expected.shape[1]))
        cosines[mistake] = float(np.einsum("ij,ij->i", expected, found).min())
    correct = cosines[_CORRECT]
    best, cosine = max(cosines.items(), key=lambda item: item[1])
    limit = _MIN_COSINE.get(subject.dtype, _MIN_COSINE_OTHERWISE)
    if best is not _CORRECT and cosine >= limit and cosine - correct > 1 - cosine:
        return fail(
            f"the vectors are those of an engine that {best.description} (cosine {cosine:.5f}, "
            f"but {correct:.5f} with the correct input)",
            best.fix,
        )
    if correct < limit:
        return fail(
            f"the vectors differ from the reference (cosine {correct:.4f}, expected at least "
            f"{limit}), and no known mistake explains them",
            _OTHER_MODEL,
        )
    return ok(f"{len(texts)} vectors agree with float32 (cosine at least {correct:.6f})")


def _embedding_mistakes(
    reference: Reference, frame: str
) -> dict[_Mistake, Callable[[str], Float32Array]]:
    """Map each mistake to a function that computes a text's vector with it."""
    end, other = ([reference.tokenizer.token_id(token)] for token in (ENDOFTEXT, IM_END))

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
        _CORRECT: last(end),
        _Mistake("appends nothing to a text", _TOKENIZER_FIX): last([]),
        _Mistake(f"appends `{IM_END}`", _TOKENIZER_FIX): last(other),
        _Mistake(f"appends `{ENDOFTEXT}` twice", "append it once"): last([*end, *end]),
        _Mistake("averages all tokens", _POOLING_FIX): mean(end),
        _Mistake(
            "averages all tokens and appends nothing", f"{_POOLING_FIX}; {_TOKENIZER_FIX}"
        ): mean([]),
        _Mistake(
            "puts the query prompt before every text", "start the server without a default prompt"
        ): last(end, frame),
    }


def compare_scores(subject: RerankingSubject) -> Outcome:
    """Compare pairs, then look for the mistake that gives the same scores."""
    reference = subject.reference
    if reference is None:
        return _NO_REFERENCE
    if isinstance(reference, LibraryReference):
        return compare_with_library(subject, reference)
    if subject.has_other_answers or not isinstance(subject.user.template, str):
        return skipped("the reference has the prompt and the answers of Qwen3-Reranker")
    pairs = [(query, document) for query in QUERIES[:3] for document in DOCUMENTS[:3]]
    found = log_odds(subject.scores(pairs))
    differences = {}
    for mistake, odds in _reranking_mistakes(subject, reference).items():
        expected = np.array([odds(query, document) for query, document in pairs])
        # float32 probabilities cannot represent larger log-odds
        differences[mistake] = float(np.abs(np.clip(expected, -14, 14) - found).max())
    correct = differences[_CORRECT]
    best, difference = min(differences.items(), key=lambda item: item[1])
    limit = _MAX_LOG_ODDS.get(subject.dtype, _MAX_LOG_ODDS_OTHERWISE)
    if best is not _CORRECT and difference <= limit and difference < correct / 3:
        return fail(
            f"the scores are those of an engine that {best.description} (log-odds differ by at "
            f"most {difference:.3f}, but by {correct:.3f} with the correct input)",
            best.fix,
        )
    if correct > limit:
        return fail(
            f"the scores differ from the reference (log-odds by up to {correct:.3f}, expected at "
            f"most {limit}), and no known mistake explains them",
            "make sure that the engine runs this checkpoint unquantized and that its template is "
            "byte for byte that of the model card",
        )
    return ok(f"{len(pairs)} scores agree with float32 (log-odds differ by at most {correct:.4f})")


def _reranking_mistakes(
    subject: RerankingSubject, reference: Reference
) -> dict[_Mistake, Callable[[str, str], float]]:
    """Map each mistake to a function that computes a pair's log-odds with it."""
    reranker = subject.user

    def odds(render: Callable[[str, str], str]) -> Callable[[str, str], float]:
        def compute(query: str, document: str) -> float:
            no, yes = reference.run([reference.plain(render(query, document))])[0]
            return float(yes - no)

        return compute

    def joined(joint: str) -> Callable[[str, str], str]:
        return lambda query, document: query + joint + document

    correct = odds(reranker.format_pair)
    other: RerankTemplate = "eval" if reranker.template == "card" else "card"
    mistakes = {
        _CORRECT: correct,
        _Mistake("returns P(no) instead of P(yes)", "swap the two tokens"): (
            lambda query, document: -correct(query, document)
        ),
        _Mistake(f"renders the template {other!r}", f'use `template="{other}"`'): odds(
            lambda query, document: render_pair(query, document, reranker.instruction, other)
        ),
    }
    for joint in JOINTS:
        description = f"has no template and puts {joint!r} between a query and a document"
        mistakes[_Mistake(description, _TEMPLATE_FIX)] = odds(joined(joint))
    return mistakes
