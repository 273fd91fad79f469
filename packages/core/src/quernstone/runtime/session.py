"""`Session`: the connection from an embedder or a reranker to a model that it shares."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from quernstone.checkpoints.checkpoint import resolve
from quernstone.checkpoints.hubs import is_bundled
from quernstone.checkpoints.reranking import choose_rendering
from quernstone.encoding.checks import check_positive
from quernstone.encoding.encoder import Encode, EncodedBatch, Encoder
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, ENDOFTEXT, Prompts
from quernstone.encoding.templates import AnyTemplate
from quernstone.encoding.texts import TextEncoder
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder
from quernstone.encoding.unknown import UnknownTexts
from quernstone.engines import (
    check_engine,
    choose_engine,
    connect,
    each_device,
    explain_choice,
    load_engine,
    takes_text,
)
from quernstone.engines.options import (
    EngineOptions,
    Options,
    at_address,
    check_remote,
    read_options,
    single_input_budget,
)
from quernstone.errors import ClosedError, EngineError
from quernstone.progress import progress_bar
from quernstone.runtime import sharing
from quernstone.runtime.coalescing import is_quick, is_small, others_are_ready
from quernstone.runtime.windows import awindows, growing_parts, windows
from quernstone.runtime.worker import Worker
from quernstone.types import (
    Backend,
    Dtype,
    Encoded,
    EngineConfig,
    EngineInfo,
    EngineName,
    Float32Array,
    ServedModel,
    Task,
    Usage,
)

if TYPE_CHECKING:
    from quernstone.engines.remote.backend import RemoteBackend

logger = logging.getLogger("quernstone")

T = TypeVar("T")

# Shared by sessions of a checkpoint, because reading the official 11 MB file takes half a second.
_tokenizer = lru_cache(maxsize=8)(Tokenizer)

# Windows per device: one is computed while the next is encoded.
_WINDOWS_AHEAD = 2
_NOT_SHARED = "switched off by `prefix_sharing=False`"


class Session:
    """Connection from one `Embedder` or `Reranker` to a shared model, or to a server."""

    def __init__(
        self,
        model: str | os.PathLike[str],
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
        adapter: str | None,
        cache_folder: str | None,
        template: AnyTemplate | None = None,
        share_prefix: bool = True,
    ) -> None:
        check_positive("max_length", max_length)
        if max_batch_tokens is not None:
            check_positive("max_batch_tokens", max_batch_tokens)
        check_engine(engine)
        model = os.fspath(model)
        if model.startswith(("http://", "https://")):
            model, engine, engine_options = at_address(model, engine, engine_options)
        checkpoint, name, tokenizer = None, "remote", None
        if engine == "remote":
            check_remote(
                device=device,
                dtype=dtype,
                max_batch_tokens=max_batch_tokens,
                adapter=adapter,
                cache_folder=cache_folder,
            )
        else:
            checkpoint = resolve(model, task, revision, adapter, cache_folder)
            name = choose_engine(engine, checkpoint, task)
            if not takes_text(name, checkpoint, task):
                tokenizer = _tokenizer(checkpoint.tokenizer_folder, checkpoint.vocab_size)
        self.own_prompts = checkpoint is not None and tokenizer is None
        """True if a library tokenizes and adds the model's own prompts, so Quernstone adds none."""
        options = read_options(name, engine_options)
        self._rendering = partial(
            choose_rendering,
            model,
            task,
            checkpoint.reranker_files if checkpoint else None,
            tokenizer,
            exact_server=getattr(options, "dialect", "") == "quernstone",
        )
        self.template, self.head_rows = self._rendering(template)
        """Rows of a reranker's output head that give the score; see `EngineConfig`."""
        if deterministic:
            max_batch_tokens = single_input_budget(name, max_batch_tokens)
        config = EngineConfig(
            task=task,
            model=str(checkpoint.folder) if checkpoint else model,
            engine=cast("Any", name),  # one of the names in `EngineConfig`: `choose_engine`
            device=device,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
            adapter=str(checkpoint.adapter.folder) if checkpoint and checkpoint.adapter else "",
            options=options,
            max_length=None if tokenizer else max_length,
            truncate=True if tokenizer else truncate,
            head_rows=self.head_rows,
        )
        self.options_digest = options.digest if isinstance(options, Options) else ""
        self._reason = ""
        if engine == "auto" and checkpoint:
            self._reason = explain_choice(name, checkpoint)

        def start() -> Backend:
            if checkpoint is None:
                return connect(config)
            configs = each_device(config)
            return Worker(*(partial(load_engine, one, checkpoint, tokenizer) for one in configs))

        self.backend = sharing.acquire(config, start)
        """The loaded model or the connection, shared by sessions with equal configurations."""
        self.width = self.backend.width
        """Length of a row that the engine returns."""
        engines = self.backend.engines if isinstance(self.backend, Worker) else 1
        self._windows_ahead = _WINDOWS_AHEAD * engines
        self._release = weakref.finalize(self, sharing.release, config)
        info = self.backend.info
        self.model, self.adapter = model, adapter or ""
        self.revision = checkpoint.revision if checkpoint else revision or info.revision
        self.digest = checkpoint.digest if checkpoint else ""
        self.instruction = checkpoint.instruction if checkpoint else DEFAULT_INSTRUCTION
        self.prompts = checkpoint.prompts if checkpoint and tokenizer else Prompts()
        """The texts that are put before queries and documents to embed."""
        self.normalizes = checkpoint is None or checkpoint.modules.normalizes
        """True if embeddings are normalized to length 1."""
        if info.served:
            self._adopt(info.served, template)
        self.truncate = truncate
        limits = [max_length, info.max_length]
        if checkpoint and tokenizer:
            limits.append(checkpoint.max_positions)
        self.max_length = min(limit for limit in limits if limit is not None)
        self.tokenizer = tokenizer
        """None if the engine tokenizes."""
        self._share_prefix = share_prefix
        self.encoder: Encoder = TextEncoder()
        """Encoder with the limits of this session."""
        if tokenizer:
            self.encoder = TokenEncoder(
                tokenizer,
                max_length=self.max_length,
                truncate=truncate,
                share_prefix=share_prefix and (checkpoint is None or checkpoint.can_share_prefixes),
                prompts=self.prompts,
                first_token=checkpoint.first_token if checkpoint else "",
                final_token=checkpoint.final_token if checkpoint else ENDOFTEXT,
                ignored=checkpoint.ignored_token if checkpoint else None,
            )
        self._unknown = (  # also if the engine tokenizes
            UnknownTexts(_tokenizer(checkpoint.tokenizer_folder, checkpoint.vocab_size), task)
            if checkpoint and is_bundled(checkpoint.folder)
            else None
        )
        self._usage = Usage()
        self._usage_locks: dict[int, threading.Lock] = {}  # per process: a fork may copy a held one

    @property
    def info(self) -> EngineInfo:
        """Description of the running engine."""
        info = replace(self.backend.info, reason=self._reason)
        if info.shares_prefixes and not self._share_prefix:
            return replace(info, shares_prefixes=False, prefix_sharing=_NOT_SHARED)
        return info

    def rows_of(self, template: AnyTemplate) -> tuple[int, ...]:
        """Return the rows of the output head for the answers of a template; see `head_rows`.

        Raises:
            ConfigError: The model cannot use this template.
        """
        return self._rendering(template)[1]

    def _adopt(self, served: ServedModel, template: AnyTemplate | None) -> None:
        """Take over the properties of the model of a `quern serve`."""
        self.model, self.digest, self.adapter = served.name, served.digest, served.adapter
        self.instruction = served.instruction
        self.own_prompts, self.normalizes = served.own_prompts, served.normalizes
        self.prompts = Prompts(served.query_prompt, served.document_prompt)
        self.options_digest = served.options_digest
        own = cast("AnyTemplate", served.template)
        if template in (None, own):
            self.template, self.head_rows = own, served.head_rows
        else:
            self.template, self.head_rows = cast("RemoteBackend", self.backend).resolve(template)

    def close(self) -> None:
        """Release the model; it is unloaded when no other session of the process uses it."""
        self._release()

    def run(
        self, inputs: Iterable[T], encode: Encode[T], *, progress: str = ""
    ) -> Iterator[Float32Array]:
        """Compute inputs window by window, in order.

        Args:
            inputs: Any number; read at most two windows per device ahead.
            encode: Encodes a window; one of `encoder`'s methods.
            progress: Title of a progress bar; empty for none.

        Yields:
            The engine's rows of the next inputs. Shape: (inputs of the window, width)
        """
        pending: deque[Future[Float32Array]] = deque()
        process = os.getpid()
        total = len(inputs) if isinstance(inputs, Sized) else None
        with progress_bar(progress, total, show=bool(progress)) as advance:

            def next_rows() -> Float32Array:
                if os.getpid() != process:
                    raise EngineError("this process was forked during the call; call again")
                rows = pending[0].result()  # stays in `pending` until done: see `finally`
                pending.popleft()
                advance(len(rows))
                return rows

            try:
                for offset, window in windows(inputs):
                    pending.append(self._submit(window, offset, encode))
                    if len(pending) >= self._windows_ahead:
                        yield next_rows()
                while pending:
                    yield next_rows()
            finally:
                # After an error, or when the caller stops iterating; a parent's are not ours.
                for future in pending if os.getpid() == process else ():
                    future.cancel()

    def run_all(
        self, inputs: Iterable[T], encode: Encode[T], *, progress: str = ""
    ) -> Float32Array:
        """Compute all inputs. Shape: (inputs, width)."""
        if not progress and isinstance(inputs, Sequence) and is_small(inputs):
            future = self._submit(inputs, 0, encode)
            try:
                return future.result()
            finally:
                future.cancel()  # if waiting was interrupted
        return self._joined(list(self.run(inputs, encode, progress=progress)))

    async def arun(
        self, inputs: Iterable[T] | AsyncIterable[T], encode: Encode[T]
    ) -> AsyncIterator[Float32Array]:
        """Like `run`, without blocking the event loop; also accepts asynchronous iterables."""
        pending: deque[Future[Float32Array]] = deque()
        try:
            async for offset, window in awindows(inputs):
                pending.append(await asyncio.to_thread(self._submit, window, offset, encode))
                if len(pending) >= self._windows_ahead:
                    yield await asyncio.wrap_future(pending.popleft())
            while pending:
                yield await asyncio.wrap_future(pending.popleft())
        finally:
            for future in pending:
                future.cancel()

    async def arun_all(self, inputs: Iterable[T], encode: Encode[T]) -> Float32Array:
        """Like `run_all`, without blocking the event loop."""
        if isinstance(inputs, Sequence) and is_small(inputs):
            # Encode first: the worker would otherwise start on a batch of one while others encode.
            if is_quick(inputs):
                batch = self.encode(inputs, encode)
            else:
                batch = await asyncio.to_thread(self.encode, inputs, encode)
            await others_are_ready()
            return await asyncio.wrap_future(self.submit(batch))
        # Not `run_all` in a thread, which would continue after the caller was cancelled.
        return self._joined([rows async for rows in self.arun(inputs, encode)])

    def run_encoded(self, sequences: Sequence[Encoded]) -> Float32Array:
        """Compute token ids that the caller encoded. Shape: (len(sequences), width)."""
        return self.backend.submit(sequences).result()

    def usage(self) -> Usage:
        """Return a copy of the running totals."""
        counts = self.backend.counts
        with self._usage_locks.setdefault(os.getpid(), threading.Lock()):
            return replace(
                self._usage,
                recomputed=counts.recomputed,
                tokens=self._usage.tokens + counts.tokens,
                truncated=self._usage.truncated + counts.truncated,
            )

    def fingerprint(self, **settings: object) -> str:
        """Return a stable text that changes whenever results may, `settings` included."""
        parts = {
            "model": self.model,
            "revision": self.revision,
            "dtype": self.info.dtype,
            "max_length": self.max_length,
            **settings,
        }
        if self.head_rows:
            parts["head_rows"] = ",".join(map(str, self.head_rows))
        if self.own_prompts:  # pooled and scored by its library, not as Qwen3
            served = self.info.served
            parts["engine"] = served.engine if served else self.info.engine
        if self.options_digest:  # the address of a server does not affect results
            parts["engine_options"] = self.options_digest
        readable = ";".join(f"{key}={value}" for key, value in parts.items())
        return f"quernstone:{hashlib.sha256(readable.encode()).hexdigest()[:16]};{readable}"

    def _joined(self, rows: Sequence[Float32Array]) -> Float32Array:
        if not rows:
            return np.empty((0, self.width), dtype=np.float32)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _submit(self, window: Sequence[T], offset: int, encode: Encode[T]) -> Future[Float32Array]:
        backend, parts = self.backend, list(growing_parts(window))
        # The device is idle until the first inputs of a call are encoded.
        if offset or len(parts) == 1 or not (isinstance(backend, Worker) and backend.overlaps):
            return self.submit(self.encode(window, encode, offset=offset), offset=offset)
        encoded = (self._counted(self.encode(part, encode, offset=at)) for at, part in parts)
        return backend.submit_parts((part.sequences for part in encoded), len(window))

    def encode(self, window: Sequence[T], encode: Encode[T], *, offset: int = 0) -> EncodedBatch:
        """Encode inputs; warn if some were cut, or if `tiny` does not know their language.

        `offset` is added to indices in messages.
        """
        if not self._release.alive:
            raise ClosedError("used after `close()`; create a new embedder or reranker")
        batch = encode(window, offset=offset)
        if batch.truncated:
            logger.warning(
                "%d of %d inputs were longer than max_length=%d tokens and were cut; "
                "the first is input %d",
                len(batch.truncated),
                len(window),
                self.max_length,
                offset + batch.truncated[0],
            )
        if self._unknown:
            self._unknown.check(window, offset)
        return batch

    def submit(self, batch: EncodedBatch, *, offset: int = 0) -> Future[Float32Array]:
        """Start to compute encoded inputs. See `Backend.submit`."""
        return self.backend.submit(self._counted(batch).sequences, offset)

    def _counted(self, batch: EncodedBatch) -> EncodedBatch:
        with self._usage_locks.setdefault(os.getpid(), threading.Lock()):
            self._usage.inputs += len(batch.sequences)
            self._usage.tokens += batch.tokens
            self._usage.truncated += len(batch.truncated)
        return batch
