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
    Sized,
)
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import numpy as np

from quernstone.checkpoints.checkpoint import Checkpoint, resolve
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.encoding.texts import TextEncoder
from quernstone.encoding.tokens import Tokenization, check_texts
from quernstone.engines import check_engine, choose_engine, connect, load_engine, takes_text
from quernstone.engines.options import EngineOptions, Options, read_options
from quernstone.errors import ClosedError, ConfigError, InputError
from quernstone.progress import progress_bar
from quernstone.runtime import worker
from quernstone.runtime.coalescing import others_are_ready
from quernstone.types import (
    Backend,
    Dtype,
    Encoded,
    EncodedBatch,
    Encoder,
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
    """One user's hold on a loaded model, or on a connection to a server."""

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
        deterministic: bool,
        revision: str | None,
        engine_options: EngineOptions,
    ) -> None:
        check_positive("max_length", max_length)
        if max_batch_tokens is not None:
            check_positive("max_batch_tokens", max_batch_tokens)
        check_engine(engine)
        checkpoint, name = None, "remote"
        if engine == "remote":
            _check_remote(device=device, dtype=dtype, max_batch_tokens=max_batch_tokens)
        else:
            checkpoint = resolve(model, task, revision)
            name = choose_engine(engine, checkpoint, task)
        if deterministic:
            max_batch_tokens = _one_input_a_batch(name, max_batch_tokens)
        self.encoder, self.own_prompts = _encoder(name, checkpoint, task)
        reads_text = isinstance(self.encoder, TextEncoder)
        config = EngineConfig(
            task=task,
            model=str(checkpoint.folder) if checkpoint else model,
            engine=cast("Any", name),  # one of the names in `EngineConfig`: `choose_engine`
            device=device,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
            options=read_options(name, engine_options),
            max_length=max_length if reads_text else None,
            truncate=truncate if reads_text else True,
        )
        self._options = config.options
        self._backend = worker.acquire(config, partial(_start, config, checkpoint, self.encoder))
        self._release = weakref.finalize(self, worker.release, config)
        info = self._backend.info
        self.model = model
        self.revision = checkpoint.revision if checkpoint else revision or info.revision
        self.digest = checkpoint.digest if checkpoint else ""
        self.instruction = checkpoint.instruction if checkpoint else DEFAULT_INSTRUCTION
        limits = [max_length, info.max_length]
        if checkpoint and not reads_text:
            limits.append(checkpoint.max_positions)
        self.max_length = min(limit for limit in limits if limit is not None)
        self.truncate = truncate
        self.usage = Usage()
        self._usage_lock = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        """What the engine turned out to be."""
        return self._backend.info

    @property
    def width(self) -> int:
        """Numbers per row that the engine returns."""
        return self._backend.width

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
        total = len(inputs) if isinstance(inputs, Sized) else None
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
        return self._joined(list(self.run(inputs, encode, progress=progress)))

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
            return self._joined([])
        if len(inputs) <= _INLINE_INPUTS and sum(map(_chars, inputs)) <= _INLINE_CHARS:
            # encoded before: that lets Python's lock go, and a worker with one job would begin
            batch = self._encode(inputs, 0, encode)
            await others_are_ready()
            return await asyncio.wrap_future(self._hand_over(batch, 0))
        # not `run_all` in a thread, which would go on when the caller has stopped waiting
        return self._joined([rows async for rows in self.arun(inputs, encode)])

    def _joined(self, windows: Sequence[Float32Array]) -> Float32Array:
        if not windows:
            return np.empty((0, self.width), dtype=np.float32)
        return windows[0] if len(windows) == 1 else np.concatenate(windows)

    def _submit(self, window: Sequence[T], offset: int, encode: Encode[T]) -> Future[Float32Array]:
        return self._hand_over(self._encode(window, offset, encode), offset)

    def _encode(self, window: Sequence[T], offset: int, encode: Encode[T]) -> EncodedBatch:
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
        return batch

    def _hand_over(self, batch: EncodedBatch, offset: int) -> Future[Float32Array]:
        with self._usage_lock:
            self.usage.inputs += len(batch.sequences)
            if isinstance(self.encoder, Tokenization):
                self.usage.tokens += sum(len(s) + len(s.prefix or ()) for s in batch.sequences)
            self.usage.truncated += len(batch.truncated)
        return self._backend.submit(batch.sequences, offset)

    def run_encoded(self, sequences: Sequence[Encoded]) -> Float32Array:
        """Compute token ids that the caller made, to look behind the prompts.

        Returns:
            The engine's rows. Shape: (len(sequences), width)
        """
        return self._backend.submit(sequences).result()

    def usage_so_far(self) -> Usage:
        """A copy of the running totals."""
        backend = self._backend
        recomputed = backend.recomputed if isinstance(backend, worker.Worker) else 0
        with self._usage_lock:
            return replace(self.usage, recomputed=recomputed)

    def fingerprint(self, **settings: object) -> str:
        """A stable text that changes whenever results may: for caches and provenance.

        Args:
            settings: Further settings of the caller that results depend on.
        """
        parts = {
            "model": self.model,
            "revision": self.revision,
            "dtype": self.info.dtype,
            "max_length": self.max_length,
            **settings,
        }
        if self.own_prompts:  # pooled and scored as its library does, not as Qwen3
            parts["engine"] = self.info.engine
        if isinstance(self._options, Options):  # where a server is does not change its results
            parts["engine_options"] = self._options.digest
        readable = ";".join(f"{key}={value}" for key, value in parts.items())
        return f"quernstone:{hashlib.sha256(readable.encode()).hexdigest()[:16]};{readable}"


class ModelUser:
    """What `Embedder` and `Reranker` have in common for their users."""

    _session: Session
    _instruction: str

    @property
    def model(self) -> str:
        """The model as it was named."""
        return self._session.model

    @property
    def revision(self) -> str:
        """Commit of a hub snapshot; for a folder and for `tiny`, a digest of its files.

        With `engine="remote"` what was passed, else what the server says, which may be nothing.
        """
        return self._session.revision

    @property
    def digest(self) -> str:
        """A digest of the model's files, equal for a hub's snapshot and a copy of its files.

        Empty with `engine="remote"`: a server does not show its files.
        """
        return self._session.digest

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
        """Inputs, tokens and cut inputs so far; `Usage` says what some engines cannot count."""
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


def _check_remote(**settings: object) -> None:
    for name, value in settings.items():
        if value not in ("auto", None):
            msg = f'`{name}` is {value!r}, but with `engine="remote"` the server decides it'
            raise ConfigError(msg)


def _one_input_a_batch(engine: str, max_batch_tokens: int | None) -> int:
    """The budget of `deterministic`: an input that alone exceeds it makes a batch of its own."""
    if engine in ("vllm", "remote"):
        msg = f'`deterministic` is not for `engine="{engine}"`, which plans its batches itself'
        raise ConfigError(msg)
    if max_batch_tokens is not None:
        msg = "`deterministic` computes one input at a time: leave `max_batch_tokens` out"
        raise ConfigError(msg)
    return 1


def _encoder(name: str, checkpoint: Checkpoint | None, task: Task) -> tuple[Encoder, bool]:
    """What makes the engine's inputs, and whether the model brings prompts of its own."""
    if checkpoint is None:
        return TextEncoder(), False
    if takes_text(name, checkpoint, task):
        return TextEncoder(), True
    return _tokenization(checkpoint.folder, checkpoint.vocab_size), False


def _start(config: EngineConfig, checkpoint: Checkpoint | None, encoder: Encoder) -> Backend:
    if checkpoint is None:
        return connect(config)
    tokenization = encoder if isinstance(encoder, Tokenization) else None
    return worker.Worker(partial(load_engine, config, checkpoint, tokenization))


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
