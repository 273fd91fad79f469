"""The bodies of requests.

Sources: OpenAI's `/v1/embeddings` (platform.openai.com/docs/api-reference/embeddings), Cohere's
`/v1/rerank` and `/v2/rerank` (docs.cohere.com/reference/rerank), Jina's `/v1/rerank`
(jina.ai/reranker), vLLM's `/score` (docs.vllm.ai, "Scoring"). Unknown fields are refused, because
ignoring them could change results.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quernstone.encoding.templates import PairTemplate
from quernstone.types import RerankTemplate

MODEL_FIELD = Field(None, description="Name of the model. By default the one that is served.")
INSTRUCTION_FIELD = Field(
    None, description="The task, in one English sentence. By default the model's own."
)
TRUNCATE_FIELD = Field(
    None,
    description="Cut inputs that are longer than the model's limit, and count them in `usage`; "
    "false refuses them. By default the setting of the server.",
)


class Body(BaseModel):
    """Base of all bodies, which refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _refuse_tokens(value: Any) -> Any:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)):
        raise ValueError(
            "token ids are refused, because their prompt and last token cannot be checked; send "
            "text (`OpenAIEmbeddings` of langchain-openai: `check_embedding_ctx_length=False`)"
        )
    return value


class EmbeddingRequest(Body):
    """OpenAI's request, with `input_type` and `instruction`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": ["a hand mill grinds grain"]},
                {"input": "grinding grain", "input_type": "query", "dimensions": 64},
            ],
        }
    )

    model: str | None = MODEL_FIELD
    input: Annotated[str | list[str], BeforeValidator(_refuse_tokens)] = Field(
        description="One text, or a list of texts."
    )
    input_type: Literal["query", "document"] | None = Field(
        None,
        description="A query gets the instruction, a document gets none. The default is `query` "
        "with an instruction, else `document`.",
    )
    instruction: str | None = INSTRUCTION_FIELD
    dimensions: int | None = Field(None, description="Length of the vectors, 32 or more.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64` is that of 32-bit floats, lowest byte first."
    )
    truncate: bool | None = TRUNCATE_FIELD
    user: str | None = Field(None, description="Accepted for OpenAI's clients, and not used.")

    @model_validator(mode="after")
    def _check_instruction(self) -> EmbeddingRequest:
        if self.input_type == "document" and self.instruction:
            raise ValueError("documents get no instruction: leave out `instruction`")
        return self


class Document(Body):
    """A document in the shape of Cohere's and Jina's APIs."""

    text: str


class RerankRequest(Body):
    """The request of Cohere and Jina, with `instruction`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "grinding grain", "documents": ["a hand mill", "it rains"], "top_n": 1}
            ]
        }
    )

    model: str | None = MODEL_FIELD
    query: str
    documents: list[str | Document] = Field(description="Texts, or objects with a `text`.")
    top_n: int | None = Field(None, ge=1, description="How many to return. By default all.")
    return_documents: bool = Field(False, description="Return the texts with the scores.")
    instruction: str | None = INSTRUCTION_FIELD
    truncate: bool | None = TRUNCATE_FIELD


class ScoreRequest(Body):
    """vLLM's request: one text with each of a list, or pairs of two lists."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text_1": "grinding grain", "text_2": ["a hand mill", "it rains"]}]
        }
    )

    model: str | None = MODEL_FIELD
    text_1: str | list[str] = Field(description="The query, or a query for each of `text_2`.")
    text_2: str | list[str] = Field(description="The documents.")
    instruction: str | None = INSTRUCTION_FIELD
    truncate: bool | None = TRUNCATE_FIELD

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of a query and a document."""
        documents = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        queries = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        if len(queries) == 1:
            queries = queries * len(documents)
        return list(zip(queries, documents, strict=True))

    @model_validator(mode="after")
    def _check_lengths(self) -> ScoreRequest:
        if isinstance(self.text_1, list) and len(self.text_1) != 1:
            others = 1 if isinstance(self.text_2, str) else len(self.text_2)
            if len(self.text_1) != others:
                raise ValueError(
                    f"`text_1` has {len(self.text_1)} texts and `text_2` has {others}; give one "
                    "query, or one for each document"
                )
        return self


def _refuse_unknown_fields(value: Any) -> Any:
    known = {field.name for field in fields(PairTemplate)}
    if isinstance(value, dict) and (unknown := sorted(value.keys() - known)):
        raise ValueError(f"unknown fields of a template: {', '.join(unknown)}")
    return value


Template = Annotated[RerankTemplate | PairTemplate, BeforeValidator(_refuse_unknown_fields)]


class TemplateRequest(Body):
    """The request to describe how the model uses a template; see `native`."""

    protocol: int
    model: str | None = None
    template: Template


class NativeRequest(Body):
    """The request of Quernstone's remote engine; see `native`."""

    protocol: int
    task: Literal["embed", "rerank"]
    model: str | None = None
    texts: list[str]
    query: str | None = None
    instruction: str | None = None
    template: Template | None = None
    max_length: int | None = Field(None, ge=1)
    truncate: bool | None = None

    @model_validator(mode="after")
    def _check_query(self) -> NativeRequest:
        if (self.query is None) == (self.task == "rerank"):
            raise ValueError("`query` belongs to the task `rerank`, and only to it")
        return self
