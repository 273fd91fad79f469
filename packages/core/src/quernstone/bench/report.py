"""The results of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quernstone.types import Task

NOISY = 0.2
"""A larger spread suggests that other programs ran or that the clock rate changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The inputs of one run, equal for every budget and every engine."""

    inputs: int
    """Number of texts, or of query-document pairs for a reranker (100 per query)."""
    tokens: int | None
    """Tokens of all inputs with their prompts; `None` if the engine's library tokenizes."""
    planned: int
    """Tokens as counted for batches, where a shared prefix counts once. An estimate if `tokens`
    is `None`."""
    median: int | None
    """Tokens of the median input."""
    p95: int | None
    """Tokens of the input at the 95th percentile."""
    truncated: int
    """Inputs that were truncated to the model's maximum length; 0 if `tokens` is `None`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The speed at which a workload was computed."""

    inputs_per_second: float
    tokens_per_second: float | None
    seconds: float
    """Median of the runs."""
    runs: int
    spread: float
    """Slowest minus fastest run, divided by the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Rate):
    """The workload at one `max_batch_tokens`."""

    max_batch_tokens: int
    peak_memory: int | None
    """Peak bytes up to this budget: allocated on a CUDA device, else resident in this process."""
    out_of_memory: bool
    """True if batches did not fit and were halved, so that smaller batches ran than planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of concurrent callers, each with one call in flight. Times in milliseconds."""

    callers: int
    calls: int
    calls_per_second: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A lower bound: the time of the matrix products alone, at this machine's best rate."""

    seconds: float
    """Seconds for one run of the workload."""
    share: float
    """`seconds` divided by the time at the best budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Rate):
    """The workload on another engine, with that engine's own budget."""

    engine: str
    dtype: str
    ratio: float
    """Time relative to the measured model at its best budget: 2.0 takes twice as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All measurements of one model."""

    model: str
    task: Task
    environment: Mapping[str, str]
    """Engine, device, dtype, attention kernel, processor, versions."""
    workload: Workload
    default: int
    """The budget that the engine chooses by default."""
    budgets: tuple[Budget, ...]
    """Results in ascending order of `max_batch_tokens`."""
    request: str
    """Description of the call whose latency was measured."""
    latencies: tuple[Latency, ...]
    floor: Floor | None
    no_floor: str
    """The reason why `floor` is `None`; empty otherwise."""
    comparisons: tuple[Comparison, ...]

    @property
    def best(self) -> Budget:
        """The budget with the highest rate among those that fit into memory."""
        return best_of(self.budgets)

    @property
    def spread(self) -> float:
        """The largest spread of all budgets and comparisons."""
        rates: tuple[Rate, ...] = (*self.budgets, *self.comparisons)
        return max(rate.spread for rate in rates)

    @property
    def noisy(self) -> bool:
        """True if equal runs differed by more than 20 %, so that small differences mean nothing."""
        return self.spread > NOISY

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            **asdict(self),
            "environment": dict(self.environment),
            "best": self.best.max_batch_tokens,
            "spread": self.spread,
            "noisy": self.noisy,
        }


def best_of(budgets: Sequence[Budget]) -> Budget:
    """Return the budget with the highest rate among those that fit into memory."""
    fitting = [budget for budget in budgets if not budget.out_of_memory]
    return max(fitting or budgets, key=lambda budget: budget.inputs_per_second)
