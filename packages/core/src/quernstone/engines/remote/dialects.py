"""The requests that each kind of server understands, and the functions that read its answers.

A dialect builds a `Request` from texts. The functions in `answers` check the shape of the answer;
`backend` checks that there is one result for each input. `native` is the dialect of `quern serve`.

Sources: vLLM 0.32 (`vllm/entrypoints/pooling`), text-embeddings-inference 1.9 (`router/src/http`),
infinity-emb 0.0.78 (`fastapi_schemas/pymodels.py`), SGLang 0.5 (`srt/entrypoints/openai`),
docs.cohere.com/reference/rerank, jina.ai/reranker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from quernstone.encoding.prompts import (
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    rerank_body,
    rerank_head,
)
from quernstone.engines.remote.answers import (
    ShapeError,
    as_list,
    count,
    read_classes,
    read_embeddings,
    read_label_scores,
    read_ranks,
    read_results,
    read_rows,
    read_scores,
)
from quernstone.engines.remote.base import (
    Dialect,
    Limits,
    Request,
    ServerFacts,
    refuse_instruction,
)
from quernstone.engines.remote.native import Quernstone
from quernstone.engines.remote.options import RenderedBy
from quernstone.errors import ConfigError
from quernstone.types import Task, TextInput

# Token ids of `no` and `yes` in every Qwen3 tokenizer, for servers that score next tokens.
_NO_ID, _YES_ID = 2152, 9693


class OpenAI(Dialect):
    """Any server with `/v1/embeddings`; nothing else is used."""

    name = "openai"


class VLLM(Dialect):
    """`vllm serve --runner pooling`."""

    name = "vllm"
    renderers = ("client", "server")
    mixes_queries = True
    lends_tokenizer = True
    facts_path = "/v1/models"

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:
        """Set truncation, and the byte order that `read_embeddings` expects."""
        request = super().embed(model, texts, limits)
        request.body.update(embed_dtype="float32", endianness="little")
        if limits.truncate and limits.max_length is not None:
            # This keeps the final <|endoftext|>, like the truncation of Hugging Face's tokenizers.
            request.body["truncate_prompt_tokens"] = limits.max_length
        return request

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """Use `/v1/rerank` for one query, and `/score` for several."""
        common: dict[str, Any] = {"model": model, "instruction": pairs[0].instruction}
        documents = [pair.text for pair in pairs]
        queries = [pair.query for pair in pairs]
        if len(set(queries)) == 1:
            body = {**common, "query": queries[0], "documents": documents}
            return Request("/v1/rerank", body, read_results)
        body = {**common, "text_1": queries, "text_2": documents}
        return Request("/score", body, read_scores)

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """Use `/classify`, which ignores the server's chat template."""
        prompts = [head + body for head, body in zip(heads, bodies, strict=True)]
        return Request("/classify", {"model": model, "input": prompts}, read_classes)

    def facts(self, answer: Any, model: str, task: Task) -> ServerFacts:  # noqa: ARG002
        """See `Dialect.facts`."""
        cards = {card.get("id"): card for card in as_list(answer, "data")}
        if model not in cards:
            served = ", ".join(map(str, cards)) or "nothing"
            raise ConfigError(f"the server has no model {model!r}; it serves {served}")
        return ServerFacts(max_length=count(cards[model].get("max_model_len")))


class TEI(Dialect):
    """Hugging Face's text-embeddings-inference."""

    name = "tei"
    renderers = ("server",)
    max_inputs = 32  # `--max-client-batch-size`
    facts_path = "/info"

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:  # noqa: ARG002
        """Use `/embed`, which has `truncate`."""
        body = {"inputs": list(texts), "truncate": limits.truncate, "normalize": True}
        return Request("/embed", body, read_rows)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """Use `/rerank`, which sorts its results by score."""
        refuse_instruction(self.name, pairs)
        texts = [pair.text for pair in pairs]
        body = {"query": pairs[0].query, "texts": texts, "truncate": limits.truncate}
        return Request("/rerank", {**body, "raw_scores": False}, read_ranks)

    def facts(self, answer: Any, model: str, task: Task) -> ServerFacts:  # noqa: ARG002 - one model
        """See `Dialect.facts`."""
        if not isinstance(answer, dict):
            raise ShapeError("it is not an object")
        return ServerFacts(
            max_length=count(answer.get("max_input_length")),
            max_inputs=count(answer.get("max_client_batch_size")),
            dtype=answer.get("model_dtype"),
            revision=answer.get("model_sha"),
        )


class Infinity(Dialect):
    """infinity-emb, which strips white space from both ends of every text."""

    name = "infinity"
    renderers = ("server",)  # a rendered prompt ends in white space
    cuts_silently = True
    rerank_path = "/rerank"

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:
        """Use `/embeddings`; the server's `--url-prefix` belongs to the endpoint."""
        return replace(super().embed(model, texts, limits), path="/embeddings")


class SGLang(Dialect):
    """SGLang: with `--is-embedding` for embedding, without it for reranking."""

    name = "sglang"
    renderers = ("client", "server")

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:  # noqa: ARG002
        """Use `/v1/embeddings`, which returns decimal numbers only."""
        return Request("/v1/embeddings", {"model": model, "input": list(texts)}, read_embeddings)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """Use `/v1/rerank`, which calls the instruction `instruct`."""
        body = {
            "model": model,
            "query": pairs[0].query,
            "documents": [pair.text for pair in pairs],
            "instruct": pairs[0].instruction,
            "return_documents": False,
        }
        return Request("/v1/rerank", body, read_ranks)

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """Use `/v1/score`: the probabilities of `no` and `yes` after the joined text."""
        body = {
            "model": model,
            "query": heads[0],
            "items": list(bodies),
            "label_token_ids": [_NO_ID, _YES_ID],
            "apply_softmax": True,
        }
        return Request("/v1/score", body, read_label_scores)


class Cohere(Dialect):
    """Cohere's `/v2/rerank`, and compatible servers."""

    name = "cohere"
    embeds = False
    renderers = ("server",)
    cuts_silently = True
    rerank_path = "/v2/rerank"


class Jina(Cohere):
    """Jina's `/v1/rerank`, which returns the documents by default."""

    name = "jina"
    rerank_path = "/v1/rerank"
    rerank_fields: ClassVar[dict[str, Any]] = {"return_documents": False}


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OpenAI(), Quernstone(), VLLM(), TEI(), Infinity(), SGLang(), Cohere(), Jina())
}


def choose_dialect(
    name: str, task: Task, rendered_by: RenderedBy | None, *, truncate: bool
) -> Dialect:
    """Look up a dialect that supports these settings."""
    dialect = DIALECTS[name]
    if task == "embed" and not dialect.embeds:
        raise ConfigError(
            f"the dialect {name} has no embeddings; `openai` is what most servers speak"
        )
    if task == "rerank":
        if not dialect.renderers:
            able = ", ".join(other.name for other in DIALECTS.values() if other.renderers)
            raise ConfigError(f"the dialect {name} has no reranking; use one of {able}")
        if rendered_by not in dialect.renderers and (rendered_by or not dialect.renders_exactly):
            raise ConfigError(_renderer_error(dialect, rendered_by))
    if dialect.cuts_silently and not truncate:
        raise ConfigError(
            f"servers of the dialect {name} cut long texts without an error, so `truncate=False` "
            "is not possible"
        )
    return dialect


def _renderer_error(dialect: Dialect, rendered_by: RenderedBy | None) -> str:
    meaning = {
        "client": '`rendered_by="client"` (we render the prompt, and the server adds nothing)',
        "server": '`rendered_by="server"` (the server renders it, and must have the template)',
    }
    able = " or ".join(meaning[side] for side in dialect.renderers)
    refused = f"{rendered_by!r} is not possible"
    problem = "say who renders the prompt" if rendered_by is None else refused
    return f"reranking with the dialect {dialect.name}: {problem}; use {able}"


def render_halves(pair: TextInput) -> tuple[str, str]:
    """Render a reranker's prompt; return the part before the document, and the rest."""
    head = rerank_head(pair.query or "", pair.instruction or "", pair.template)
    return RERANK_PREFIX + head, rerank_body(pair.text) + RERANK_SUFFIXES[pair.template]
