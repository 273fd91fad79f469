"""What each server is asked, and how its answer is read.

A dialect makes a `Request` of texts and knows where the answer keeps each one's result. It checks
the shape of the answer; `backend` checks that results and inputs belong together.

Sources: vLLM 0.32 (`vllm/entrypoints/pooling`), text-embeddings-inference 1.9 (`router/src/http`),
infinity-emb 0.0.78 (`fastapi_schemas/pymodels.py`), SGLang 0.5 (`srt/entrypoints/openai`),
docs.cohere.com/reference/rerank, jina.ai/reranker.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from quernstone.encoding.prompts import (
    DEFAULT_INSTRUCTION,
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    query_frame,
    rerank_body,
    rerank_head,
)
from quernstone.engines.remote.options import TemplateSide
from quernstone.errors import ConfigError
from quernstone.types import Task, TextInput

Found = list[tuple[int, Any]]
"""(position in the request, numbers or score) for each result, in the order of the answer."""

# Ids of `no` and `yes` in every Qwen3 tokenizer, for servers that score next tokens.
_NO_ID, _YES_ID = 2152, 9693


class ShapeError(ValueError):
    """An answer does not look like one of this dialect."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and how to read its answer."""

    path: str
    body: dict[str, Any]
    read: Callable[[Any], Found]
    """Raises `ShapeError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long inputs may be."""

    max_length: int | None
    """Tokens per input; None when nobody said."""
    truncate: bool
    """Whether the server shall cut longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself; None where it does not."""

    max_length: int | None = None
    max_inputs: int | None = None
    dtype: str | None = None
    revision: str | None = None


class Dialect:
    """One kind of server. The defaults are what most of them share."""

    name: ClassVar[str]
    embeds: ClassVar[bool] = True
    templates: ClassVar[tuple[TemplateSide, ...]] = ()
    """Who may render a reranker's prompt; nobody, where there is no reranking."""
    max_inputs: ClassVar[int] = 64
    """Inputs per request. vLLM's throughput is flat from 16 on (vllm-project/vllm#23000)."""
    mixes_queries: ClassVar[bool] = False
    """Whether one reranking request can hold several queries."""
    cuts_silently: ClassVar[bool] = False
    """Whether too long texts are cut without an error, whatever one asks for."""
    lends_tokenizer: ClassVar[bool] = False
    """Whether there are `/tokenize` and `/detokenize` as in `lengths`."""
    facts_path: ClassVar[str | None] = None

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:
        """Ask for the embeddings of rendered texts."""
        body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "base64"}
        return Request("/v1/embeddings", {**body, **self.embed_fields(limits)}, read_embeddings)

    def embed_fields(self, limits: Limits) -> dict[str, Any]:  # noqa: ARG002
        """Fields that only this server's `/v1/embeddings` has."""
        return {}

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:
        """Ask for scores of pairs whose prompt the server renders."""
        raise NotImplementedError

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """Ask for scores of prompts that are rendered; a prompt is a head and a body."""
        raise NotImplementedError

    def facts(self, answer: Any, model: str) -> ServerFacts:
        """Read the answer to `facts_path`.

        Raises:
            ConfigError: The server does not have this model.
        """
        raise NotImplementedError


class OpenAI(Dialect):
    """`/v1/embeddings` and nothing more."""

    name = "openai"


class VLLM(Dialect):
    """`vllm serve --runner pooling`."""

    name = "vllm"
    templates = ("client", "server")
    mixes_queries = True
    lends_tokenizer = True
    facts_path = "/v1/models"

    def embed_fields(self, limits: Limits) -> dict[str, Any]:
        """Truncation, and numbers in the byte order that `read_embeddings` expects."""
        fields: dict[str, Any] = {"embed_dtype": "float32", "endianness": "little"}
        if limits.truncate and limits.max_length is not None:
            # Cuts the text and keeps the final <|endoftext|>, as Hugging Face's tokenizers do.
            fields["truncate_prompt_tokens"] = limits.max_length
        return fields

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """`/v1/rerank` for one query; `/score`, which can hold several, for more."""
        common: dict[str, Any] = {"model": model, "instruction": pairs[0].instruction}
        documents = [pair.text for pair in pairs]
        queries = [pair.query for pair in pairs]
        if len(set(queries)) == 1:
            body = {**common, "query": queries[0], "documents": documents}
            return Request("/v1/rerank", body, read_results)
        body = {**common, "text_1": queries, "text_2": documents}
        return Request("/score", body, read_scores)

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """`/classify`, which adds nothing even if the server was started with a template."""
        prompts = [head + body for head, body in zip(heads, bodies, strict=True)]
        return Request("/classify", {"model": model, "input": prompts}, read_classes)

    def facts(self, answer: Any, model: str) -> ServerFacts:
        """See `Dialect.facts`."""
        cards = {card.get("id"): card for card in _list(answer, "data")}
        if model not in cards:
            served = ", ".join(map(str, cards)) or "nothing"
            raise ConfigError(f"the server has no model {model!r}; it serves {served}")
        return ServerFacts(max_length=_count(cards[model].get("max_model_len")))


class TEI(Dialect):
    """Hugging Face's text-embeddings-inference."""

    name = "tei"
    templates = ("server",)
    max_inputs = 32  # `--max-client-batch-size`
    facts_path = "/info"

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:  # noqa: ARG002
        """`/embed`, which knows `truncate`."""
        body = {"inputs": list(texts), "truncate": limits.truncate, "normalize": True}
        return Request("/embed", body, read_rows)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """`/rerank`, whose results are sorted by score."""
        _refuse_instruction(self.name, pairs)
        body = {
            "query": pairs[0].query,
            "texts": [pair.text for pair in pairs],
            "truncate": limits.truncate,
            "raw_scores": False,
        }
        return Request("/rerank", body, read_ranks)

    def facts(self, answer: Any, model: str) -> ServerFacts:  # noqa: ARG002 - it serves one model
        """See `Dialect.facts`."""
        if not isinstance(answer, dict):
            raise ShapeError("it is no object")
        return ServerFacts(
            max_length=_count(answer.get("max_input_length")),
            max_inputs=_count(answer.get("max_client_batch_size")),
            dtype=answer.get("model_dtype"),
            revision=answer.get("model_sha"),
        )


class Infinity(Dialect):
    """infinity-emb, which strips white space off both ends of every text."""

    name = "infinity"
    templates = ("server",)  # the prompt of a Qwen3 reranker ends in white space
    cuts_silently = True

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:
        """`/embeddings`; the server's `--url-prefix` is a part of the endpoint."""
        request = super().embed(model, texts, limits)
        return Request("/embeddings", request.body, request.read)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """`/rerank`."""
        return _plain_rerank("/rerank", self.name, model, pairs)


class SGLang(Dialect):
    """SGLang: `--is-embedding` for embedding, a generating server for reranking."""

    name = "sglang"
    templates = ("client", "server")

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:  # noqa: ARG002
        """`/v1/embeddings`, which answers in decimal numbers only."""
        return Request("/v1/embeddings", {"model": model, "input": list(texts)}, read_embeddings)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """`/v1/rerank`, whose field is called `instruct`."""
        body = {
            "model": model,
            "query": pairs[0].query,
            "documents": [pair.text for pair in pairs],
            "instruct": pairs[0].instruction,
            "return_documents": False,
        }
        return Request("/v1/rerank", body, read_ranks)

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """`/v1/score`: probabilities of `no` and `yes` behind the joined text."""
        body = {
            "model": model,
            "query": heads[0],
            "items": list(bodies),
            "label_token_ids": [_NO_ID, _YES_ID],
            "apply_softmax": True,
        }
        return Request("/v1/score", body, read_label_scores)


class Cohere(Dialect):
    """Cohere's `/v2/rerank`, and servers that imitate it."""

    name = "cohere"
    embeds = False
    templates = ("server",)
    cuts_silently = True
    path: ClassVar[str] = "/v2/rerank"

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """Send the pairs as they are."""
        return _plain_rerank(self.path, self.name, model, pairs)


class Jina(Cohere):
    """Jina's `/v1/rerank`, which sends the documents back unless told not to."""

    name = "jina"
    path = "/v1/rerank"

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:
        """See `Cohere.rerank_raw`."""
        request = super().rerank_raw(model, pairs, limits)
        return Request(request.path, {**request.body, "return_documents": False}, request.read)


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OpenAI(), VLLM(), TEI(), Infinity(), SGLang(), Cohere(), Jina())
}


def choose_dialect(
    name: str, task: Task, template: TemplateSide | None, *, truncate: bool
) -> Dialect:
    """The dialect, if it can do what is wanted.

    Raises:
        ConfigError: It does not embed, or not rerank; or it is not said who renders the prompt;
            or this dialect leaves it to the other side; or the server cuts texts in any case.
    """
    dialect = DIALECTS[name]
    if task == "embed" and not dialect.embeds:
        raise ConfigError(
            f"the dialect {name} has no embeddings; `openai` is what most servers speak"
        )
    if task == "rerank":
        if not dialect.templates:
            able = ", ".join(other.name for other in DIALECTS.values() if other.templates)
            raise ConfigError(f"the dialect {name} has no reranking; use one of {able}")
        if template not in dialect.templates:
            raise ConfigError(_template_choice(dialect, template))
    if dialect.cuts_silently and not truncate:
        raise ConfigError(
            f"a server of the dialect {name} cuts long texts without a word, so `truncate=False` "
            "cannot be kept"
        )
    return dialect


def _template_choice(dialect: Dialect, template: TemplateSide | None) -> str:
    meaning = {
        "client": '`template="client"` (we render the prompt, and the server must add nothing)',
        "server": '`template="server"` (the server renders it, and must have the template)',
    }
    able = " or ".join(meaning[side] for side in dialect.templates)
    asked = "say who renders the prompt" if template is None else f"{template!r} is not possible"
    return f"reranking with the dialect {dialect.name}: {asked}; use {able}"


# ------------------------------------------------------------------------------- what is sent


def render_text(item: TextInput) -> str:
    """A document as it is; a query behind its instruction."""
    return item.text if item.instruction is None else query_frame(item.instruction) + item.text


def render_halves(pair: TextInput) -> tuple[str, str]:
    """A reranker's prompt up to the document, and the rest of it."""
    head = rerank_head(pair.query or "", pair.instruction or "", pair.template)
    return RERANK_PREFIX + head, rerank_body(pair.text) + RERANK_SUFFIXES[pair.template]


def _plain_rerank(path: str, name: str, model: str, pairs: Sequence[TextInput]) -> Request:
    _refuse_instruction(name, pairs)
    documents = [pair.text for pair in pairs]
    return Request(
        path, {"model": model, "query": pairs[0].query, "documents": documents}, read_results
    )


def _refuse_instruction(name: str, pairs: Sequence[TextInput]) -> None:
    """Never drop an instruction: without a field for it the server uses its own."""
    if pairs[0].instruction != DEFAULT_INSTRUCTION:
        raise ConfigError(
            f"the dialect {name} has no field for an instruction, so only the default one "
            f"({DEFAULT_INSTRUCTION!r}) can be used"
        )


# ------------------------------------------------------------------------------- what comes back


def read_embeddings(answer: Any) -> Found:
    """`{"data": [{"index", "embedding"}]}`, the numbers as a list or in base64."""
    return [(_index(item), _vector(_field(item, "embedding"))) for item in _list(answer, "data")]


def read_rows(answer: Any) -> Found:
    """A list of lists of numbers, in the order of the inputs."""
    return list(enumerate(map(_vector, _list(answer))))


def read_results(answer: Any) -> Found:
    """`{"results": [{"index", "relevance_score"}]}`, in any order."""
    items = _list(answer, "results")
    return [(_index(item), _field(item, "relevance_score")) for item in items]


def read_scores(answer: Any) -> Found:
    """`{"data": [{"index", "score"}]}`."""
    return [(_index(item), _field(item, "score")) for item in _list(answer, "data")]


def read_classes(answer: Any) -> Found:
    """`{"data": [{"index", "probs"}]}`, with P(yes) as the only class."""
    found = [(_index(item), _field(item, "probs")) for item in _list(answer, "data")]
    if not all(isinstance(probs, list) and len(probs) == 1 for _, probs in found):
        raise ShapeError("its `probs` are not of one class, as those of a Qwen3 reranker are")
    return [(index, probs[0]) for index, probs in found]


def read_ranks(answer: Any) -> Found:
    """A list of `{"index", "score"}`, in any order."""
    return [(_index(item), _field(item, "score")) for item in _list(answer)]


def read_label_scores(answer: Any) -> Found:
    """`{"scores": [[P(no), P(yes)]]}`, in the order of the inputs."""
    rows = _list(answer, "scores")
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ShapeError("its `scores` are not pairs")
    return [(index, row[1]) for index, row in enumerate(rows)]


def _list(answer: Any, name: str | None = None) -> list[Any]:
    found = answer if name is None else _field(answer, name)
    if not isinstance(found, list):
        what = "it" if name is None else f"its `{name}`"
        raise ShapeError(f"{what} is {type(found).__name__}, expected a list")
    return found


def _field(item: Any, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise ShapeError(f"there is no `{name}`")
    return item[name]


def _index(item: Any) -> int:
    index = _field(item, "index")
    if isinstance(index, bool) or not isinstance(index, int):
        raise ShapeError(f"an `index` is {type(index).__name__}")
    return index


def _vector(value: Any) -> Any:
    """Numbers in base64 are 32-bit floats, the low byte first."""
    if not isinstance(value, str):
        return value
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    except (binascii.Error, ValueError) as error:
        raise ShapeError(f"an embedding is not base64 of 32-bit floats: {error}") from error


def _count(value: Any) -> int | None:
    usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if usable else None
