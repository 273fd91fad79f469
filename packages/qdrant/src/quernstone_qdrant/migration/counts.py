"""Figures of one pass of a migration."""

from __future__ import annotations

from dataclasses import dataclass, field

_MAX_PROBLEMS = 20


@dataclass(slots=True, kw_only=True)
class PassCounts:
    """The figures of one pass."""

    points: int = 0
    """Points of the old collection that were read."""
    embedded: int = 0
    reused: int = 0
    """Points whose vector was copied, since model and text are the same."""
    unchanged: int = 0
    """Points that the new collection already had, with equal content."""
    deleted: int = 0
    left_out: int = 0
    """Points without a text, or that cannot be embedded."""
    changed: int = 0
    """Points whose content was changed after their last load."""
    conflicts: int = 0
    """After the switch: points that changed in both collections. The new collection's stay."""
    problems: list[str] = field(default_factory=list)

    @property
    def outstanding(self) -> int:
        """Points that were written or deleted, so that another pass may find more."""
        return self.embedded + self.reused + self.deleted

    def problem(self, point: str, reason: str) -> None:
        """Count a point that is left out."""
        self.left_out += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(f"point {point}: {reason}")
