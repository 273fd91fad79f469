"""Checks of what an embedder's model reads: prompts, the last token, control tokens."""

from __future__ import annotations

import numpy as np
import tokenizers

from quernstone.doctor.report import Outcome, fail, ok, skipped, warn
from quernstone.doctor.subject import IM_END, EmbeddingSubject, Subject, User, token_ids
from quernstone.doctor.texts import DOCUMENTS, OTHER_INSTRUCTION, QUERIES
from quernstone.encoding.prompts import ENDOFTEXT
from quernstone.types import Float32Array, TokenArray

OWN = "the model has its own tokenizer, prompts and pooling, which Quernstone leaves alone"

_RIGHT_ENDING = (
    f"serve the newest revision of the checkpoint, whose tokenizer.json appends `{ENDOFTEXT}` "
    "(revisions before June 2025 lack it), or copy tokenizer.json from it"
)

# Lowest cosine of a text's vectors computed alone and in a batch. Measured on CPU: 1 - 1e-6 in
# float32 and 1 - 3e-4 in bfloat16; a wrong padding side gives 0.4 (peers' issue trackers).
_ALONE = {"float32": 0.9999}
_ALONE_OTHERWISE = 0.995

_TRIED = 8
"""Control tokens to try in a text."""


def last_token(subject: EmbeddingSubject) -> Outcome:
    """Check that the pooled token is the model's final token."""
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
        return skipped(OWN)
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


def tokenizer_file(subject: EmbeddingSubject) -> Outcome:
    """Check that servers which rely on tokenizer.json append the final token."""
    if subject.checkpoint is None:
        return skipped("a server does not show its files")
    if subject.own_prompts or not subject.checkpoint.is_qwen3:
        return skipped(OWN if subject.own_prompts else "the model is not a Qwen3-Embedding")
    final = subject.checkpoint.final_token
    path = subject.checkpoint.tokenizer_folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tail = tokenizer.encode("quern").tokens[-2:]
    if tail[-1] == final and tail[0] != final:
        return ok(f"tokenizer.json appends `{final}`, and so do servers that use it")
    found = f"appends `{tail[-1]}`" if tail[-1].startswith("<|") else "appends nothing"
    return warn(
        f"tokenizer.json {found}; Quernstone appends `{final}` itself, but vLLM, "
        "text-embeddings-inference and sentence-transformers rely on this file",
        "before you serve this folder, copy tokenizer.json from the newest revision of the "
        "checkpoint",
    )


def query_prompt(subject: EmbeddingSubject) -> Outcome:
    """Check the prompt of queries."""
    embedder, checkpoint = subject.user, subject.checkpoint
    if subject.own_prompts and not embedder.instruction:
        return skipped(OWN)
    fixed = checkpoint is not None and not checkpoint.prompts.takes_instruction
    if fixed or (checkpoint is not None and not checkpoint.is_qwen3 and not embedder.instruction):
        return _rendered(subject)
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
    if checkpoint is not None and subject.tokenizer is not None:
        found = _rendered(subject)
        if found.verdict != "ok":
            return found
    else:
        rendered = subject.documents([embedder.format_query(text) for text in QUERIES])
        same = float(cosines(as_queries, rendered).min())
        if same < lowest(subject):
            return fail(
                f"a query differs from the text `Instruct: ...\\nQuery:...` (cosine {same:.4f})",
                "please report this with the output of `quern doctor --json`",
            )
    prompt = embedder.format_query("...", "...").replace("\n", "\\n")
    return ok(
        f"queries are `{prompt}` and differ from bare texts (cosine {bare:.3f} at most); another "
        f"instruction changes them ({other:.3f} at most)"
    )


def _rendered(subject: EmbeddingSubject) -> Outcome:
    """Check the tokens of queries against those of the complete text."""
    encoder, embedder = subject.encoder(max_length=2048), subject.user
    if encoder is None:
        return skipped(OWN)
    encoded = token_ids(encoder.encode_queries(QUERIES, embedder.instruction))
    rendered = [embedder.format_query(text) for text in QUERIES]
    wrong = _other_tokens(subject, encoded, rendered)
    if wrong:
        return fail(f"the tokens of {wrong!r} are not those of its text", "please report this")
    return ok(
        f"the tokens of {len(QUERIES)} queries are those of their texts, which start with "
        f"{embedder.format_query('')!r}"
    )


def document_prompt(subject: EmbeddingSubject) -> Outcome:
    """Check that documents have the model's prompt, and nothing else, before them."""
    encoder = subject.encoder(max_length=512)
    if encoder is not None:
        encoded = token_ids(encoder.encode_documents(DOCUMENTS))
        rendered = [subject.user.format_document(text) for text in DOCUMENTS]
        wrong = _other_tokens(subject, encoded, rendered)
        if wrong:
            return fail(f"the tokens of {wrong!r} are not those of its text", "please report this")
        prompt = subject.user.format_document("")
        after = f", after the model's prompt {prompt!r}" if prompt else ""
        return ok(f"the tokens of {len(DOCUMENTS)} documents are those of their texts{after}")
    if subject.own_prompts:
        return skipped(OWN)
    if subject.ending in ("endoftext", "nothing", "im_end"):
        return ok("the server adds no prefix to a text, as its vectors show")
    return skipped(
        "the server's vectors do not show whether it prefixes texts",
        "compare with the same checkpoint: `--reference FOLDER`; start text-embeddings-inference "
        "without `--default-prompt`",
    )


def _other_tokens(
    subject: EmbeddingSubject, encoded: list[TokenArray], rendered: list[str]
) -> str | None:
    """Return the first text whose tokens differ from those of an input; None if none does."""
    tokenizer, checkpoint = subject.tokenizer, subject.checkpoint
    assert tokenizer is not None  # as is the encoder
    first, final = "", ENDOFTEXT
    if checkpoint is not None:
        first, final = checkpoint.first_token, checkpoint.final_token
    before = [tokenizer.token_id(first)] if first else []
    after = [tokenizer.token_id(final)] if final else []
    for text, ids in zip(rendered, encoded, strict=True):
        if ids.tolist() != [*before, *tokenizer.ids([text])[0].tolist(), *after]:
            return text
    return None


def control_tokens(subject: EmbeddingSubject) -> Outcome:
    """Check a document that contains control tokens."""
    encoder = subject.encoder(max_length=512)
    if encoder is not None:
        control, plain = texts_with_control_tokens(subject)
        ids = token_ids(encoder.encode_documents([control, plain]))
        return no_control_tokens(subject, *ids)
    if subject.own_prompts:
        return skipped(OWN)
    if subject.ending == "endoftext":
        return warn(
            f"the server parses `{ENDOFTEXT}` in a text as a control token, as most servers do",
            f"remove `{ENDOFTEXT}` and `{IM_END}` from untrusted texts",
        )
    return skipped("the server's vectors do not show how it treats control tokens in a text")


def texts_with_control_tokens(subject: Subject[User]) -> tuple[str, str]:
    """Return a text that contains the model's control tokens, and one that does not."""
    assert subject.tokenizer is not None
    return f"a {' and a '.join(subject.tokenizer.added[:_TRIED])} in a text", "a word in a text"


def no_control_tokens(subject: Subject[User], ids: TokenArray, plain: TokenArray) -> Outcome:
    """Check that control tokens of a user's text are not those of the prompt.

    Args:
        subject: The model.
        ids: The tokens of an input whose text contains control tokens.
        plain: The tokens of the same input with an ordinary text.
    """
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    names = tokenizer.added[:_TRIED]
    if not names:
        return skipped("the tokenizer has no control tokens")
    for token in names:
        number = tokenizer.token_id(token)
        if np.count_nonzero(ids == number) > np.count_nonzero(plain == number):
            return fail(f"`{token}` in a text becomes a control token", "please report this")
    return ok(f"{' and '.join(f'`{name}`' for name in names)} in a text are ordinary characters")


def cosines(left: Float32Array, right: Float32Array) -> Float32Array:
    """Return the cosines of pairs of unit vectors. Shape: (rows,)."""
    result: Float32Array = np.einsum("ij,ij->i", left, right)
    return result


def _most_alike(left: Float32Array, right: Float32Array) -> float:
    return float(cosines(left, right).max())


def lowest(subject: EmbeddingSubject) -> float:
    """Return the lowest cosine of equal inputs, for the dtype of a model."""
    return _ALONE.get(subject.dtype, _ALONE_OTHERWISE)
