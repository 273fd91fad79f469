"""Run and time the sides of a comparison in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rich.progress import track


@dataclass
class Side:
    """A side of a comparison."""

    name: str
    run: Callable[[], object]
    expected: float | None = None
    """Expected time as a multiple of ours, written down before measuring."""
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Run once and record the seconds."""
        start = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - start)

    @property
    def median(self) -> float:
        """Median time of a run, in seconds."""
        return statistics.median(self.seconds)


@dataclass
class TimedSide(Side):
    """A side whose `run` returns the seconds that count, as `benchmarks.child.Child.run` does."""

    run: Callable[[], float]

    def measure(self) -> None:
        """Run once and record the seconds."""
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
    """Median time of each side."""
    spread: list[float]
    """Ratio of the slowest to the fastest run of each side."""
    notes: list[str]
    expected: list[float | None]
    """Expected time of each side as a multiple of ours."""
    floor: float | None = None
    """Seconds for the matrix products alone, at the machine's best rate."""

    @property
    def ratios(self) -> list[float]:
        """Time of each side as a multiple of ours."""
        return [seconds / self.seconds[0] for seconds in self.seconds]

    @property
    def rates(self) -> list[float]:
        """Units of work per second of each side."""
        return [self.amount / seconds for seconds in self.seconds]

    @property
    def shares(self) -> list[float | None]:
        """Share of the machine's best rate that each side reaches."""
        return [self.floor / seconds if self.floor else None for seconds in self.seconds]

    def as_dict(self) -> dict[str, object]:
        """Return the result as a dict for JSON."""
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
    """Run all sides in turn, `repeats` times, so that disturbances affect all sides alike.

    Args:
        title: Title of the comparison.
        sides: Ours first.
        unit: Unit of the work.
        amount: Units in one run.
        repeats: Runs of each side.
        notes: Printed below the figures.
        floor: Measures the machine; its best run counts.
        pause: Seconds before each run, for the threads of the last side to stop spinning.
    """
    # right after ours: the speed of a shared machine changes within minutes
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
