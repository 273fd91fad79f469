"""Qwen3 reranking as a LlamaIndex node postprocessor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from os import PathLike
from typing import Any

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from typing_extensions import Unpack

from quernstone import PairTemplate, RemoteOptions, Reranker
from quernstone.errors import InputError
from quernstone.frameworks.holder import ModelHolder
from quernstone.frameworks.names import settings_of
from quernstone.frameworks.settings import (
    Count,
    Device,
    DtypeName,
    Folder,
    MaxLength,
    ModelName,
    RerankerSettings,
    Threshold,
    Truncate,
    with_model,
)
from quernstone.lazy import Lazy
from quernstone.types import EngineName, RankedDocument, RerankTemplate

dispatcher = get_dispatcher(__name__)

_ARGUMENTS = tuple(signature(Reranker).parameters)
_SHOWN = 5
"""Number of nodes that a warning names."""


class QuernstoneRerankSettings(RerankerSettings, total=False):
    """Arguments of `QuernstoneRerank`, for type checkers."""

    top_n: int | None
    score_threshold: float | None
    keep_retrieval_score: bool
    metadata_mode: MetadataMode
    callback_manager: CallbackManager | None


class NodesWithoutTextWarning(UserWarning):
    """Nodes without text were left out of a ranking."""


class QuernstoneRerank(ModelHolder, BaseNodePostprocessor):
    """Node postprocessor that orders nodes with a Qwen3-Reranker model, and keeps the best.

    The score of a node becomes the probability, from 0 to 1, that the node is relevant. Nodes with
    equal scores keep their order. The input nodes are not modified. Nodes without text, such as
    images, cannot be scored: a `NodesWithoutTextWarning` names them, and they are left out.

    The model is loaded by the first call. Objects with equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    Examples:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from llama_index.postprocessor.quernstone import QuernstoneRerank
        >>> rerank = QuernstoneRerank(model="tiny", top_n=1)
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("compiler", "editor")]
        >>> [best] = rerank.postprocess_nodes(nodes, query_str="edit text")
        >>> 0 <= best.score <= 1
        True
    """

    model_config = ConfigDict(
        # The base class ignores unknown settings, such as misspelled ones.
        extra="forbid",
        arbitrary_types_allowed=True,
        validate_assignment=True,
        hide_input_in_errors=True,  # the input may be a misplaced key
    )

    model: ModelName = Field(
        default="Qwen/Qwen3-Reranker-0.6B",
        description="Hub id, local folder, or the bundled `tiny`.",
    )
    top_n: Count = Field(
        default=2, description="Maximum number of nodes to keep; None keeps all.", ge=1
    )
    score_threshold: Threshold = Field(
        default=None,
        description="Drop nodes with lower scores, even if fewer than `top_n` remain.",
        ge=0,
        le=1,
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Keep the retrieval score as `retrieval_score` in the metadata.",
    )
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED, description="Which metadata the model reads with the text."
    )
    instruction: str | None = Field(
        default=None,
        description="Task that defines relevance, in one English sentence; None is the model's "
        "default.",
    )
    template: RerankTemplate | PairTemplate | None = Field(
        default=None,
        description="Prompt around a query and a node: `card` is that of Qwen3-Reranker's model "
        "card, `eval` that of the published results, and a `PairTemplate` is your own. None uses "
        "the prompt stored with the model, or `card` if there is none.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of the checkpoint on the hub."
    )
    adapter: str | None = Field(
        default=None,
        description="LoRA adapter to merge: its name in the model's folder, a folder, or a hub id.",
    )
    dtype: DtypeName = Field(
        default="auto",
        description=(
            "`auto` is bfloat16 where the hardware supports it, else float32; `int8` and `fp8` "
            "quantize."
        ),
    )
    max_length: MaxLength = Field(
        default=8192,
        description="Maximum number of tokens of a query and a node together, including the "
        "prompt.",
        ge=1,
    )
    truncate: Truncate = Field(
        default=True, description="Truncate longer nodes; False raises `InputTooLongError`."
    )
    engine: EngineName = Field(
        default="auto",
        description="Library or server that runs the model; `auto` chooses by the model's files.",
    )
    device: Device = Field(
        default="auto",
        description="Torch device, such as `cuda:1` or `cpu`, or several GPUs: `cuda:0,cuda:1` or "
        "`cuda:all`.",
    )
    max_batch_tokens: Count = Field(
        default=None,
        description="Maximum number of tokens of a batch; None chooses it by the free memory.",
        ge=1,
    )
    deterministic: bool = Field(
        default=False,
        description="Compute bit-identical scores regardless of the batch; slower.",
    )
    cache_folder: Folder = Field(
        default=None,
        description="Folder for files from a hub; None is the hub's usual cache.",
        exclude=True,
    )
    show_progress: bool = Field(
        default=False,
        description="Show a progress bar on standard error, except in the async methods.",
        exclude=True,
    )
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None,
        description="Constructor arguments of sentence-transformers or vLLM; for `remote`, "
        "`RemoteOptions`. Hidden from `to_dict` and `repr` because they may hold a key.",
        repr=False,
        exclude=True,
    )
    prefix_sharing: bool = Field(
        default=True,
        description="Compute the query and the text before it only once for all its nodes.",
    )

    _core: Lazy[Reranker] = PrivateAttr(default_factory=lambda: Lazy(Reranker))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        return settings_of(given, cls.model_fields, model="model")

    @field_validator("callback_manager", mode="before")
    @classmethod
    def _default_callback_manager(cls, given: Any) -> Any:
        return CallbackManager([]) if given is None else given

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        /,
        **settings: Unpack[QuernstoneRerankSettings],
    ) -> None:
        """Check the settings; the model is loaded by the first call."""
        super().__init__(**with_model(model, settings))

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in dictionaries and events."""
        return "QuernstoneRerank"

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model

    @property
    def reranker(self) -> Reranker:
        """The `quernstone.Reranker` that computes the scores; loads the model."""
        return self._core.get(self._settings())

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        nodes = list(nodes)  # frameworks also pass generators
        query, places = _query(query_bundle), _places_of_texts(nodes)
        with self._reported(nodes, query) as kept, _original_places(places):
            if places:
                reranker = self._core.get(self._settings())
                scored = [nodes[place] for place in places]
                ranking = reranker.rerank(
                    query.query_str,
                    self._texts(scored),
                    top_n=self.top_n,
                    progress=self.show_progress,
                )
                kept += self._best(scored, ranking)
        return kept

    @dispatcher.span  # the base class only decorates the synchronous method
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        nodes = list(nodes)
        query, places = _query(query_bundle), _places_of_texts(nodes)
        with self._reported(nodes, query) as kept, _original_places(places):
            if places:
                reranker = await self._core.aget(self._settings())
                scored = [nodes[place] for place in places]
                texts = self._texts(scored)
                ranking = await reranker.arerank(query.query_str, texts, top_n=self.top_n)
                kept += self._best(scored, ranking)
        return kept

    def _texts(self, nodes: list[NodeWithScore]) -> list[str]:
        return [scored.node.get_content(metadata_mode=self.metadata_mode) for scored in nodes]

    @contextmanager
    def _reported(
        self, nodes: list[NodeWithScore], query: QueryBundle
    ) -> Iterator[list[NodeWithScore]]:
        """Report a call to events and callbacks; yields the list that collects its result."""
        kept: list[NodeWithScore] = []
        top_n = len(nodes) if self.top_n is None else self.top_n
        start = ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model)
        dispatcher.event(start)
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield kept
            event.on_end(payload={EventPayload.NODES: kept})
        dispatcher.event(ReRankEndEvent(nodes=kept))

    def _best(
        self, nodes: list[NodeWithScore], ranking: Sequence[RankedDocument]
    ) -> list[NodeWithScore]:
        threshold = self.score_threshold or 0.0
        return [
            NodeWithScore(node=self._node(nodes[ranked.index]), score=float(ranked.score))
            for ranked in ranking
            if ranked.score >= threshold
        ]

    def _node(self, scored: NodeWithScore) -> BaseNode:
        if not self.keep_retrieval_score:
            return scored.node
        # Exclude the score from the text that models read.
        node, key = scored.node, "retrieval_score"
        return node.model_copy(
            update={
                "metadata": {**node.metadata, key: scored.score},
                "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, key],
                "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, key],
            }
        )

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `Reranker`, which are the fields of the same names."""
        return {name: getattr(self, name) for name in _ARGUMENTS}


def _query(query_bundle: QueryBundle | None) -> QueryBundle:
    if not isinstance(query_bundle, QueryBundle):
        message = (
            "reranking needs a query: pass `query_bundle=QueryBundle(...)` or `query_str=...`, "
            f"not `{type(query_bundle).__name__}`"
        )
        raise ValueError(message)
    return query_bundle


def _places_of_texts(nodes: Sequence[NodeWithScore]) -> list[int]:
    """Return the positions of the nodes with text, and warn about the others."""
    places, others = [], []
    for index, scored in enumerate(nodes):
        if not isinstance(scored, NodeWithScore):
            reason = f"expected a `NodeWithScore`, got `{type(scored).__name__}`"
            raise InputError(index, reason)
        if scored.node.get_content(metadata_mode=MetadataMode.NONE).strip():
            places.append(index)
        else:
            others.append(f"{scored.node.class_name()} {scored.node_id!r}")
    if others:
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        warnings.warn(
            f"{len(others)} of {len(nodes)} nodes have no text to score, and are left out: {shown}",
            NodesWithoutTextWarning,
            stacklevel=5,
        )
    return places


@contextmanager
def _original_places(places: Sequence[int]) -> Iterator[None]:
    """Change the positions in errors from those of the scored nodes to those of all nodes."""
    try:
        yield
    except InputError as error:
        raise error.at(places[error.index]) from error
