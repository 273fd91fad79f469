"""Findings of the doctor and the report that contains them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quernstone.types import Task

Verdict = Literal["ok", "warn", "fail", "skipped"]

_WORDS: dict[Verdict, str] = {
    "fail": "failed",
    "warn": "to look at",
    "ok": "ok",
    "skipped": "skipped",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one check. Create it with `ok`, `warn`, `fail` or `skipped`."""

    verdict: Verdict
    finding: str
    """One sentence with the measured numbers, or the reason for `skipped`."""
    fix: str = ""
    """Instructions for the user; empty if there is nothing to do."""


def ok(finding: str) -> Outcome:
    """Report that everything is correct."""
    return Outcome("ok", finding)


def warn(finding: str, fix: str) -> Outcome:
    """Report a risk: results are, or may be, correct."""
    return Outcome("warn", finding, fix)


def fail(finding: str, fix: str) -> Outcome:
    """Report that results are wrong."""
    return Outcome("fail", finding, fix)


def skipped(reason: str, fix: str = "") -> Outcome:
    """Report that the check cannot decide; `fix` says how it could."""
    return Outcome("skipped", reason, fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check with its result."""

    name: str
    looks_at: str
    """Subject of the check."""
    verdict: Verdict
    finding: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about a model on an engine."""

    target: str
    """Model or address, as passed."""
    task: Task
    environment: Mapping[str, str]
    """Engine, device, dtype, attention kernel, model and versions."""
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """True if no check failed."""
        return not any(found.verdict == "fail" for found in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the failed checks."""
        return tuple(found.name for found in self.findings if found.verdict == "fail")

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of a check.

        Raises:
            KeyError: No check has this name.
        """
        for found in self.findings:
            if found.name == name:
                return found
        raise KeyError(name)

    @property
    def summary(self) -> str:
        """One line for terminals."""
        counts = Counter(found.verdict for found in self.findings)
        parts = [f"{counts[name]} {word}" for name, word in _WORDS.items() if counts[name]]
        return f"{'healthy' if self.healthy else 'broken'}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "target": self.target,
            "task": self.task,
            "healthy": self.healthy,
            "environment": dict(self.environment),
            "checks": [asdict(found) for found in self.findings],
        }
