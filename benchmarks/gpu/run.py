"""The settings of the GPU check, and the results that a step reports."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

Outcome = Literal["pass", "fail", "figure", "needs a GPU"]
_LABELS: dict[Outcome, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "figure": "    ",
    "needs a GPU": "----",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run, the same for all steps."""

    device: str
    """`cuda` or `cpu`."""
    dry_run: bool
    """Run every step at a tiny size, to check the steps themselves."""
    out: Path
    """Folder of the results."""
    work: Path
    """Folder of checkpoints and compiled kernels."""

    @property
    def cuda(self) -> bool:
        """True on a CUDA device."""
        return self.device == "cuda"

    def results_file(self, step: str) -> Path:
        """The results of one step, as lines of JSON."""
        return self.work / "results" / f"{step}.jsonl"

    def log_file(self, step: str) -> Path:
        """Everything that one step printed beside its results."""
        return self.out / "logs" / f"{step}.txt"


class Run:
    """One run of one step.

    Results are printed and written one by one, so that a step that is stopped loses nothing.
    """

    def __init__(self, settings: Settings, step: str, console: TextIO) -> None:
        self.settings = settings
        self.device = settings.device
        self.cuda = settings.cuda
        self._step = step
        self._console = console

    def size(self, full: int, dry: int) -> int:
        """Return `full`, or `dry` in a dry run."""
        return dry if self.settings.dry_run else full

    def checkpoint(self, task: Literal["embedding", "reranker"]) -> str:
        """Return the folder of the random checkpoint of a task."""
        size = "tiny" if self.settings.dry_run else "0.6b"
        return str(self.settings.work / f"{task}-{size}")

    def check(self, name: str, passed: bool, **figures: object) -> None:
        """Report a claim that holds or does not, with the figures that decided it."""
        self._report(name, "pass" if passed else "fail", figures)

    def figure(self, name: str, **figures: object) -> None:
        """Report measurements."""
        self._report(name, "figure", figures)

    def needs_gpu(self, name: str) -> None:
        """Report that a part of the step was skipped because the run has no GPU."""
        self._report(name, "needs a GPU", {})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Report an exception as a failed claim, and continue after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - any error in one part must not stop the others
            traceback.print_exc()
            message = str(error).strip().partition("\n")[0][:300]
            self.check(name, False, error=f"{type(error).__name__}: {message}")

    def earlier_figure(self, step: str, name: str, figure: str) -> float:
        """Return a figure that an earlier step measured, or NaN if it did not."""
        for result in read_results(self.settings.results_file(step)):
            if result["name"] == name and isinstance(result["figures"].get(figure), float):
                return float(result["figures"][figure])
        return math.nan

    def _report(self, name: str, outcome: Outcome, figures: dict[str, object]) -> None:
        result = {
            "name": name,
            "outcome": outcome,
            "figures": {k: _plain(v) for k, v in figures.items()},
        }
        path = self.settings.results_file(self._step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
        print(describe(result), file=self._console, flush=True)


def describe(result: dict[str, Any]) -> str:
    """Format a result as one line."""
    figures = (
        f"{name}={value:.5g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in result["figures"].items()
    )
    outcome: Outcome = result["outcome"]
    details = outcome if outcome == "needs a GPU" else "  ".join(figures)
    return f"{_LABELS[outcome]} {result['name']}{': ' if details else ''}{details}"


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the results of a step. A last line that was cut off is ignored."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _plain(value: object) -> object:
    """Convert a value to what JSON can hold."""
    if hasattr(value, "item"):  # a number of numpy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, list, dict)):
        return value
    return str(value)
