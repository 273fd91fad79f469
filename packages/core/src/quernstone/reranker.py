"""`Reranker`: queries and documents to scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np

from quernstone.encoding.checks import check_instruction, check_list, check_positive, check_texts
from quernstone.encoding.templates import (
    AnyTemplate,
    PairTemplate,
    check_template,
    full_template,
    template_name,
)
from quernstone.engines.options import EngineOptions
from quernstone.errors import ConfigError, InputError
from quernstone.model import Model
from quernstone.pairs import InstructedPair, QueryPairs
from quernstone.runtime.session import Session
from quernstone.types import Dtype, EngineName, Float32Array, RankedDocument

Pair = tuple[str, str]


class Reranker(Model):
    """A reranker: computes the probability that a document is relevant to a query.

    The prompt up to the document is computed once for all documents of a query. Thread-safe, and
    shared within the process like `Embedder`.

    Examples:
        >>> from quernstone import Reranker
        >>> with Reranker("tiny") as reranker:
        ...     ranked = reranker.rerank("grinding grain", ["it rains", "a mill grinds grain"])
        >>> ranked[0].index
        1
    """

    def __init__(  # noqa: D417 - the others are those of `Embedder`
        self,
        model: str | PathLike[str] = "Qwen/Qwen3-Reranker-0.6B",
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: Dtype = "auto",
        instruction: str | None = None,
        template: AnyTemplate | None = None,
        max_length: int = 8192,
        truncate: bool = True,
        max_batch_tokens: int | None = None,
        deterministic: bool = False,
        prefix_sharing: bool = True,
        revision: str | None = None,
        adapter: str | None = None,
        cache_folder: str | None = None,
        engine_options: EngineOptions = None,
    ) -> None:
        """Load a model, or share one that this process has already loaded.

        The other arguments are those of `Embedder`. `deterministic` makes a pair's score
        independent of other pairs.

        Args:
            instruction: The task that defines relevance, in one sentence. None: the template's
                default.
            template: The prompt around a query and a document. `card` is that of Qwen3-Reranker's
                model card; `eval` is that of its official evaluation, which gave the published
                scores; a `PairTemplate` is your own. None: the one stored with the model, or
                `card` if there is none.
            max_length: Maximum number of tokens of a pair, template included; at most the model's
                own limit.
            truncate: True cuts the documents of longer pairs and counts them in `usage`; False
                raises an error. The query, the instruction and the template are never cut.
            prefix_sharing: False computes every pair from its first token. The scores then differ
                only by rounding.

        Raises:
            ConfigError: A setting has an invalid value, or contradicts another one.
            ModelLoadError: The model is missing or incomplete, or has the wrong tokenizer.
            MissingExtraError: The engine's packages are not installed.
        """
        if template is not None:
            check_template(template)
        self._session = Session(
            model,
            "rerank",
            engine=engine,
            device=device,
            dtype=dtype,
            max_length=max_length,
            truncate=truncate,
            max_batch_tokens=max_batch_tokens,
            deterministic=deterministic,
            revision=revision,
            adapter=adapter,
            cache_folder=cache_folder,
            engine_options=engine_options,
            template=template,
            share_prefix=prefix_sharing,
        )
        self._template = self._session.template
        self._full_template = full_template(self._template)
        default = "" if self._session.own_prompts else self._full_template.instruction
        try:
            self._session.encoder.pair_encoder(self._template)
            self._instruction = self._usable(default if instruction is None else instruction)
        except ConfigError:
            self._session.close()
            raise

    @property
    def template(self) -> AnyTemplate:
        """`card`, `eval`, or the `PairTemplate` that was passed or is stored with the model."""
        return self._template

    @property
    def fingerprint(self) -> str:
        """Stable identifier of all that determines the scores, to use in cache keys."""
        name = template_name(self._template)
        return self._session.fingerprint(template=name, instruction=self._instruction)

    def format_pair(self, query: str, document: str, instruction: str | None = None) -> str:
        """Return the prompt of a pair. Cross-encoders other than Qwen3 render their own."""
        chosen = self._instruction if instruction is None else instruction
        return self._full_template.render(query, document, chosen)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        instruction: str | None = None,
        *,
        progress: bool = False,
    ) -> list[RankedDocument]:
        """Order documents by their relevance to a query.

        Args:
            query: The question or request.
            documents: The candidates: a list or another iterable of strings.
            top_n: Maximum number of documents to return; None for all.
            instruction: Replaces the reranker's instruction in this call.
            progress: Show a progress bar on standard error.

        Returns:
            The documents, best first. Documents with equal scores keep their order.

        Raises:
            ConfigError: `top_n` is less than 1.
            InputError: A text is not a string, is not valid Unicode, or a pair is too long.
            EngineError: The model failed; the error names the document.
        """
        pairs = self._pairs_of(query, documents, top_n, instruction)
        return _ranked(self._scores(pairs, progress=progress), top_n)

    def rerank_many(
        self,
        queries: Iterable[str],
        documents: Iterable[str] | Iterable[Iterable[str]],
        top_n: int | None = None,
        instruction: str | Iterable[str] | None = None,
        *,
        progress: bool = False,
    ) -> list[list[RankedDocument]]:
        """Order the documents of many queries; faster than calling `rerank` for each.

        Queries share batches and the computed instruction, and a document that belongs to several
        queries is tokenized once. Pairs are created while others are computed, so memory stays
        bounded.

        Args:
            queries: The questions or requests.
            documents: The candidates: one list of strings for all queries, or one list for each.
            top_n: Maximum number of documents to return for each query; None for all.
            instruction: Replaces the reranker's instruction in this call; one for all queries, or
                one for each.
            progress: Show a progress bar on standard error.

        Returns:
            For each query its documents, best first; `index` is the position in that query's list.

        Raises:
            ConfigError: `top_n` is less than 1, or the numbers of instructions and queries differ.
            InputError: A text is not a string, is not valid Unicode, or a pair is too long; or
                `documents` mixes strings and lists. `.index` is the query's, and the message
                names the document.
            EngineError: The model failed; the error names the query and the document.
        """
        pairs = self._pairs_of_many(queries, documents, top_n, instruction)
        with pairs.naming_documents():
            scores = self._scores(pairs, progress=progress)
        return [_ranked(own, top_n) for own in pairs.by_query(scores)]

    def score(
        self, pairs: Iterable[Pair], instruction: str | None = None, *, progress: bool = False
    ) -> Float32Array:
        """Score (query, document) pairs.

        A query that occurs in several pairs is computed once, wherever they are in the list.

        Args:
            pairs: A list or another iterable of (query, document) pairs.
            instruction: Replaces the reranker's instruction in this call.
            progress: Show a progress bar on standard error.

        Returns:
            P(yes), the probability that the document is relevant, for each pair in input order. If
            the score function of the template is `logit`, any numbers. Shape: (number of pairs,)

        Raises:
            InputError: An entry is not a pair of strings, is not valid Unicode, or is too long.
            EngineError: The model failed; the error names the pair.
        """
        return self._scores(instructed_pairs(self, pairs, instruction), progress=progress)

    async def arerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """Like `rerank`, without blocking the event loop."""
        pairs = self._pairs_of(query, documents, top_n, instruction)
        return _ranked(await self._ascores(pairs), top_n)

    async def arerank_many(
        self,
        queries: Iterable[str],
        documents: Iterable[str] | Iterable[Iterable[str]],
        top_n: int | None = None,
        instruction: str | Iterable[str] | None = None,
    ) -> list[list[RankedDocument]]:
        """Like `rerank_many`, without blocking the event loop."""
        pairs = self._pairs_of_many(queries, documents, top_n, instruction)
        with pairs.naming_documents():
            scores = await self._ascores(pairs)
        return [_ranked(own, top_n) for own in pairs.by_query(scores)]

    async def ascore(self, pairs: Iterable[Pair], instruction: str | None = None) -> Float32Array:
        """Like `score`, without blocking the event loop."""
        return await self._ascores(instructed_pairs(self, pairs, instruction))

    def __repr__(self) -> str:
        info = self.info
        return (
            f"Reranker({self.model!r}, template={self.template!r}, engine={info.engine!r}, "
            f"device={info.device!r}, dtype={info.dtype!r})"
        )

    def _scores(self, pairs: Iterable[InstructedPair], *, progress: bool) -> Float32Array:
        encode = self._session.encoder.pair_encoder(self._template)
        title = "reranking" if progress else ""
        return scores_of(self, self._session.run_all(pairs, encode, progress=title))

    async def _ascores(self, pairs: Iterable[InstructedPair]) -> Float32Array:
        encode = self._session.encoder.pair_encoder(self._template)
        return scores_of(self, await self._session.arun_all(pairs, encode))

    def _pairs_of(
        self, query: str, documents: Iterable[str], top_n: int | None, instruction: str | None
    ) -> list[InstructedPair]:
        check_list("documents", documents)
        if top_n is not None:
            check_positive("top_n", top_n)
        chosen = self._usable(instruction)
        return [(query, document, chosen) for document in documents]

    def _pairs_of_many(
        self,
        queries: Iterable[str],
        documents: Iterable[str] | Iterable[Iterable[str]],
        top_n: int | None,
        instruction: str | Iterable[str] | None,
    ) -> QueryPairs:
        if top_n is not None:
            check_positive("top_n", top_n)
        check_list("queries", queries)
        queries = list(queries)
        instructions = self._one_each(instruction, len(queries))
        check_texts(queries, what="query")
        check_list("documents", documents)
        return QueryPairs(queries, list(documents), instructions)

    def _one_each(self, instruction: str | Iterable[str] | None, queries: int) -> Sequence[str]:
        if instruction is None or isinstance(instruction, str):
            return [self._usable(instruction)] * queries
        instruction = list(instruction)
        if len(instruction) != queries:
            raise ConfigError(
                f"{len(instruction)} instructions for {queries} queries; pass one string for all "
                "queries, or one for each"
            )
        return [self._usable(check_instruction(each)) for each in instruction]

    def _usable(self, instruction: str | None) -> str:
        """Return the instruction of a call, or the default for None.

        Raises:
            ConfigError: The model or its template cannot take an instruction.
        """
        if instruction is None:
            return self._instruction
        check_instruction(instruction)
        if self._session.own_prompts and instruction:
            raise ConfigError(
                f"`{self.model}` is not a Qwen3-Reranker: it reads only the query and the "
                "document, so leave out `instruction` and `template`"
            )
        if instruction and not self._full_template.takes_instruction:
            raise ConfigError(
                f"the template of `{self.model}` has no place for an instruction, so leave out "
                "`instruction`, or pass a `PairTemplate` with `{instruction}` in its prefix"
            )
        return instruction


def instructed_pairs(
    reranker: Reranker, pairs: Iterable[Pair], instruction: str | None
) -> list[InstructedPair]:
    """Add the instruction to (query, document) pairs, by default the reranker's.

    Raises:
        ConfigError: The model cannot read an instruction.
        InputError: An entry is not a pair.
    """
    check_list("pairs", pairs)
    pairs = list(pairs)
    for index, pair in enumerate(pairs):
        sized = isinstance(pair, (tuple, list, np.ndarray))
        if not sized or len(pair) != 2:
            size = f" of {len(pair)}" if sized else ""
            reason = f"expected a (query, document) pair, got a {type(pair).__name__}{size}"
            raise InputError(index, reason)
    chosen = reranker._usable(instruction)
    return [(query, document, chosen) for query, document in pairs]


def scores_of(reranker: Reranker, rows: Float32Array) -> Float32Array:
    """Return the scores of an engine's rows. Shape: (pairs, 2) or (pairs, 1) -> (pairs,)."""
    if reranker._session.tokenizer is None and rows.shape[1] == 1:
        return rows[:, 0]
    return _scores(rows, reranker._full_template)


def _scores(rows: Float32Array, template: PairTemplate) -> Float32Array:
    """Apply the score function and the temperature of a template to logits.

    Args:
        rows: The logits of the negative and the positive answer, or only of the positive one.
            Shape: (pairs, 2) or (pairs, 1)
        template: The template.

    Returns:
        The scores. Shape: (pairs,)
    """
    negative = rows[:, 0].astype(np.float64) if rows.shape[1] == 2 else 0.0
    margin = (negative - rows[:, -1]) / template.temperature
    if template.score == "logit":
        return np.asarray(-margin, dtype=np.float32)
    scores: Float32Array = (1.0 / (1.0 + np.exp(np.minimum(margin, 700.0)))).astype(np.float32)
    return scores


def _ranked(scores: Float32Array, top_n: int | None) -> list[RankedDocument]:
    order = np.argsort(-scores, kind="stable")[:top_n]
    return [RankedDocument(int(index), float(scores[index])) for index in order]
