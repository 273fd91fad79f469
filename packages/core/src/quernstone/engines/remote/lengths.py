"""Apply `max_length` with the server's own tokenizer, if it has an API for that, like vLLM.

A server checks its own limit instead of our `max_length`, and would cut the end of a reranker's
prompt, which contains the question. So documents are cut before they are sent, at the same token
as by the other engines. Texts with fewer bytes than `max_length` need no request.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

from quernstone.encoding.prompts import RERANK_SUFFIXES, rerank_body
from quernstone.engines.remote.base import render_text
from quernstone.engines.remote.dialects import render_halves
from quernstone.engines.remote.transport import Transport
from quernstone.errors import InputTooLongError, RemoteAnswerError, RemoteRequestError
from quernstone.types import TextInput

# An upper bound for the tokens of a template, of which `card` has 66.
_FIXED_TOKENS = 80

# At first, send at most this many characters per allowed token, as in `TokenEncoder`.
_CHARS_PER_TOKEN = 12

_FRAMES_KEPT = 1024


class Lengths:
    """The length limit of one model."""

    def __init__(
        self, transport: Transport, model: str, max_length: int, *, truncate: bool
    ) -> None:
        """Store the limits; nothing is requested yet. `max_length` includes the prompt."""
        self._transport, self._model = transport, model
        self._max_length, self._truncate = max_length, truncate
        self._counting: dict[int, asyncio.Lock] = {}  # a forked child needs one of its own
        self._frames: dict[tuple[str | None, str | None, str], int] = {}

    async def fit(self, item: TextInput, index: int) -> TextInput:
        """Return the input, with a shorter document if necessary."""
        texts = (item.text, item.query or "", item.instruction or "")
        if sum(len(text.encode()) for text in texts) + _FIXED_TOKENS <= self._max_length:
            return item  # a token has at least one byte
        try:
            if item.query is None:
                await self._check(item, index)
                return item
            return await self._cut(item, index)
        except RemoteRequestError as error:
            if error.status == 404:  # a gateway hides the tokenizer; leave it to the server
                return item
            raise

    async def _check(self, item: TextInput, index: int) -> None:
        """Check a text to embed, unless the server may cut it."""
        if self._truncate:
            return
        tokens = len(await self._ids(render_text(item)))
        if tokens >= self._max_length:  # one more token is appended
            raise InputTooLongError(index, tokens, self._max_length - 1)

    async def _cut(self, pair: TextInput, index: int) -> TextInput:
        frame = await self._frame(pair)
        limit = self._max_length - frame
        if limit <= 0:
            what = "the query with its instruction and template"
            raise InputTooLongError(index, frame, self._max_length, what)
        body = rerank_body(pair.text)
        ids = await self._ids(body, enough=limit if self._truncate else None)
        if len(ids) <= limit:
            return pair
        if not self._truncate:
            raise InputTooLongError(index, len(ids), limit)
        text: str = await self._ask("/detokenize", {"tokens": ids[:limit]}, "prompt", str)
        # A cut within a character leaves a replacement character.
        return replace(pair, text=text.removeprefix(rerank_body("")).rstrip("\ufffd"))

    async def _frame(self, pair: TextInput) -> int:
        """Count the tokens of a prompt without its document, once per query."""
        key = (pair.query, pair.instruction, pair.template)
        # Documents of one query arrive concurrently.
        async with self._counting.setdefault(os.getpid(), asyncio.Lock()):
            if key not in self._frames:
                if len(self._frames) >= _FRAMES_KEPT:
                    self._frames.clear()
                head, _ = render_halves(pair)
                self._frames[key] = len(await self._ids(head + RERANK_SUFFIXES[pair.template]))
            return self._frames[key]

    async def _ids(self, text: str, enough: int | None = None) -> list[int]:
        """Return the token ids of a text, or of its beginning if that has more than `enough`."""
        if enough is not None and len(text) > (enough + 1) * _CHARS_PER_TOKEN:
            start = await self._ids(text[: (enough + 1) * _CHARS_PER_TOKEN])
            if len(start) > enough:
                return start
        body = {"prompt": text, "add_special_tokens": False}
        ids: list[int] = await self._ask("/tokenize", body, "tokens", list)
        return ids

    async def _ask(self, path: str, body: dict[str, Any], name: str, kind: type) -> Any:
        answer = await self._transport.post(path, {"model": self._model, **body})
        found = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(found, kind):
            reason = f"sent an answer of another shape: there is no `{name}`"
            raise RemoteAnswerError(reason, self._transport.url(path), 200)
        return found
