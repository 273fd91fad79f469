"""Runs the steps of the GPU check, each in a process of its own and within a time limit."""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.gpu.run import Run, Settings, read_results

_LEAST_SECONDS = 10
"""A step is not started if less time is left."""
_PATIENCE = 3.0
"""Seconds between asking a process to end and killing it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step, which is `run` of the module `benchmarks.gpu.steps.NAME`."""

    name: str
    limit: int
    """Seconds, at most."""
    loads_model: bool = True
    """It needs the checkpoints."""


CHECKPOINTS = Step("checkpoints", 120, loads_model=False)
"""Runs in the background until a step needs it."""

STEPS = (
    Step("environment", 60, loads_model=False),
    Step("rates", 40, loads_model=False),
    Step("attention", 60, loads_model=False),
    Step("kernels", 40, loads_model=False),
    Step("elementwise", 80, loads_model=False),
    Step("correctness", 110),
    Step("throughput", 60),
    Step("reranking", 60),
    Step("profile", 45),
    Step("callers", 60),
    Step("latency", 45),
    Step("peer", 60),
    Step("modes", 60),
    Step("devices", 90),
    Step("gpu_tests", 180, loads_model=False),
)


@dataclass(slots=True)
class _Running:
    step: Step
    process: BaseProcess
    start: float
    limit: float


class Driver:
    """Runs steps one after another and collects their results."""

    def __init__(self, settings: Settings, limit: float) -> None:
        """Prepare the folders.

        Args:
            settings: What the steps are given.
            limit: Seconds for all steps together.
        """
        self._settings = settings
        self._start = time.monotonic()
        self._end = self._start + limit
        self._finished: list[dict[str, Any]] = []
        settings.work.mkdir(parents=True, exist_ok=True)
        settings.log_file("").parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(settings.results_file("").parent, ignore_errors=True)

    def run(self, names: Sequence[str]) -> bool:
        """Run the steps of these names, in the order of `STEPS`.

        Returns:
            True if every claim passed.
        """
        steps = [step for step in STEPS if step.name in names]
        context = _context(self._settings)
        background: _Running | None = None
        running: _Running | None = None
        try:
            if any(step.loads_model for step in steps):
                background = self._begin(context, CHECKPOINTS)
            for step in steps:
                if step.loads_model and background:
                    self._finish(background)
                    background = None
                running = self._begin(context, step)
                if running:
                    self._finish(running)
            if background:
                self._finish(background)
        finally:
            for left in (background, running):
                if left and left.process.is_alive():
                    _stop(left.process)
        return self._summarize()

    def _begin(self, context: BaseContext, step: Step) -> _Running | None:
        now = time.monotonic()
        print(f"==== {step.name} (at {now - self._start:.0f} s)", flush=True)
        left = self._end - now
        if left < min(step.limit, _LEAST_SECONDS):
            self._fail(step, "not run: no time left")
            self._record(step, 0.0)
            return None
        process = context.Process(  # type: ignore[attr-defined]
            target=_run_step, args=(step.name, self._settings), name=step.name
        )
        process.start()
        return _Running(step, process, now, min(step.limit, left))

    def _finish(self, running: _Running) -> None:
        """Wait for a step, stop it at its limit, and write all results so far."""
        step, process = running.step, running.process
        process.join(max(0.0, running.start + running.limit - time.monotonic()))
        if process.is_alive():
            _stop(process)
            self._fail(step, f"stopped after its limit of {running.limit:.0f} s")
        elif process.exitcode:
            self._fail(step, f"the process ended with {process.exitcode}")
        self._record(step, time.monotonic() - running.start)

    def _fail(self, step: Step, reason: str) -> None:
        Run(self._settings, step.name, sys.stdout).check(step.name, False, error=reason)

    def _record(self, step: Step, seconds: float) -> None:
        results = read_results(self._settings.results_file(step.name))
        self._finished.append({"step": step.name, "seconds": round(seconds, 1), "results": results})
        settings = {"device": self._settings.device, "dry_run": self._settings.dry_run}
        document = {"settings": settings, "steps": self._finished}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (self._settings.out / "results.json").write_text(text + "\n", encoding="utf-8")

    def _summarize(self) -> bool:
        failed = 0
        print("==== summary")
        for step in self._finished:
            outcomes = [result["outcome"] for result in step["results"]]
            failed += outcomes.count("fail")
            counts = (f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
            print(f"{step['step']:>12} {step['seconds']:6.1f} s  {', '.join(counts)}")
        print(f"{failed} failed; results: {self._settings.out / 'results.json'}", flush=True)
        return failed == 0


def _context(settings: Settings) -> BaseContext:
    """Choose how processes start.

    Importing torch takes seconds, so steps are forked from a server process that has done it. If
    CUDA does not work in a forked process on this machine, each step starts from nothing.
    """
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["torch", "transformers", "quernstone.engines.torch.engine"])
    if not settings.cuda:
        return forked
    for context in (forked, multiprocessing.get_context("spawn")):
        probe = context.Process(target=_initialize_cuda)
        probe.start()
        probe.join()
        if probe.exitcode == 0:
            return context
    raise SystemExit("CUDA does not work here: see above; --device cpu --dry-run needs no GPU")


def _initialize_cuda() -> None:
    import torch

    torch.cuda.init()


def _run_step(name: str, settings: Settings) -> None:
    """Run a step in this process. Only its results reach the console, the rest goes to its log."""
    os.setsid()  # so that the step can be stopped together with the processes that it starts
    console = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with settings.log_file(name).open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message).300s")
    run = Run(settings, name, console)
    with run.part(name):
        importlib.import_module(f"benchmarks.gpu.steps.{name}").run(run)


def _stop(process: BaseProcess) -> None:
    """End a step and the processes that it has started."""
    assert process.pid is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(process.pid, number)
        process.join(_PATIENCE)
