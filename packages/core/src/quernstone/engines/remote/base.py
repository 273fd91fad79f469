"""A request, and a dialect with the defaults that fit most servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, query_frame
from quernstone.engines.remote.answers import Found, read_embeddings, read_results
from quernstone.engines.remote.options import RenderedBy
from quernstone.errors import ConfigError
from quernstone.types import ServedModel, Task, TextInput


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and the function that reads its answer."""

    path: str
    body: dict[str, Any]
    read: Callable[[Any], Found]
    """Raises `ShapeError`."""
    usage: Callable[[Any], tuple[int, int]] = lambda _: (0, 0)
    """Returns the tokens of the request and the number of cut inputs, if the answer has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The tokens per input, None if unknown, and whether the server should cut longer inputs."""

    max_length: int | None
    truncate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Facts that a server reports about itself; None if it does not."""

    max_length: int | None = None
    max_inputs: int | None = None
    dtype: str | None = None
    revision: str | None = None
    served: ServedModel | None = None


class Dialect:
    """One kind of server. The defaults fit most of them."""

    name: ClassVar[str]
    embeds: ClassVar[bool] = True
    renderers: ClassVar[tuple[RenderedBy, ...]] = ()
    """Who can render a reranker's prompt. Empty if the server does not rerank."""
    max_inputs: ClassVar[int] = 64
    """Inputs per request. vLLM's throughput is flat from 16 on (vllm-project/vllm#23000)."""
    mixes_queries: ClassVar[bool] = False
    """If true, one reranking request can contain several queries."""
    cuts_silently: ClassVar[bool] = False
    """If true, long texts are always cut without an error."""
    lends_tokenizer: ClassVar[bool] = False
    """If true, the server has `/tokenize` and `/detokenize`, which `lengths` uses."""
    rerank_path: ClassVar[str] = "/v1/rerank"
    rerank_fields: ClassVar[dict[str, Any]] = {}
    """Additional fields of a request to `rerank_path`."""
    facts_path: ClassVar[str | None] = None
    """The path of `facts`, if the server has any."""
    needs_facts: ClassVar[bool] = False
    """If true, a server without `facts` is not one of this dialect."""
    renders_exactly: ClassVar[bool] = False
    """If true, the server renders every template exactly as we do."""

    def embed_raw(self, model: str, inputs: Sequence[TextInput], limits: Limits) -> Request:
        """Request the embeddings of texts that are not rendered yet."""
        return self.embed(model, list(map(render_text, inputs)), limits)

    def embed(self, model: str, texts: Sequence[str], limits: Limits) -> Request:  # noqa: ARG002
        """Request the embeddings of rendered texts."""
        body = {"model": model, "input": list(texts), "encoding_format": "base64"}
        return Request("/v1/embeddings", body, read_embeddings)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:  # noqa: ARG002
        """Request the scores of pairs whose prompt the server renders."""
        refuse_instruction(self.name, pairs)
        documents = [pair.text for pair in pairs]
        body = {"model": model, "query": pairs[0].query, "documents": documents}
        return Request(self.rerank_path, {**body, **self.rerank_fields}, read_results)

    def rerank_rendered(self, model: str, heads: Sequence[str], bodies: Sequence[str]) -> Request:
        """Request the scores of rendered prompts, each given as (head, body)."""
        raise NotImplementedError

    def facts(self, answer: Any, model: str, task: Task) -> ServerFacts:
        """Read the answer to `facts_path`."""
        raise NotImplementedError


def render_text(item: TextInput) -> str:
    """Return a document as it is, or a query with its instruction."""
    return item.text if item.instruction is None else query_frame(item.instruction) + item.text


def refuse_instruction(name: str, pairs: Sequence[TextInput]) -> None:
    """Raise an error instead of dropping an instruction that the request cannot contain."""
    if pairs[0].instruction != DEFAULT_INSTRUCTION:
        raise ConfigError(
            f"the dialect {name} has no field for an instruction, so only the default one "
            f"({DEFAULT_INSTRUCTION!r}) can be used"
        )
