"""Sides of a comparison, run in turn within one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field


@dataclass
class Side:
    """One of the things that are compared."""

    name: str
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Result:
    """A finished comparison. The first side is ours."""

    title: str
    unit: str
    amount: float
    """Units of work in one run: tokens, documents or queries."""
    names: list[str]
    seconds: list[float]
    """Median of each side."""
    spread: list[float]
    """Slowest run over fastest run of each side."""
    notes: list[str]

    @property
    def ratios(self) -> list[float]:
        """How many times as long as ours each side takes."""
        return [seconds / self.seconds[0] for seconds in self.seconds]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"ratios": self.ratios}


def compare(
    title: str,
    sides: list[Side],
    *,
    unit: str,
    amount: float,
    repeats: int,
    notes: list[str] | None = None,
) -> Result:
    """Run all sides in turn, `repeats` times: what disturbs the machine disturbs all alike."""
    for _ in range(repeats):
        for side in sides:
            start = time.perf_counter()
            side.run()
            side.seconds.append(time.perf_counter() - start)
    return Result(
        title,
        unit,
        amount,
        [side.name for side in sides],
        [side.median for side in sides],
        [max(side.seconds) / min(side.seconds) for side in sides],
        notes or [],
    )
