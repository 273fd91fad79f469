"""Limits in tokens, kept with the server's own tokenizer where it lends that (vLLM does).

A server counts tokens against its own limit and not against our `max_length`; and of a reranker's
prompt it would cut the end, which holds the question. So documents are cut here, before they are
sent, to the token at which the other engines cut them. Short texts, whose bytes are fewer than
the tokens allowed, cost no request.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from quernstone.encoding.prompts import RERANK_SUFFIXES, rerank_body
from quernstone.engines.remote.dialects import render_halves, render_text
from quernstone.engines.remote.transport import Transport
from quernstone.errors import InputTooLongError, RemoteAnswerError, RemoteRequestError
from quernstone.types import TextInput

# A bound on the tokens of a prompt's fixed parts; the `card` template has 66.
_FIXED_TOKENS = 80

# Text beyond this many characters per allowed token is not sent at first, as in `Tokenization`.
_CHARS_PER_TOKEN = 12

_FRAMES_KEPT = 1024


class Lengths:
    """Cuts or refuses inputs that are longer than `max_length`."""

    def __init__(
        self, transport: Transport, model: str, max_length: int, *, truncate: bool
    ) -> None:
        """Nothing is asked yet.

        Args:
            transport: To the server.
            model: Name of the model.
            max_length: Tokens per input, prompt included.
            truncate: Cut what is longer; False makes it an error.
        """
        self._transport, self._model = transport, model
        self._max_length, self._truncate = max_length, truncate
        self._counting = asyncio.Lock()
        self._frames: dict[tuple[str | None, str | None, str], int] = {}

    async def fit(self, item: TextInput, index: int) -> TextInput:
        """The input, or one with a shorter document.

        Raises:
            InputTooLongError: It is too long and must not be cut, or what is never cut is.
        """
        texts = (item.text, item.query or "", item.instruction or "")
        if sum(len(text.encode()) for text in texts) + _FIXED_TOKENS <= self._max_length:
            return item  # a token has at least one byte
        try:
            if item.query is None:
                await self._check(item, index)
                return item
            return await self._cut(item, index)
        except RemoteRequestError as error:
            if error.status == 404:  # a gateway hides the tokenizer: the server's limit remains
                return item
            raise

    async def _check(self, item: TextInput, index: int) -> None:
        """Refuse a text to embed. The server cuts such texts itself if it shall."""
        if self._truncate:
            return
        tokens = len(await self._ids(render_text(item)))
        if tokens >= self._max_length:  # the last token is appended to them
            raise InputTooLongError(index, tokens, self._max_length - 1)

    async def _cut(self, pair: TextInput, index: int) -> TextInput:
        frame = await self._frame(pair)
        room = self._max_length - frame
        if room <= 0:
            what = "the query with its instruction and template"
            raise InputTooLongError(index, frame, self._max_length, what)
        body = rerank_body(pair.text)
        ids = await self._ids(body, enough=room if self._truncate else None)
        if len(ids) <= room:
            return pair
        if not self._truncate:
            raise InputTooLongError(index, len(ids), room)
        text: str = await self._ask("/detokenize", {"tokens": ids[:room]}, "prompt", str)
        # a cut inside of a character leaves a part that is none
        return replace(pair, text=text.removeprefix(rerank_body("")).rstrip("\ufffd"))

    async def _frame(self, pair: TextInput) -> int:
        """Tokens of a prompt without its document, which all documents of a query share."""
        key = (pair.query, pair.instruction, pair.template)
        async with self._counting:  # the documents of one query arrive together
            if key not in self._frames:
                if len(self._frames) >= _FRAMES_KEPT:
                    self._frames.clear()
                head, _ = render_halves(pair)
                self._frames[key] = len(await self._ids(head + RERANK_SUFFIXES[pair.template]))
            return self._frames[key]

    async def _ids(self, text: str, enough: int | None = None) -> list[int]:
        """Token ids of a text, or of a beginning that has more than `enough`."""
        if enough is not None and len(text) > (enough + 1) * _CHARS_PER_TOKEN:
            some = await self._ids(text[: (enough + 1) * _CHARS_PER_TOKEN])
            if len(some) > enough:
                return some
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
