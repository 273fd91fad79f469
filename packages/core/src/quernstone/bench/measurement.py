"""Measure a model: batch budgets, latencies, the lower bound of its time, other engines."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count, takewhile
from typing import Any

import numpy as np

from quernstone.bench.machine import describe, peak_memory, reset_peak_memory
from quernstone.bench.measured import MeasuredEmbedder, MeasuredModel, MeasuredReranker
from quernstone.bench.report import (
    Budget,
    Comparison,
    Floor,
    Latency,
    Rate,
    Report,
    Workload,
    best_of,
)
from quernstone.checkpoints.checkpoint import Checkpoint, resolve
from quernstone.embedder import Embedder
from quernstone.encoding.checks import check_list, check_texts
from quernstone.encoding.templates import AnyTemplate, for_reranker
from quernstone.engines import ENGINES, check_engine, choose_engine
from quernstone.engines.options import EngineOptions
from quernstone.errors import ConfigError
from quernstone.progress import progress_bar
from quernstone.reranker import Reranker
from quernstone.types import Dtype, EngineInfo, EngineName, Task

_SMALLEST = 512
_WORSE = 2
"""Stop after this many budgets in a row that are not better than the best one."""
_RUNS = (3, 50)
"""Minimum and maximum runs of a workload; `seconds` decides in between."""
_FIRST_INPUTS = 4
_MAX_INPUTS = 100_000
_CALLERS = 4
_CALLS = 8
"""Minimum number of calls: 20 documents take a large model on a small machine many seconds."""
_DTYPES = ("float32", "bfloat16", "float16")


def measure(
    model: str,
    *,
    task: Task | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
    dtype: Dtype = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    template: AnyTemplate | None = None,
    engine_options: EngineOptions = None,
    texts: Sequence[str] | None = None,
    seconds: float = 4.0,
    compare: Sequence[EngineName] = (),
    progress: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Measure how fast a model runs on this machine.

    Args:
        model: As for `Embedder` and `Reranker`.
        task: `None` reads it from the checkpoint.
        engine: As for `Embedder`, but not `remote`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        revision: As for `Embedder`.
        adapter: As for `Embedder`.
        template: As for `Reranker`.
        engine_options: As for `Embedder`.
        texts: Texts to embed or rerank; repeated with a number appended if there are too few.
            `None` generates random words in several languages, in realistic lengths.
        seconds: Target duration of one measurement. A slow model takes longer, because a
            measurement has at least three runs, each of at least two full batches.
        compare: Engines to run the same inputs on, one after another, each with its own settings.
        progress: Show a progress bar on standard error.
        announce: Called before the measurement with a sentence that says what will run and for
            how long.

    Raises:
        ConfigError: The settings can never work, or `texts` is empty.
        InputError: A text is not a string, or not valid Unicode.
        MissingExtraError: The packages of an engine are not installed.
        ModelLoadError: As for `Embedder`.
        EngineError: The model failed.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"`seconds` is {seconds!r}; it must be a number greater than 0")
    if texts is not None:
        check_list("texts", texts)
        texts = list(texts)
        check_texts(texts)
        if not any(texts):
            raise ConfigError("`texts` holds no text to measure with: pass at least one")
    if engine == "remote":
        raise ConfigError("a benchmark measures this machine; the engine `remote` runs on another")
    checkpoint = resolve(model, task or "embed", revision, adapter)
    chosen = task or checkpoint.likely_task
    if chosen != checkpoint.task:  # other files matter
        checkpoint = resolve(model, chosen, revision, adapter)
    own = choose_engine(engine, checkpoint, chosen)
    _check_compared(compare, own, checkpoint, chosen)
    given = None if texts is None else _shuffled(texts)
    where: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision}
    where |= {"adapter": adapter, **for_reranker(template, chosen)}
    with _opened(model, chosen, given, own, engine_options, **where) as subject:
        info = subject.user.info
        workload, expected = _workload(subject, seconds)
        budgets = _budgets(subject, workload)
        if announce is not None:
            measurement = max(_RUNS[0] * expected, seconds)
            whole = len(budgets) * measurement + 2 * seconds
            announce(_plan(subject, workload, budgets, compare, whole))
        with progress_bar("measuring", len(budgets) + 2, show=progress) as advance:
            tried = tuple(_sweep(subject, workload, budgets, seconds, advance))
            best = best_of(tried)
            subject.worker.set_budget(best.max_batch_tokens)
            latencies = []
            for callers in (1, _CALLERS):
                latencies.append(_latency(subject, callers, seconds))
                advance(1)
        floor, no_floor = _floor(checkpoint, info, workload, best)
        environment = describe(info)
    # Pass the resolved device and dtype, so that the other engines use the same ones.
    where |= {"device": info.device, "dtype": info.dtype if info.dtype in _DTYPES else "auto"}
    comparisons = []
    with progress_bar("comparing", len(compare), show=progress and bool(compare)) as advance:
        for name in compare:
            with _opened(model, chosen, given, name, None, **where) as other:
                comparisons.append(_compared(other, workload, seconds, best))
            advance(1)
    return Report(
        model=model,
        task=chosen,
        environment=environment,
        workload=workload,
        default=info.max_batch_tokens,
        budgets=tried,
        request=subject.request,
        latencies=tuple(latencies),
        floor=floor,
        no_floor=no_floor,
        comparisons=tuple(comparisons),
    )


def _check_compared(
    compare: Sequence[EngineName], own: str, checkpoint: Checkpoint, task: Task
) -> None:
    """Refuse engines that cannot be compared, before anything is measured.

    Raises:
        ConfigError: An engine is unknown, is `remote`, or is the measured engine itself.
        MissingExtraError: The packages of an engine are not installed.
    """
    for name in compare:
        check_engine(name)
        if name in ("auto", "remote", own):
            others = [other for other in ENGINES if other not in ("remote", own)]
            msg = f"cannot compare the {own} engine with {name!r}; use {' or '.join(others)}"
            raise ConfigError(msg)
        choose_engine(name, checkpoint, task)


@contextmanager
def _opened(
    model: str,
    task: Task,
    texts: Sequence[str] | None,
    engine: str,
    options: EngineOptions,
    **where: Any,
) -> Iterator[MeasuredModel[Any]]:
    """Load a model, and free it when the block ends."""
    if engine == "vllm" and task == "embed" and (options is None or isinstance(options, Mapping)):
        # The prefix cache would still hold the texts of the previous run.
        options = {"enable_prefix_caching": False, **(options or {})}
    settings = {"engine": engine, "engine_options": options, **where}
    user = Embedder(model, **settings) if task == "embed" else Reranker(model, **settings)
    with user:
        budget = user.info.max_batch_tokens
        subject: MeasuredModel[Any]
        if isinstance(user, Embedder):
            subject = MeasuredEmbedder(user, texts)
        else:
            subject = MeasuredReranker(user, texts)
        try:
            yield subject
        finally:
            subject.worker.set_budget(budget)  # the model may be shared with other users
    gc.collect()


def _workload(subject: MeasuredModel[Any], seconds: float) -> tuple[Workload, float]:
    """Return the workload of a run and an estimate of its duration in seconds.

    A run takes about a third of `seconds`, but has at least two batches of the default budget.
    """
    inputs = _FIRST_INPUTS
    subject.prepare(inputs)()  # the first run is slower
    while (elapsed := _timed(subject.prepare(inputs))) < seconds / 8 and inputs < _MAX_INPUTS:
        inputs *= 2
    rate, least = inputs / elapsed, 2 * subject.user.info.max_batch_tokens
    wanted = rate * seconds / _RUNS[0]
    while True:
        steps = math.ceil(min(wanted, _MAX_INPUTS) / subject.step)
        workload = subject.workload(steps * subject.step)
        if workload.planned >= least or workload.inputs >= _MAX_INPUTS:
            return workload, workload.inputs / rate
        wanted = 1.05 * workload.inputs * least / workload.planned


def _budgets(subject: MeasuredModel[Any], workload: Workload) -> list[int]:
    """Return the budgets to try: powers of two that leave two batches, and the default budget."""
    most = workload.planned // 2
    doubling = takewhile(lambda budget: budget <= most, (_SMALLEST << n for n in count()))
    return sorted({*doubling, subject.user.info.max_batch_tokens})


def _plan(
    subject: MeasuredModel[Any],
    workload: Workload,
    budgets: Sequence[int],
    compare: Sequence[str],
    seconds: float,
) -> str:
    info = subject.user.info
    tokens = f" ({workload.tokens:,} tokens)" if workload.tokens is not None else ""
    return (
        f"{subject.user.model} with {info.engine} on {info.device} in {info.dtype}: "
        f"{workload.inputs:,} {subject.unit}{tokens} a run, at up to {len(budgets)} budgets from "
        f"{budgets[0]:,} to {budgets[-1]:,} tokens; about {math.ceil(seconds)} s"
        f"{''.join(f', then {name}' for name in compare)}"
    )


def _sweep(
    subject: MeasuredModel[Any],
    workload: Workload,
    budgets: Sequence[int],
    seconds: float,
    advance: Callable[[int], None],
) -> Iterator[Budget]:
    """Try budgets in ascending order until the rate drops or memory runs out."""
    default = subject.user.info.max_batch_tokens
    best, worse, full = 0.0, 0, False
    for budget in budgets:
        if budget == default or not (full or worse == _WORSE):
            subject.worker.set_budget(budget)
            found = _at_budget(subject, workload, seconds)
            full = full or found.out_of_memory
            worse = 0 if found.inputs_per_second > best else worse + 1
            best = max(best, found.inputs_per_second)
            yield found
        advance(1)


def _at_budget(subject: MeasuredModel[Any], workload: Workload, seconds: float) -> Budget:
    worker, info = subject.worker, subject.user.info
    reset_peak_memory(info)
    halved = worker.halved
    rate = _rate(subject, workload, seconds)
    return Budget(
        **asdict(rate),
        max_batch_tokens=info.max_batch_tokens,
        peak_memory=peak_memory(info),
        out_of_memory=worker.halved > halved,
    )


def _compared(
    subject: MeasuredModel[Any], workload: Workload, seconds: float, best: Budget
) -> Comparison:
    rate, info = _rate(subject, workload, seconds), subject.user.info
    ratio = rate.seconds / best.seconds
    return Comparison(**asdict(rate), engine=info.engine, dtype=info.dtype, ratio=ratio)


def _rate(subject: MeasuredModel[Any], workload: Workload, seconds: float) -> Rate:
    """Run the workload several times, after a warm-up of about one batch."""
    budget = subject.user.info.max_batch_tokens
    batch = math.ceil(workload.inputs * budget / workload.planned)
    subject.prepare(min(batch, workload.inputs))()
    least, most = _RUNS
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds and len(times) < most):
        times.append(_timed(subject.prepare(workload.inputs)))
    median = statistics.median(times)
    return Rate(
        inputs_per_second=workload.inputs / median,
        tokens_per_second=None if workload.tokens is None else workload.tokens / median,
        seconds=median,
        runs=len(times),
        spread=(max(times) - min(times)) / median,
    )


def _latency(subject: MeasuredModel[Any], callers: int, seconds: float) -> Latency:
    subject.ask()
    start = time.perf_counter()

    def call() -> list[float]:
        times: list[float] = []
        while len(times) < _CALLS / callers or time.perf_counter() < start + seconds:
            times.append(_timed(subject.ask))
        return times

    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(call) for _ in range(callers)]
        times = [elapsed for future in futures for elapsed in future.result()]
    whole = time.perf_counter() - start
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(times, [50, 95, 99]))
    return Latency(
        callers=callers,
        calls=len(times),
        calls_per_second=len(times) / whole,
        p50=p50,
        p95=p95,
        p99=p99,
    )


def _floor(
    checkpoint: Checkpoint, info: EngineInfo, workload: Workload, best: Budget
) -> tuple[Floor | None, str]:
    """Return the lower bound, or the reason why it cannot be measured."""
    if info.engine != "torch":
        return None, f"the matrix products of the {info.engine} engine are not known"
    if info.dtype not in _DTYPES:
        return None, f"the rate of {info.dtype} matrix products is not measured"
    if "," in info.device:
        return None, "the rate of several devices together is not measured"
    from quernstone.bench.matrices import matrix_seconds  # noqa: PLC0415 - imports torch

    seconds = matrix_seconds(
        checkpoint.decoder_config(),
        tokens=workload.planned,
        sequences=workload.inputs,
        device=info.device,
        dtype=info.dtype,
    )
    return Floor(seconds=seconds, share=seconds / best.seconds), ""


def _shuffled(texts: Sequence[str]) -> list[str]:
    """Shuffle the texts, in the same order in every run: files are often sorted by length."""
    found = [text for text in texts if text]
    random.Random(0).shuffle(found)
    return found


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
