"""The remote engine: send inputs in requests, and check that every result belongs to its input."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.encoding.templates import AnyTemplate
from quernstone.engines.remote.answers import Found, ShapeError
from quernstone.engines.remote.base import Limits, Request, ServerFacts
from quernstone.engines.remote.dialects import choose_dialect, render_halves
from quernstone.engines.remote.lengths import Lengths
from quernstone.engines.remote.native import TEMPLATE_PATH, ask_template, read_template_answer
from quernstone.engines.remote.options import KEY_VARIABLE, RemoteOptions, read_key
from quernstone.engines.remote.transport import Transport
from quernstone.errors import (
    ConfigError,
    InputError,
    InputTooLongError,
    NonFiniteError,
    RemoteAnswerError,
    RemoteRequestError,
)
from quernstone.types import EngineConfig, EngineInfo, Float32Array, Input, TextInput, Usage

logger = logging.getLogger("quernstone.remote")

# Statuses for a refused input, or for a request that is too large. The request is then split.
_REFUSES_INPUT = {400, 413, 422}

_PROBE = {
    "embed": TextInput("quern"),
    "rerank": TextInput("A hand mill.", DEFAULT_INSTRUCTION, "quern"),
}

# Messages of vLLM, OpenAI, TEI and SGLang about texts that are too long.
_TOO_LONG = (
    r"context length is (?P<limit>\d+) tokens.* contains (at least )?(?P<tokens>\d+) input",
    r"context length is (?P<limit>\d+) tokens.* requested (?P<tokens>\d+) tokens",
    r"must have less than (?P<limit>\d+) tokens. Given: (?P<tokens>\d+)",
    r"\((?P<tokens>\d+) tokens\) is longer than .*\((?P<limit>\d+) tokens\)",
    r"has (?P<tokens>\d+) tokens, the limit is (?P<limit>\d+)",
)


class RemoteBackend:
    """One model on one server, see `Backend`. Safe for any number of threads and event loops."""

    def __init__(self, config: EngineConfig) -> None:
        """Connect, and request one short input to learn the width of the rows."""
        options = config.options
        if not isinstance(options, RemoteOptions):
            raise ConfigError("the remote engine needs `engine_options`, with at least `endpoint`")
        self._task, self._model, self._options = config.task, config.model, options
        self._dialect = choose_dialect(
            options.dialect, config.task, options.rendered_by, truncate=config.truncate
        )
        self._limits = Limits(max_length=config.max_length, truncate=config.truncate)
        self._max_inputs = options.max_inputs or self._dialect.max_inputs
        self._lengths: Lengths | None = None
        self.width = 1 if config.task == "rerank" else 0
        self.counts = Usage()
        self._transport = Transport(options, find_key(options))
        connecting = self._transport.start(self._connect())
        try:
            facts = connecting.result()
        except BaseException:  # also Ctrl-C, after which no result is needed
            connecting.cancel()
            self._transport.close()
            raise
        self.info = EngineInfo(
            engine="remote",
            device=options.endpoint,
            dtype=facts.dtype or "unknown",
            attention="unknown",
            max_batch_tokens=0,
            max_length=facts.max_length,
            revision=facts.revision or "",
            served=facts.served,
            prefix_sharing="the server decides",
        )

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """See `Backend.submit`."""
        texts = [item for item in inputs if isinstance(item, TextInput)]
        if len(texts) < len(inputs):
            raise TypeError("the remote engine takes texts and no token ids")
        return self._transport.start(self._compute(texts, list(self._plan(texts)), offset))

    def resolve(self, template: AnyTemplate) -> tuple[AnyTemplate, tuple[int, ...]]:
        """Ask a `quern serve` for a template as its model uses it, and the rows of the head.

        Raises:
            ConfigError: The model cannot score by this template.
        """
        return self._transport.start(self._resolve(template)).result()

    async def _resolve(self, template: AnyTemplate) -> tuple[AnyTemplate, tuple[int, ...]]:
        try:
            answer = await self._transport.post(TEMPLATE_PATH, ask_template(self._model, template))
        except RemoteRequestError as error:
            if error.status != 422:
                raise
            raise ConfigError(f"{error.url} {error.reason}") from error
        return read_template_answer(answer)

    def close(self) -> None:
        """See `Backend.close`."""
        self._transport.close()

    async def _connect(self) -> ServerFacts:
        """Request the facts about the server, if it has any, and the probe."""
        facts = ServerFacts()
        if self._dialect.facts_path is not None:
            # A gateway may not forward this path.
            missing = () if self._dialect.needs_facts else (RemoteRequestError, ShapeError)
            with suppress(*missing):
                answer = await self._transport.get(self._dialect.facts_path)
                facts = self._dialect.facts(answer, self._model, self._task)
        if facts.served is not None:
            self._model = facts.served.name
        if facts.max_length is not None:
            known = [facts.max_length, self._limits.max_length or facts.max_length]
            self._limits = Limits(max_length=min(known), truncate=self._limits.truncate)
        if self._dialect.lends_tokenizer and self._limits.max_length is not None:
            limit, truncate = self._limits.max_length, self._limits.truncate
            self._lengths = Lengths(self._transport, self._model, limit, truncate=truncate)
        if facts.max_inputs is not None and self._options.max_inputs is None:
            self._max_inputs = facts.max_inputs
        probe = _PROBE[self._task]
        if facts.served is not None:  # by the model's own instruction and template
            probe = replace(probe, instruction=None, custom_template=facts.served.template)
        request = self._request([probe])
        found = await self._results(request)
        if self._task == "embed" and len(found) == 1:
            self.width = max(1, int(np.size(found[0][1])))
        self._rows(found, [0], 0, request)
        return facts

    async def _compute(
        self, texts: list[TextInput], plan: Sequence[Sequence[int]], offset: int
    ) -> Float32Array:
        rows = np.empty((len(texts), self.width), dtype=np.float32)

        async def fill(places: Sequence[int]) -> None:
            if self._lengths is not None:
                fits = (self._lengths.fit(texts[place], offset + place) for place in places)
                for place, item in zip(places, await asyncio.gather(*fits), strict=True):
                    texts[place] = item
            for part, found in await self._ask(texts, places, offset):
                rows[part] = found

        tasks = [asyncio.ensure_future(fill(places)) for places in plan]
        try:
            await asyncio.gather(*tasks)
        except BaseException:  # also a cancellation: the other results are not needed
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return rows

    async def _ask(
        self, texts: Sequence[TextInput], places: Sequence[int], offset: int
    ) -> list[tuple[Sequence[int], Float32Array]]:
        """Send one request. If it is refused, split it until the faulty input is found."""
        request = self._request([texts[place] for place in places])
        try:
            found = await self._results(request, counted=True)
        except RemoteRequestError as error:
            if error.status not in _REFUSES_INPUT:
                raise
            if len(places) == 1:
                raise _input_error(error, offset + places[0]) from error
            middle = len(places) // 2
            first = await self._ask(texts, places[:middle], offset)
            return first + await self._ask(texts, places[middle:], offset)
        return [(places, self._rows(found, places, offset, request))]

    async def _results(self, request: Request, *, counted: bool = False) -> Found:
        answer = await self._transport.post(request.path, request.body)
        try:
            found = request.read(answer)
            tokens, truncated = request.usage(answer) if counted else (0, 0)
        except ShapeError as error:
            reason = f"sent an answer of another shape: {error}; is this the right dialect?"
            raise RemoteAnswerError(reason, self._url(request), 200) from error
        self.counts.tokens += tokens
        self.counts.truncated += truncated
        if truncated:
            logger.warning(
                "the server cut %d of %d inputs, which were longer than %s tokens",
                truncated,
                len(found),
                self._limits.max_length,
            )
        return found

    def _rows(
        self, found: Found, places: Sequence[int], offset: int, request: Request
    ) -> Float32Array:
        """Check the results, and return them in the order of the request."""
        url = self._url(request)
        indices = [index for index, _ in found]
        if sorted(indices) != list(range(len(places))):
            raise RemoteAnswerError(_wrong_indices(indices, len(places)), url, 200)
        rows = np.empty((len(places), self.width), dtype=np.float32)
        for index, value in found:
            place = offset + places[index]
            row = _numbers(value, url, place)
            if len(row) != self.width:
                reason = f"sent {len(row)} numbers for it and {self.width} for the first input"
                raise RemoteAnswerError(reason, url, 200, place)
            if not np.isfinite(row).all():
                detail = f"says {url}; start the server with bfloat16 or float32"
                raise NonFiniteError(place, detail)
            # A template of `quern serve` may score by logits.
            probable = self._task != "rerank" or self._dialect.renders_exactly
            if not probable and not 0.0 <= row[0] <= 1.0:
                reason = f"sent the score {row[0]:g}, which is not a probability"
                raise RemoteAnswerError(reason, url, 200, place)
            rows[index] = row
        return rows

    def _request(self, items: Sequence[TextInput]) -> Request:
        if self._task == "embed":
            return self._dialect.embed_raw(self._model, items, self._limits)
        if self._options.rendered_by == "client":
            heads, bodies = zip(*map(render_halves, items), strict=True)
            return self._dialect.rerank_rendered(self._model, heads, bodies)
        if items[0].template != "card" and not self._dialect.renders_exactly:
            raise ConfigError(
                f'the template {items[0].template!r} needs `RemoteOptions(rendered_by="client")`: '
                "a server renders only the template that it was started with"
            )
        return self._dialect.rerank_raw(self._model, items, self._limits)

    def _plan(self, texts: Sequence[TextInput]) -> Iterator[Sequence[int]]:
        """Yield the indices of the inputs of each request. Queries are mixed only if allowed."""
        groups: dict[object, list[int]] = {}
        for place, item in enumerate(texts):
            query = None if self._dialect.mixes_queries else item.query
            rendering = item.custom_template or item.template
            groups.setdefault((query, item.instruction, rendering), []).append(place)
        for places in groups.values():
            # Split evenly: 65 inputs become 33 and 32, not 64 and 1.
            parts = -(-len(places) // self._max_inputs)
            size = -(-len(places) // parts)
            yield from self._by_bytes(texts, places, size)

    def _by_bytes(
        self, texts: Sequence[TextInput], places: Sequence[int], size: int
    ) -> Iterator[Sequence[int]]:
        start, total = 0, 0
        for end, place in enumerate(places):
            item = texts[place]
            # Count the query for every input: mixed and rendered requests repeat it.
            length = len(orjson.dumps((item.text, item.query, item.instruction)))
            full = end - start == size or total + length > self._options.request_bytes
            if end > start and full:
                yield places[start:end]
                start, total = end, 0
            total += length
        yield places[start:]

    def _url(self, request: Request) -> str:
        return self._transport.url(request.path)


def find_key(options: RemoteOptions) -> str:
    """Return the key from the options or the environment, or an empty string."""
    if options.api_key or options.basic_auth:
        return options.api_key.get_secret_value() if options.api_key else ""
    found = os.environ.get(KEY_VARIABLE, "")
    return read_key(found, KEY_VARIABLE).get_secret_value() if found else ""


def _numbers(value: Any, url: str, place: int) -> Float32Array:
    """Convert a row. `null`, which several servers send for NaN, becomes NaN."""
    try:
        with np.errstate(over="ignore"):  # overflows become infinite, which is refused later
            row = np.atleast_1d(np.asarray(value, dtype=np.float32))
    except (TypeError, ValueError, OverflowError):
        # NumPy's error would quote the answer, which may contain our input.
        raise RemoteAnswerError("sent something that is not a number", url, 200, place) from None
    if row.ndim != 1:
        raise RemoteAnswerError("sent a table where a row is expected", url, 200, place)
    return row


def _wrong_indices(indices: Sequence[int], count: int) -> str:
    if len(indices) != count:
        return f"sent {len(indices)} results for {count} inputs"
    missing = sorted(set(range(count)) - set(indices))
    return (
        f"sent results with the indices {sorted(indices)[:10]}, and none for input {missing[0]} "
        "of the request"
    )


def _input_error(error: RemoteRequestError, index: int) -> InputError:
    """Convert the error for a request with one input."""
    for pattern in _TOO_LONG:
        if match := re.search(pattern, error.reason):
            tokens, limit = int(match["tokens"]), int(match["limit"])
            return InputTooLongError(index, tokens, limit, "the text, as the server counts it,")
    return InputError(index, f"{error.url} {error.reason}")
