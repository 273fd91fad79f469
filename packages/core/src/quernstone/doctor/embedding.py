"""Checks of an embedder."""

from __future__ import annotations

from typing import Any

import numpy as np

from quernstone.doctor.files import MODEL_FILES
from quernstone.doctor.inputs import (
    OWN,
    control_tokens,
    document_prompt,
    last_token,
    lowest,
    query_prompt,
    tokenizer_file,
)
from quernstone.doctor.mistakes import compare_embeddings
from quernstone.doctor.published import compare_with_published, published_for
from quernstone.doctor.report import Outcome, fail, ok, skipped, warn
from quernstone.doctor.subject import (
    SAME,
    Check,
    EmbeddingSubject,
    Subject,
)
from quernstone.doctor.texts import DOCUMENTS, OVERFLOWING, QUERIES
from quernstone.embedder import MIN_DIMENSIONS
from quernstone.errors import NonFiniteError
from quernstone.types import Float32Array, unit_prefix

_MEAN_FIX = (
    'pool the last token: vLLM `--pooler-config \'{"pooling_type": "LAST"}\'`, '
    "text-embeddings-inference `--pooling last-token`, sentence-transformers "
    "`pooling_mode_lasttoken` in 1_Pooling/config.json"
)
ORDER_FIX = (
    "the server must return results in input order, or number them (`index`); "
    "a proxy that sorts or merges requests is a common cause"
)
HALF_FIX = "use bfloat16, or float32 where the hardware has no bfloat16"
_DAMAGED_FIX = "the weights are damaged: download them again"

_MARGIN = 1e-3

# A mean over 64 copies of one token and one other token is within 1e-4 of the copies' state; the
# state of the last token differed by 0.01 or more.
_COPIES = 64
_AVERAGED = 0.9995
_UNLIKE = 0.98
# Ids of ordinary words in every Qwen3 tokenizer and in the bundled one.
_WORD_IDS = (1000, 2000, 3000, 4000)


def _finite(subject: EmbeddingSubject) -> Outcome:
    before = subject.recomputed
    try:
        subject.user.embed_documents(OVERFLOWING)
        subject.user.embed_queries(OVERFLOWING)
    except NonFiniteError as error:
        return not_finite(subject, error, OVERFLOWING[error.index])
    count = 2 * len(OVERFLOWING)
    if overflowed := subject.recomputed - before:
        return fail(
            f"{overflowed} of {count} texts overflow {subject.dtype} and had to be recomputed in "
            "float32, one by one",
            HALF_FIX,
        )
    return ok(f"{count} texts that overflow 16 bits in some models give finite vectors")


def _pooling(subject: EmbeddingSubject) -> Outcome:
    if subject.own_prompts:
        return skipped(OWN)
    if subject.checkpoint is not None and subject.checkpoint.family is not None:
        config = subject.checkpoint.decoder_config()
        if config.pooling != "lasttoken" or not config.causal:
            direction = "causal" if config.causal else "bidirectional"
            return skipped(
                f"the files ask for {direction} attention and pool by {config.pooling!r}, which "
                "vectors alone do not show",
                "compare with the same checkpoint: `--reference FOLDER`",
            )
    if subject.server is not None and (pooling := subject.server.pooling()) is not None:
        if pooling.lower().replace("-", "").replace("_", "") != "lasttoken":
            return fail(f"the server reports pooling `{pooling}`", _MEAN_FIX)
        return ok(f"the server reports pooling `{pooling}`")
    unknown = skipped(
        "the server does not accept token ids unchanged, so the last token cannot be chosen",
        "compare with the same checkpoint: `--reference FOLDER`",
    )
    if subject.checkpoint is not None and subject.checkpoint.vocab_size <= max(_WORD_IDS):
        return skipped(f"the vocabulary has only {subject.checkpoint.vocab_size} tokens")
    first, *others = _WORD_IDS
    sequences = [[first], [first] * 8, *([other] for other in others)]
    vectors = subject.ids([*sequences, *([first] * _COPIES + [other] for other in others)])
    if vectors is None:
        return unknown
    alone, eight, *rest = vectors
    unlike, after_copies = np.stack(rest[: len(others)]), np.stack(rest[len(others) :])
    # Equal tokens have equal states; if these differ, something was added to the ids.
    verbatim = 1 - float(alone @ eight) < SAME
    if not verbatim or float((unlike @ alone).max()) > _UNLIKE:
        return unknown
    cosines = after_copies @ alone
    closest, farthest = float(cosines.max()), float(cosines.min())
    if farthest > _AVERAGED:
        return fail(
            f"the vector averages over tokens: {_COPIES} copies of one token outweigh a different "
            f"last token (cosine {farthest:.5f}; the state of the last token alone would differ)",
            _MEAN_FIX,
        )
    return ok(
        f"the last token decides: it changes a text of {_COPIES} equal tokens (cosine "
        f"{closest:.3f} at most)"
    )


def _alone_or_together(subject: EmbeddingSubject) -> Outcome:
    texts = [
        DOCUMENTS[2],
        "mill",
        DOCUMENTS[1] * 6,
        DOCUMENTS[0],
        "A quern.",
        DOCUMENTS[3] * 3,
        DOCUMENTS[5],
    ]
    together = subject.user.embed_documents(texts)
    alone = subject.documents(texts)
    alike = together @ alone.T
    own = alike.diagonal()
    belongs_to = alike.argmax(axis=1)
    swapped = np.flatnonzero(alike.max(axis=1) > own + _MARGIN)
    if len(swapped):
        place = int(swapped[0])
        return fail(
            f"{len(swapped)} of {len(texts)} vectors are returned for the wrong text when several "
            f"are sent: the vector of text {place} is that of text {belongs_to[place]}",
            ORDER_FIX,
        )
    least, limit = float(own.min()), lowest(subject)
    if least < limit:
        return fail(
            f"a text's vector depends on its batch: cosine {least:.4f} to its vector computed "
            f"alone (expected at least {limit} in {subject.dtype})",
            "padding is on the wrong side or not masked: update the engine; until then, send texts "
            "one by one",
        )
    return ok(
        f"{len(texts)} texts of 1 to 200 words give the same vectors alone and together (cosine "
        f"{least:.6f} at least), in input order"
    )


def _dimensions(subject: EmbeddingSubject) -> Outcome:
    whole = subject.user.dimensions
    smallest = min(MIN_DIMENSIONS, whole)
    sizes = [size for size in (256, 128, 64, smallest) if smallest <= size < whole]
    if not sizes:
        return skipped(f"the vectors have {whole} dimensions and cannot be cut")
    queries, documents = subject.queries(QUERIES), subject.documents(DOCUMENTS)
    right = {size: _right(queries, documents, size) for size in (whole, *sizes)}
    counts = ", ".join(f"{count} at {size}" for size, count in right.items())
    finding = f"of {len(QUERIES)} queries, this many find their text: {counts} dimensions"
    useful = [size for size in sizes if right[size] >= right[whole] - 2]
    if right[whole] > len(QUERIES) - 2 and not useful:
        return warn(
            f"{finding}; the model does not seem to be trained for shorter vectors",
            "leave `dimensions` out",
        )
    return ok(f"{finding}; Quernstone cuts to any size from {smallest}, then normalizes")


def _normalised(subject: EmbeddingSubject) -> Outcome:
    vectors = subject.user.embed_documents(DOCUMENTS)
    lengths = np.linalg.norm(vectors, axis=1)
    if not subject.user.normalized:
        return ok(
            f"vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}, because "
            "modules.json lists no Normalize: compare them by cosine, or by dot product if the "
            "model was trained for it"
        )
    off = float(np.abs(lengths - 1).max())
    if off > 1e-4:
        return fail(f"the length of a vector differs from 1 by {off:.1e}", "please report this")
    return ok(f"vectors have length 1 (error at most {off:.0e})")


def _tells_apart(subject: EmbeddingSubject) -> Outcome:
    queries, documents = subject.queries(QUERIES), subject.documents(DOCUMENTS)
    right = _right(queries, documents, subject.user.dimensions)
    alike = queries @ documents.T
    own = float(alike.diagonal().mean())
    other = float((alike.sum() - alike.trace()) / (alike.size - len(alike)))
    finding = (
        f"{right} of {len(QUERIES)} queries find the text that answers them (cosine {own:.3f} on "
        f"average, {other:.3f} for the other texts)"
    )
    if right >= len(QUERIES) - 2:
        return ok(finding)
    return warn(
        finding,
        "the model is not trained, or its input is wrong: see the other findings",
    )


def _published(subject: EmbeddingSubject) -> Outcome:
    if subject.user.dimensions != subject.width:
        return skipped("the vectors are cut, but the published scores use full vectors")

    def scores(rows: int, columns: int) -> Float32Array:
        alike: Float32Array = (
            subject.queries(QUERIES[:rows]) @ subject.documents(DOCUMENTS[:columns]).T
        )
        return alike

    known = published_for("embed", subject.user.model, subject.width)
    return compare_with_published(known, subject.dtype, scores)


def not_finite(subject: Subject[Any], error: NonFiniteError, text: str) -> Outcome:
    """Report a result that stays NaN or infinite after recomputing."""
    fix = _DAMAGED_FIX if subject.dtype == "float32" else HALF_FIX
    return fail(f"{error}: {text[:80]!r}", fix)


def _right(queries: Float32Array, documents: Float32Array, size: int) -> int:
    """Count the queries that are nearest to their own document at `size` dimensions."""
    alike = unit_prefix(queries, size) @ unit_prefix(documents, size).T
    return int((alike.argmax(axis=1) == np.arange(len(alike))).sum())


EMBEDDING_CHECKS: tuple[Check[EmbeddingSubject], ...] = (
    MODEL_FILES,
    Check("finite values", "texts that overflow 16-bit numbers in some models", _finite),
    Check("last token", "the pooled token", last_token),
    Check("tokenizer file", "what tokenizer.json appends to a text", tokenizer_file),
    Check("query prompt", "queries against bare texts and another instruction", query_prompt),
    Check("bare documents", "whether documents get a prefix of the server", document_prompt),
    Check("pooling", "whether the vector is the last token's state or an average", _pooling),
    Check(
        "alone or together", "vectors and their order, one by one and together", _alone_or_together
    ),
    Check("dimensions", "vectors that are cut and normalized again", _dimensions),
    Check("normalised", "the length of the vectors", _normalised),
    Check("control tokens", "a document that contains `<|im_end|>`", control_tokens),
    Check(
        "tells apart", "queries with the text that answers them and with other texts", _tells_apart
    ),
    Check("published scores", "the scores on the model card", _published),
    Check("reference", "the same checkpoint, computed here in float32", compare_embeddings),
)
