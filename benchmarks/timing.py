"""Sides of a comparison, run in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rich.progress import track


@dataclass
class Side:
    """One of the things that are compared."""

    name: str
    run: Callable[[], object]
    expected: float | None = None
    """How many times as long as ours it should take: what was written down before measuring."""
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Run once, and note the seconds."""
        start = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - start)

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return statistics.median(self.seconds)


@dataclass
class TimedSide(Side):
    """A side whose `run` returns the seconds that count, as `benchmarks.child.Child.run` does."""

    run: Callable[[], float]

    def measure(self) -> None:
        """Run once, and note the seconds."""
        self.seconds.append(self.run())


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
    expected: list[float | None]
    """How many times as long as ours each side should take."""
    floor: float | None = None
    """Seconds that the matrix products alone take at the machine's own best rate."""

    @property
    def ratios(self) -> list[float]:
        """How many times as long as ours each side takes."""
        return [seconds / self.seconds[0] for seconds in self.seconds]

    @property
    def rates(self) -> list[float]:
        """Units of work per second of each side."""
        return [self.amount / seconds for seconds in self.seconds]

    @property
    def shares(self) -> list[float | None]:
        """Of the machine's own best rate, what each side reaches."""
        return [self.floor / seconds if self.floor else None for seconds in self.seconds]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        figures = {"ratios": self.ratios, "rates": self.rates, "shares": self.shares}
        return asdict(self) | figures


def compare(
    title: str,
    sides: list[Side],
    *,
    unit: str,
    amount: float,
    repeats: int,
    notes: list[str] | None = None,
    floor: Side | None = None,
    pause: float = 0.0,
) -> Result:
    """Run all sides in turn, `repeats` times: what disturbs the machine disturbs all alike.

    Args:
        title: What is compared.
        sides: Ours first.
        unit: Of the work.
        amount: Units in one run.
        repeats: Runs of each side.
        notes: Printed below the figures.
        floor: Measures the machine; its best run counts.
        pause: Seconds before each run, for the threads of the last side to stop spinning.
    """
    # the floor beside ours: minutes later the machine may be another
    in_turn = [sides[0], floor, *sides[1:]] if floor else sides
    for side in track(in_turn * repeats, title, transient=True):
        time.sleep(pause)
        side.measure()
    return Result(
        title,
        unit,
        amount,
        [side.name for side in sides],
        [side.median for side in sides],
        [max(side.seconds) / min(side.seconds) for side in sides],
        notes or [],
        [side.expected for side in sides],
        min(floor.seconds) if floor else None,
    )
