"""What embedders and rerankers have in common: a checkpoint, its tokenizer and a shared worker."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Generic, Literal, TypeVar, cast

import numpy as np

from quernstone import worker
from quernstone.engines import choose_engine, load_engine
from quernstone.errors import ClosedError, ConfigError, InputError
from quernstone.models import resolve
from quernstone.progress import progress_bar
from quernstone.tokenization import Tokenization, check_texts
from quernstone.types import (
    Dtype,
    EncodedBatch,
    EngineConfig,
    EngineInfo,
    EngineName,
    Float32Array,
    Task,
    Usage,
)

logger = logging.getLogger("quernstone")

T = TypeVar("T")
User = TypeVar("User", bound="ModelUser")
Encode = Callable[[Sequence[T], int], EncodedBatch]
"""(inputs, index of the first one) -> their sequences."""

# Inputs are tokenised and handed to the worker a window at a time: enough to sort by length and
# fill batches, little enough that memory does not grow with the job.
_WINDOW_INPUTS = 2048
_WINDOW_CHARS = 4_000_000
# One window is computed while the next is tokenised.
_WINDOWS_AHEAD = 2
# Up to this many inputs an async call tokenises on the event loop (well under a millisecond);
# larger ones go to a thread.
_INLINE_INPUTS = 16
_INLINE_CHARS = 20_000


class Session:
    """One user's hold on a loaded model."""

    def __init__(
        self,
        model: str,
        task: Task,
        *,
        engine: EngineName,
        device: str,
        dtype: Dtype,
        max_length: int,
        truncate: bool,
        max_batch_tokens: int | None,
        revision: str | None,
    ) -> None:
        check_positive("max_length", max_length)
        if max_batch_tokens is not None:
            check_positive("max_batch_tokens", max_batch_tokens)
        self.checkpoint = resolve(model, task, revision)
        name = choose_engine(engine, self.checkpoint)
        self.tokenization = _tokenization(self.checkpoint.folder, self.checkpoint.vocab_size)
        self.max_length = min(max_length, self.checkpoint.max_positions)
        self.truncate = truncate
        self.usage = Usage()
        self._usage_lock = threading.Lock()
        config = EngineConfig(
            task=task,
            model=str(self.checkpoint.folder),
            engine=cast("Literal['torch', 'transformers']", name),
            device=device,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
        )
        self._worker = worker.acquire(
            config, partial(load_engine, config, self.checkpoint, self.tokenization)
        )
        self._release = weakref.finalize(self, worker.release, config)

    @property
    def info(self) -> EngineInfo:
        """What the engine turned out to be."""
        return self._worker.info

    @property
    def width(self) -> int:
        """Numbers per row that the engine returns."""
        return self._worker.width

    def close(self) -> None:
        """Give the model back; it is unloaded when no other session of the process holds it."""
        self._release()

    def run(
        self, inputs: Iterable[T], encode: Encode[T], *, progress: str = ""
    ) -> Iterator[Float32Array]:
        """Compute inputs window by window, in order.

        Args:
            inputs: Any number; read no further than two windows ahead.
            encode: Makes the sequences of a window.
            progress: Title of a progress bar; empty for none.

        Yields:
            The engine's rows of the next inputs. Shape: (inputs of the window, width)
        """
        pending: deque[Future[Float32Array]] = deque()
        total = len(inputs) if isinstance(inputs, Sequence) else None
        with progress_bar(progress, total, show=bool(progress)) as advance:

            def next_rows() -> Float32Array:
                rows = pending[0].result()  # stays in `pending` until done: see `finally`
                pending.popleft()
                advance(len(rows))
                return rows

            try:
                for offset, window in _windows(inputs):
                    pending.append(self._submit(window, offset, encode))
                    if len(pending) >= _WINDOWS_AHEAD:
                        yield next_rows()
                while pending:
                    yield next_rows()
            finally:
                for future in pending:  # after an error, or when the caller stops listening
                    future.cancel()

    def run_all(
        self, inputs: Sequence[T], encode: Encode[T], *, progress: str = ""
    ) -> Float32Array:
        """Compute all inputs. Shape: (len(inputs), width)."""
        windows = list(self.run(inputs, encode, progress=progress))
        if not windows:
            return np.empty((0, self.width), dtype=np.float32)
        return windows[0] if len(windows) == 1 else np.concatenate(windows)

    async def arun(
        self, inputs: Iterable[T] | AsyncIterable[T], encode: Encode[T]
    ) -> AsyncIterator[Float32Array]:
        """Like `run`, without blocking the event loop; takes asynchronous iterables, too."""
        pending: deque[Future[Float32Array]] = deque()
        try:
            async for offset, window in _awindows(inputs):
                pending.append(await asyncio.to_thread(self._submit, window, offset, encode))
                if len(pending) >= _WINDOWS_AHEAD:
                    yield await asyncio.wrap_future(pending.popleft())
            while pending:
                yield await asyncio.wrap_future(pending.popleft())
        finally:
            for future in pending:
                future.cancel()

    async def arun_all(self, inputs: Sequence[T], encode: Encode[T]) -> Float32Array:
        """Like `run_all`, without blocking the event loop."""
        if not inputs:
            return np.empty((0, self.width), dtype=np.float32)
        if len(inputs) <= _INLINE_INPUTS and sum(map(_chars, inputs)) <= _INLINE_CHARS:
            return await asyncio.wrap_future(self._submit(inputs, 0, encode))
        return await asyncio.to_thread(self.run_all, inputs, encode)

    def _submit(self, window: Sequence[T], offset: int, encode: Encode[T]) -> Future[Float32Array]:
        if not self._release.alive:
            raise ClosedError("used after `close()`; make a new one")
        batch = encode(window, offset)
        if batch.truncated:
            logger.warning(
                "%d of %d inputs were longer than max_length=%d tokens and were cut; "
                "the first is input %d",
                len(batch.truncated),
                len(window),
                self.max_length,
                offset + batch.truncated[0],
            )
        with self._usage_lock:
            self.usage.inputs += len(window)
            self.usage.tokens += sum(len(s) + len(s.prefix or ()) for s in batch.sequences)
            self.usage.truncated += len(batch.truncated)
        return self._worker.submit(batch.sequences, offset)

    def usage_so_far(self) -> Usage:
        """A copy of the running totals."""
        with self._usage_lock:
            return replace(self.usage)

    def fingerprint(self, **settings: object) -> str:
        """A stable text that changes whenever results may: for caches and provenance.

        Args:
            settings: Further settings of the caller that results depend on.
        """
        parts = {
            "model": self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "dtype": self.info.dtype,
            "max_length": self.max_length,
            **settings,
        }
        readable = ";".join(f"{key}={value}" for key, value in parts.items())
        return f"quernstone:{hashlib.sha256(readable.encode()).hexdigest()[:16]};{readable}"


class ModelUser:
    """What `Embedder` and `Reranker` have in common for their users."""

    _session: Session
    _instruction: str

    @property
    def model(self) -> str:
        """The model as it was named."""
        return self._session.checkpoint.name

    @property
    def revision(self) -> str:
        """Commit of a hub snapshot; for a folder and for `tiny`, a digest of its files."""
        return self._session.checkpoint.revision

    @property
    def instruction(self) -> str:
        """The instruction of calls that bring none."""
        return self._instruction

    @property
    def max_length(self) -> int:
        """Tokens per input, prompt included."""
        return self._session.max_length

    @property
    def info(self) -> EngineInfo:
        """Engine, device, dtype, attention kernel and batch budget."""
        return self._session.info

    @property
    def usage(self) -> Usage:
        """Inputs, tokens and cut inputs so far."""
        return self._session.usage_so_far()

    def close(self) -> None:
        """Give the model back. It is unloaded when nothing else in the process uses it."""
        self._session.close()

    def __enter__(self: User) -> User:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_list(name: str, values: object) -> None:
    """Refuse a single string where a list is meant: it would pass as a list of characters.

    Raises:
        InputError: `values` is a string or no sequence at all.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        reason = f"`{name}` is {type(values).__name__}, expected a list of strings"
        raise InputError(0, reason)


def check_positive(name: str, value: int) -> None:
    """Refuse a count below one.

    Raises:
        ConfigError: Not a whole number, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"`{name}` is {value!r}; it must be a whole number of at least 1"
        raise ConfigError(msg)


def check_instruction(instruction: str) -> str:
    """Return a usable instruction.

    Raises:
        ConfigError: Not a string, or no Unicode text.
    """
    try:
        check_texts([instruction], what="instruction")
    except InputError as error:
        raise ConfigError(error.reason) from error
    return instruction


class _Window(Generic[T]):
    """Collects inputs until there are enough of them, or enough text."""

    def __init__(self) -> None:
        self.offset = 0
        self._inputs: list[T] = []
        self._chars = 0

    def add(self, value: T) -> bool:
        """Add an input; True when the window is full."""
        self._inputs.append(value)
        self._chars += _chars(value)
        return len(self._inputs) >= _WINDOW_INPUTS or self._chars >= _WINDOW_CHARS

    def take(self) -> tuple[int, list[T]]:
        """The collected inputs and the index of the first; the next window begins."""
        taken = (self.offset, self._inputs)
        self.offset, self._inputs, self._chars = self.offset + len(self._inputs), [], 0
        return taken

    def __bool__(self) -> bool:
        return bool(self._inputs)


def _windows(inputs: Iterable[T]) -> Iterator[tuple[int, list[T]]]:
    window: _Window[T] = _Window()
    for value in inputs:
        if window.add(value):
            yield window.take()
    if window:
        yield window.take()


async def _awindows(
    inputs: Iterable[T] | AsyncIterable[T],
) -> AsyncIterator[tuple[int, list[T]]]:
    if not isinstance(inputs, AsyncIterable):
        for taken in _windows(inputs):
            yield taken
        return
    window: _Window[T] = _Window()
    async for value in inputs:
        if window.add(value):
            yield window.take()
    if window:
        yield window.take()


def _chars(value: object) -> int:
    """About how much text an input is; wrong types are refused later, by index."""
    if isinstance(value, str):
        return len(value)
    return sum(map(_chars, value)) if isinstance(value, tuple) else 0


@lru_cache(maxsize=8)
def _tokenization(folder: Path, vocab_size: int) -> Tokenization:
    # half a second for the official 11 MB file; all sessions of a checkpoint share it
    return Tokenization(folder, vocab_size)
