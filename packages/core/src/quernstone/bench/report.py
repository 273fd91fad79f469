"""What was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quernstone.types import Task

NOISY = 0.2
"""A spread above this says that other programs ran, or that the processor changed its clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one run computes: the same inputs for every budget and every engine."""

    inputs: int
    """Texts; for a reranker pairs of a query and a document, a hundred for each query."""
    tokens: int | None
    """Of all inputs, prompts included; None where the engine's library has its own tokenizer."""
    planned: int
    """Tokens as batches are planned by them: what inputs share counts once. An estimate where
    `tokens` is None."""
    median: int | None
    """Tokens of the input in the middle."""
    p95: int | None
    """Tokens of the input at the 95th percentile."""
    truncated: int
    """Inputs that were cut to the model's longest; 0 where `tokens` is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast the workload was computed."""

    inputs_per_second: float
    tokens_per_second: float | None
    seconds: float
    """Median of the runs."""
    runs: int
    spread: float
    """Slowest less fastest run, as a part of the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Rate):
    """The workload at one `max_batch_tokens`."""

    max_batch_tokens: int
    peak_memory: int | None
    """Bytes: allocated on a CUDA device, else resident in this process, up to this budget."""
    out_of_memory: bool
    """Whether batches did not fit and were halved, so that the budget was not what ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Calls by some callers at once, each with one call at a time. Times in milliseconds."""

    callers: int
    calls: int
    calls_per_second: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The matrix products alone, at the rate that this machine has for them."""

    seconds: float
    """For one run of the workload."""
    share: float
    """Of the time at the best budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Rate):
    """The workload on another engine, with that engine's own budget."""

    engine: str
    dtype: str
    ratio: float
    """How many times as long as at the best budget it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All measurements of one model."""

    model: str
    task: Task
    environment: Mapping[str, str]
    """What runs where: engine, device, dtype, attention kernel, processor, versions."""
    workload: Workload
    default: int
    """The budget that the engine chooses by itself."""
    budgets: tuple[Budget, ...]
    """In the order of `max_batch_tokens`."""
    request: str
    """What a call of the latencies is."""
    latencies: tuple[Latency, ...]
    floor: Floor | None
    no_floor: str
    """Why there is no floor; empty if there is one."""
    comparisons: tuple[Comparison, ...]

    @property
    def best(self) -> Budget:
        """The budget of the highest rate, among those that fitted into memory."""
        return best_of(self.budgets)

    @property
    def spread(self) -> float:
        """The largest one of all budgets and comparisons."""
        rates: tuple[Rate, ...] = (*self.budgets, *self.comparisons)
        return max(rate.spread for rate in rates)

    @property
    def noisy(self) -> bool:
        """Whether equal runs differed by more than 20 %, so that small differences say nothing."""
        return self.spread > NOISY

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            **asdict(self),
            "environment": dict(self.environment),
            "best": self.best.max_batch_tokens,
            "spread": self.spread,
            "noisy": self.noisy,
        }


def best_of(budgets: Sequence[Budget]) -> Budget:
    """The budget of the highest rate, among those that fitted into memory."""
    fitting = [budget for budget in budgets if not budget.out_of_memory]
    return max(fitting or budgets, key=lambda budget: budget.inputs_per_second)
