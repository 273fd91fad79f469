"""Checks of a reranker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quernstone.doctor.embedding import HALF_FIX, ORDER_FIX, not_finite
from quernstone.doctor.files import MODEL_FILES
from quernstone.doctor.inputs import no_control_tokens, texts_with_control_tokens
from quernstone.doctor.mistakes import compare_scores
from quernstone.doctor.published import compare_with_published, published_for
from quernstone.doctor.report import Outcome, fail, ok, skipped, warn
from quernstone.doctor.subject import IM_END, Check, RerankingSubject, token_ids
from quernstone.doctor.texts import (
    DOCUMENTS,
    JOINTS,
    OTHER_INSTRUCTION,
    OVERFLOWING,
    QUERIES,
    SHIFTS,
)
from quernstone.encoding.prompts import ENDOFTEXT
from quernstone.encoding.templates import full_template, template_name
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import ConfigError, NonFiniteError, RemoteError
from quernstone.reranker import Reranker
from quernstone.types import Float32Array

_OWN = "the model has its own tokenizer and prompts, which Quernstone leaves alone"
_OUR_TEMPLATE = "Quernstone renders the template"

_TEMPLATE_FIX = (
    "write the template with `python -m quernstone.engines.remote.template > "
    "qwen3_reranker.jinja` and start vLLM with `--chat-template qwen3_reranker.jinja`, or let "
    'Quernstone render it: `RemoteOptions(rendered_by="client")`, `--rendered-by client` here'
)

# Differences of log-odds. Rounding causes less than 1e-5 in float32 and up to 0.1 in bfloat16;
# another document changes them by 0.1 with random weights and by 1 to 10 with trained ones.
_NO_CHANGE = 0.02
"""A smaller share of an ordinary change counts as unchanged."""
_ANOTHER_PROMPT = 0.25
"""A larger share of an ordinary change means another prompt, not rounding."""
_ALONE = {"float32": 0.01}
_ALONE_OTHERWISE = 0.5

# The ids of both words in the vocabulary of all official checkpoints.
_OFFICIAL_IDS = {"no": 2152, "yes": 9693}
_OFFICIAL_VOCABULARY = 151_643


def _finite(subject: RerankingSubject) -> Outcome:
    before = subject.recomputed
    pairs = [(QUERIES[0], text) for text in OVERFLOWING]
    pairs += [(text, DOCUMENTS[0]) for text in OVERFLOWING]
    try:
        subject.user.score(pairs)
    except NonFiniteError as error:
        return not_finite(subject, error, " / ".join(pairs[error.index]))
    if overflowed := subject.recomputed - before:
        return fail(
            f"{overflowed} of {len(pairs)} pairs overflow {subject.dtype} and had to be recomputed "
            "in float32, one by one",
            HALF_FIX,
        )
    return ok(f"{len(pairs)} pairs that overflow 16 bits in some models give finite scores")


def _template(subject: RerankingSubject) -> Outcome:
    tokenizer, encoder = subject.tokenizer, subject.encoder(max_length=2048)
    if tokenizer is not None and encoder is not None:
        instruction = subject.user.instruction
        pairs = [(query, text, instruction) for query, text in zip(QUERIES, DOCUMENTS, strict=True)]
        encoded = encoder.encode_pairs(pairs, subject.user.template)
        for (query, document, _), ids in zip(pairs, token_ids(encoded), strict=True):
            expected = tokenizer.frame_ids(subject.user.format_pair(query, document))
            if not np.array_equal(ids, expected):
                return fail(
                    f"the tokens of {query!r} are not those of its prompt", "please report this"
                )
        return ok(
            f"{len(pairs)} prompts follow the template `{template_name(subject.user.template)}` "
            "token by token"
        )
    if subject.own_prompts:
        return skipped(_OWN)
    options = subject.server.options if subject.server else None
    if options is not None and options.rendered_by == "client":
        return ok(_OUR_TEMPLATE)
    joint = _joint(subject)
    if joint is not None:
        between = repr(joint) if joint else "nothing"
        return fail(
            f"the server has no template: it puts {between} between a query and a document, so "
            "scores are near random",
            _TEMPLATE_FIX,
        )
    return ok("the server uses a template, as its scores show")


def _joint(subject: RerankingSubject) -> str | None:
    """Find the separator of a server that has no template.

    Without a template, moving a word from the end of the query to the start of the document
    changes nothing. With one, it changes the score, whatever the weights.
    """
    for joint in JOINTS:
        moved = []
        space = "" if joint else " "
        for start, middle, end in SHIFTS:
            left = (start, space + middle + (joint or " ") + end)
            right = (start + (joint or " ") + middle, space + end)
            moved.append((left, right))
        lefts = subject.logits(subject.scores([left for left, _ in moved]))
        rights = subject.logits(subject.scores([right for _, right in moved]))
        inside = (np.abs(lefts) < 13) & (np.abs(rights) < 13)
        if inside.sum() < 2:
            continue
        ordinary = _ordinary_change(subject)
        if np.abs(lefts - rights)[inside].max() < _NO_CHANGE * ordinary:
            return joint
    return None


def _both_sides(subject: RerankingSubject) -> Outcome:
    options = subject.server.options if subject.server else None
    if options is None:
        return skipped(_OUR_TEMPLATE if not subject.own_prompts else _OWN)
    if options.rendered_by == "client":
        return skipped(_OUR_TEMPLATE)
    pairs = list(zip(QUERIES[:4], DOCUMENTS[:4], strict=True))
    pairs += list(zip(QUERIES[:4], DOCUMENTS[4:], strict=True))
    ours = replace(options, rendered_by="client", max_retries=0)
    try:
        with Reranker(subject.user.model, engine="remote", engine_options=ours) as here:
            rendered = np.array([here.score([pair])[0] for pair in pairs], dtype=np.float32)
    except (ConfigError, RemoteError) as error:
        return skipped(f"the server does not score prompts that are rendered here: {error}"[:200])
    off = float(np.abs(subject.logits(subject.scores(pairs)) - subject.logits(rendered)).max())
    if off > _ANOTHER_PROMPT * _ordinary_change(subject):
        return fail(
            f"the server's prompt is not the model card's: with the prompt rendered here, log-odds "
            f"differ by up to {off:.2f}",
            _TEMPLATE_FIX,
        )
    return ok(
        f"{len(pairs)} pairs score the same with the server's prompt and with one rendered here "
        f"(log-odds at most {off:.3f} apart)"
    )


def _yes_no(subject: RerankingSubject) -> Outcome:
    tokenizer = subject.tokenizer
    if tokenizer is None:
        if subject.own_prompts:
            return skipped(_OWN)
        return skipped("a server shows only scores; `tells apart` finds swapped answers")
    if subject.has_other_answers:
        return _other_answers(subject, tokenizer)
    ids = {word: tokenizer.token_id(word) for word in ("no", "yes")}
    found = ", ".join(f"{word} {number}" for word, number in ids.items())
    official = tokenizer.eos_id == _OFFICIAL_VOCABULARY
    if official and ids != _OFFICIAL_IDS:
        return fail(f"{found}; Qwen3 has no 2152, yes 9693", "use the checkpoint's tokenizer.json")
    return ok(f"one token each: {found}")


def _other_answers(subject: RerankingSubject, tokenizer: Tokenizer) -> Outcome:
    """Name the rows of the head that make the score: labels, or answer tokens."""
    labels = subject.checkpoint.labels if subject.checkpoint else ()
    names = [labels[row] if labels else tokenizer.text(row) for row in subject.head_rows]
    kind = "label" if labels else "token"
    found = ", ".join(
        f"{name!r} ({kind} {row})" for name, row in zip(names, subject.head_rows, strict=True)
    )
    template = full_template(subject.user.template)
    logit = f"the logit of {found}" if len(names) == 1 else f"the logits of {found}, subtracted"
    scale = f", divided by {template.temperature:g}" if template.temperature != 1 else ""
    return ok(f"the score is a {template.score}, from {logit}{scale}")


def _tells_apart(subject: RerankingSubject) -> Outcome:
    others = [*DOCUMENTS[1:], DOCUMENTS[0]]
    related = subject.scores(list(zip(QUERIES, DOCUMENTS, strict=True)))
    unrelated = subject.scores(list(zip(QUERIES, others, strict=True)))
    right = int((related > unrelated).sum())
    finding = (
        f"{right} of {len(QUERIES)} queries prefer the text that answers them: "
        f"{subject.score_name} {related.mean():.3f} on average against {unrelated.mean():.3f}"
    )
    if right >= len(QUERIES) - 1 and related.mean() > unrelated.mean():
        return ok(finding)
    if right <= 1 and related.mean() < unrelated.mean() - 0.2:
        return fail(
            f"{finding}: the scores are inverted",
            '`yes` and `no` are swapped: vLLM wants `classifier_from_token` as ["no", "yes"]',
        )
    if subject.server is None:
        return warn(
            finding,
            "the prompt is right (see `template`), so the model is not a trained reranker",
        )
    return warn(
        finding,
        "the model is not a trained reranker, or the server changes the prompt: compare with the "
        "same checkpoint, `--reference FOLDER`",
    )


def _instruction(subject: RerankingSubject) -> Outcome:
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    if subject.own_prompts:
        return skipped(_OWN)
    if not full_template(subject.user.template).takes_instruction:
        return skipped("the template has no place for an instruction")
    try:
        changed = subject.logits(subject.scores(pairs, OTHER_INSTRUCTION))
    except ConfigError as error:
        return warn(
            f"only the default instruction can be used: {error}",
            "use a server whose dialect has instructions, such as vLLM, if you need others",
        )
    change = float(np.abs(changed - subject.logits(subject.scores(pairs))).max())
    ordinary = _ordinary_change(subject)
    if change < _NO_CHANGE * ordinary:
        return fail(
            f"the instruction is ignored: another one changes log-odds by {change:.1e} at most, "
            f"another document by {ordinary:.2f}",
            "the server's template must use the variable `instruction` (SGLang: `instruct`): "
            + _TEMPLATE_FIX,
        )
    return ok(f"another instruction changes log-odds by up to {change:.2f}")


def _alone_or_together(subject: RerankingSubject) -> Outcome:
    # The expected scores are neither ascending nor descending.
    documents = [DOCUMENTS[3], DOCUMENTS[5] * 4, DOCUMENTS[1], "Beijing.", DOCUMENTS[0], "rain"]
    pairs = [(QUERIES[0], document) for document in documents]
    alone = subject.logits(subject.scores(pairs))
    together = subject.logits(subject.user.score(pairs))
    off = float(np.abs(together - alone).max())
    sorted_off = float(np.abs(np.sort(together) - np.sort(alone)).max())
    if off > 1e-3 and off > 10 * sorted_off + 1e-4:
        moved = int((np.abs(together - alone) > sorted_off + 1e-4).sum())
        order = "sorted by score" if np.all(np.diff(together) <= 1e-4) else "in another order"
        return fail(
            f"{moved} of {len(pairs)} scores are returned for the wrong document when several "
            f"are sent: the results are {order}",
            ORDER_FIX,
        )
    limit = _ALONE.get(subject.dtype, _ALONE_OTHERWISE)
    if off > limit:
        return fail(
            f"a score depends on its batch: log-odds differ by {off:.3f} (expected at most {limit} "
            f"in {subject.dtype})",
            "padding is not masked, or a prefix cache is wrong; update the engine",
        )
    return ok(
        f"{len(pairs)} documents have the same scores alone and together (log-odds differ by at "
        f"most {off:.4f}), in input order"
    )


def _control_tokens(subject: RerankingSubject) -> Outcome:
    if subject.own_prompts:
        return skipped(_OWN)
    encoder = subject.encoder(max_length=2048)
    if encoder is None:
        return warn(
            f"a server that parses the template's control tokens also parses `{IM_END}` in a "
            "document, which then ends the prompt early",
            f"remove `{IM_END}` and `{ENDOFTEXT}` from untrusted texts",
        )
    control, plain = texts_with_control_tokens(subject)
    instruction = subject.user.instruction
    pairs = [(control, control, instruction), (plain, plain, instruction)]
    ids = token_ids(encoder.encode_pairs(pairs, subject.user.template))
    return no_control_tokens(subject, *ids)


def _published(subject: RerankingSubject) -> Outcome:
    if subject.user.template != "card" or subject.own_prompts or subject.has_other_answers:
        return skipped("scores are published only for the template `card`")
    width = subject.checkpoint.hidden_size if subject.checkpoint else None

    def scores(rows: int, columns: int) -> Float32Array:
        pairs = [(query, doc) for query in QUERIES[:rows] for doc in DOCUMENTS[:columns]]
        return subject.scores(pairs).reshape(rows, columns)

    known = published_for("rerank", subject.user.model, width)
    return compare_with_published(known, subject.dtype, scores)


def _ordinary_change(subject: RerankingSubject) -> float:
    """Return the median change of log-odds when the document changes."""
    own = subject.logits(subject.scores(list(zip(QUERIES, DOCUMENTS, strict=True))))
    others = [*DOCUMENTS[1:], DOCUMENTS[0]]
    other = subject.logits(subject.scores(list(zip(QUERIES, others, strict=True))))
    return float(np.median(np.abs(own - other)))


RERANKING_CHECKS: tuple[Check[RerankingSubject], ...] = (
    MODEL_FILES,
    Check("finite values", "texts that overflow 16-bit numbers in some models", _finite),
    Check("template", "the text around a query and a document", _template),
    Check("server's template", "the server's prompt against one rendered here", _both_sides),
    Check("yes and no", "the tokens or labels whose odds are the score", _yes_no),
    Check("tells apart", "queries with the text that answers them and with another", _tells_apart),
    Check("instruction", "the same pairs under another instruction", _instruction),
    Check(
        "alone or together",
        "scores and their order, one by one and together",
        _alone_or_together,
    ),
    Check("control tokens", "a document that contains `<|im_end|>`", _control_tokens),
    Check("published scores", "the scores published for this model", _published),
    Check("reference", "the same checkpoint, computed here in float32", compare_scores),
)
