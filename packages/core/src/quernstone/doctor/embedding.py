"""Checks of an embedder."""

from __future__ import annotations

from typing import Any

import numpy as np
import tokenizers

from quernstone.doctor.files import MODEL_FILES
from quernstone.doctor.mistakes import compare_embeddings
from quernstone.doctor.published import compare_with_published, published_for
from quernstone.doctor.report import Outcome, fail, ok, skipped, warn
from quernstone.doctor.subject import (
    IM_END,
    SAME,
    Check,
    EmbeddingSubject,
    Subject,
    token_ids,
)
from quernstone.doctor.texts import DOCUMENTS, OTHER_INSTRUCTION, OVERFLOWING, QUERIES
from quernstone.embedder import MIN_DIMENSIONS
from quernstone.encoding.prompts import ENDOFTEXT
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import NonFiniteError
from quernstone.types import Float32Array, TokenArray, unit_prefix

_OWN = "the model has its own tokenizer, prompts and pooling, which Quernstone leaves alone"

_RIGHT_ENDING = (
    f"serve the newest revision of the checkpoint, whose tokenizer.json appends `{ENDOFTEXT}` "
    "(revisions before June 2025 lack it), or copy tokenizer.json from it"
)
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

# Lowest cosine of a text's vectors computed alone and in a batch. Measured on CPU: 1 - 1e-6 in
# float32 and 1 - 3e-4 in bfloat16; a wrong padding side gives 0.4 (peers' issue trackers).
_ALONE = {"float32": 0.9999}
_ALONE_OTHERWISE = 0.995
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


def _last_token(subject: EmbeddingSubject) -> Outcome:
    tokenizer, encoder = subject.tokenizer, subject.encoder(max_length=64)
    if tokenizer is not None and encoder is not None:
        long = "grain " * 400
        batches = [
            encoder.encode_documents([*DOCUMENTS, long, ""]),
            encoder.encode_queries([*QUERIES, long, ""], subject.user.instruction),
        ]
        ids = [each for batch in batches for each in token_ids(batch)]
        final = subject.checkpoint.final_token if subject.checkpoint else ENDOFTEXT
        if not final:
            return skipped("the model pools the last token of the text, and appends none")
        end = tokenizer.token_id(final)
        wrong = sum(each[-1] != end or end in each[:-1] for each in ids)
        if wrong:
            return fail(
                f"{wrong} of {len(ids)} sequences do not end in one `{final}`", _RIGHT_ENDING
            )
        return ok(
            f"{len(ids)} sequences, truncated ones included: each ends in `{final}`, once "
            f"(token {end}, appended by Quernstone)"
        )
    if subject.own_prompts:
        return skipped(_OWN)
    return {
        "endoftext": ok(f"the server pools over `{ENDOFTEXT}`, as its vectors show"),
        "nothing": fail(
            "the server appends nothing to a text, so it pools the last word",
            _RIGHT_ENDING,
        ),
        "im_end": fail(
            f"the server appends `{IM_END}` instead of `{ENDOFTEXT}`",
            f"{_RIGHT_ENDING}; `{IM_END}` is the tokenizer's `eos_token`, but the model was "
            f"trained with `{ENDOFTEXT}`",
        ),
        "unknown": skipped(
            "the server's vectors do not show what it appends: it may prefix texts, or treat "
            "control tokens as plain text",
            "compare with the same checkpoint: `--reference FOLDER`",
        ),
    }[subject.ending]


def _tokenizer_file(subject: EmbeddingSubject) -> Outcome:
    if subject.checkpoint is None:
        return skipped("a server does not show its files")
    if subject.own_prompts or not subject.checkpoint.is_qwen3:
        return skipped(_OWN if subject.own_prompts else "the model is not a Qwen3-Embedding")
    path = subject.checkpoint.tokenizer_folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tail = tokenizer.encode("quern").tokens[-2:]
    if tail[-1] == ENDOFTEXT and tail[0] != ENDOFTEXT:
        return ok(f"tokenizer.json appends `{ENDOFTEXT}`, and so do servers that use it")
    found = f"appends `{tail[-1]}`" if tail[-1].startswith("<|") else "appends nothing"
    return warn(
        f"tokenizer.json {found}; Quernstone appends `{ENDOFTEXT}` itself, but vLLM, "
        "text-embeddings-inference and sentence-transformers rely on this file",
        "before you serve this folder, copy tokenizer.json from the newest revision of the "
        "checkpoint",
    )


def _query_prompt(subject: EmbeddingSubject) -> Outcome:
    embedder = subject.user
    if subject.own_prompts and not embedder.instruction:
        return skipped(_OWN)
    if not embedder.instruction:
        return warn(
            "queries are embedded bare: the instruction is an empty string",
            "leave `instruction` out to use the model's own",
        )
    as_queries = subject.queries(QUERIES)
    as_documents = subject.documents(QUERIES)
    instructed = subject.queries(QUERIES, OTHER_INSTRUCTION)
    bare = _most_alike(as_queries, as_documents)
    other = _most_alike(as_queries, instructed)
    if max(bare, other) > 1 - 1e-6:
        return fail(
            f"a query has the vector of a bare text (cosine {bare:.6f}), or the same one under "
            f"another instruction ({other:.6f})",
            "make sure that nothing strips `Instruct: ...` from texts on their way to the model",
        )
    if subject.own_prompts:
        return ok(f"another instruction changes query vectors (cosine {other:.3f} at most)")
    rendered = subject.documents([embedder.format_query(text) for text in QUERIES])
    same = float(_cosines(as_queries, rendered).min())
    if same < _lowest(subject):
        return fail(
            f"a query differs from the text `Instruct: ...\\nQuery:...` (cosine {same:.4f})",
            "please report this with the output of `quern doctor --json`",
        )
    return ok(
        f"queries are `Instruct: ...\\nQuery:...` and differ from bare texts (cosine {bare:.3f} at "
        f"most); another instruction changes them ({other:.3f} at most)"
    )


def _documents_bare(subject: EmbeddingSubject) -> Outcome:
    tokenizer, encoder = subject.tokenizer, subject.encoder(max_length=512)
    if tokenizer is not None and encoder is not None:
        encoded = token_ids(encoder.encode_documents(DOCUMENTS))
        for document, ids in zip(DOCUMENTS, encoded, strict=True):
            if not np.array_equal(ids[:-1], tokenizer.frame_ids(document)):
                return fail(
                    f"the tokens of {document!r} are not those of its text", "please report this"
                )
        return ok(f"the tokens of {len(DOCUMENTS)} documents are those of their texts")
    if subject.own_prompts:
        return skipped(_OWN)
    if subject.ending in ("endoftext", "nothing", "im_end"):
        return ok("the server adds no prefix to a text, as its vectors show")
    return skipped(
        "the server's vectors do not show whether it prefixes texts",
        "compare with the same checkpoint: `--reference FOLDER`; start text-embeddings-inference "
        "without `--default-prompt`",
    )


def _pooling(subject: EmbeddingSubject) -> Outcome:
    if subject.own_prompts:
        return skipped(_OWN)
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
    lowest, limit = float(own.min()), _lowest(subject)
    if lowest < limit:
        return fail(
            f"a text's vector depends on its batch: cosine {lowest:.4f} to its vector computed "
            f"alone (expected at least {limit} in {subject.dtype})",
            "padding is on the wrong side or not masked: update the engine; until then, send texts "
            "one by one",
        )
    return ok(
        f"{len(texts)} texts of 1 to 200 words give the same vectors alone and together (cosine "
        f"{lowest:.6f} at least), in input order"
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


def _control_tokens(subject: EmbeddingSubject) -> Outcome:
    tokenizer, encoder = subject.tokenizer, subject.encoder(max_length=512)
    if tokenizer is not None and encoder is not None:
        text = f"a {ENDOFTEXT} and a {IM_END} in a text"
        (ids,) = token_ids(encoder.encode_documents([text]))
        return no_control_tokens(tokenizer, ids[:-1])
    if subject.own_prompts:
        return skipped(_OWN)
    if subject.ending == "endoftext":
        return warn(
            f"the server parses `{ENDOFTEXT}` in a text as a control token, as most servers do",
            f"remove `{ENDOFTEXT}` and `{IM_END}` from untrusted texts",
        )
    return skipped("the server's vectors do not show how it treats control tokens in a text")


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


def no_control_tokens(tokenizer: Tokenizer, ids: TokenArray) -> Outcome:
    """Check that the ids of a user's text contain no control tokens."""
    found = [token for token in (ENDOFTEXT, IM_END) if tokenizer.token_id(token) in ids]
    if found:
        return fail(f"`{found[0]}` in a text becomes a control token", "please report this")
    return ok(f"`{ENDOFTEXT}` and `{IM_END}` in a text are ordinary characters")


def _right(queries: Float32Array, documents: Float32Array, size: int) -> int:
    """Count the queries that are nearest to their own document at `size` dimensions."""
    alike = unit_prefix(queries, size) @ unit_prefix(documents, size).T
    return int((alike.argmax(axis=1) == np.arange(len(alike))).sum())


def _cosines(left: Float32Array, right: Float32Array) -> Float32Array:
    result: Float32Array = np.einsum("ij,ij->i", left, right)
    return result


def _most_alike(left: Float32Array, right: Float32Array) -> float:
    return float(_cosines(left, right).max())


def _lowest(subject: EmbeddingSubject) -> float:
    return _ALONE.get(subject.dtype, _ALONE_OTHERWISE)


EMBEDDING_CHECKS: tuple[Check[EmbeddingSubject], ...] = (
    MODEL_FILES,
    Check("finite values", "texts that overflow 16-bit numbers in some models", _finite),
    Check("last token", "the pooled token", _last_token),
    Check("tokenizer file", "what tokenizer.json appends to a text", _tokenizer_file),
    Check("query prompt", "queries against bare texts and another instruction", _query_prompt),
    Check("bare documents", "whether documents get a prefix", _documents_bare),
    Check("pooling", "whether the vector is the last token's state or an average", _pooling),
    Check(
        "alone or together", "vectors and their order, one by one and together", _alone_or_together
    ),
    Check("dimensions", "vectors that are cut and normalized again", _dimensions),
    Check("normalised", "the length of the vectors", _normalised),
    Check("control tokens", "a document that contains `<|im_end|>`", _control_tokens),
    Check(
        "tells apart", "queries with the text that answers them and with other texts", _tells_apart
    ),
    Check("published scores", "the scores on the model card", _published),
    Check("reference", "the same checkpoint, computed here in float32", compare_embeddings),
)
