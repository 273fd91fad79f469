"""What the doctor says: findings, and the report that holds them."""

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
    """What one check came to. Made by `ok`, `warn`, `fail` and `skipped`."""

    verdict: Verdict
    finding: str
    """One sentence, with numbers where there are any; for `skipped` the reason."""
    fix: str = ""
    """What to do about it; empty when there is nothing to do."""


def ok(finding: str) -> Outcome:
    """Everything is as it should be."""
    return Outcome("ok", finding)


def warn(finding: str, fix: str) -> Outcome:
    """Results are right, or may be, but somebody should know this."""
    return Outcome("warn", finding, fix)


def fail(finding: str, fix: str) -> Outcome:
    """Results are wrong."""
    return Outcome("fail", finding, fix)


def skipped(reason: str, fix: str = "") -> Outcome:
    """This cannot be known here; `fix` says what would make it known."""
    return Outcome("skipped", reason, fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and what it came to."""

    name: str
    looks_at: str
    """What was compared with what."""
    verdict: Verdict
    finding: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about one model on one engine."""

    target: str
    """The model or the address, as it was given."""
    task: Task
    environment: Mapping[str, str]
    """What runs where: engine, device, dtype, attention kernel, model, versions."""
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not any(found.verdict == "fail" for found in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(found.name for found in self.findings if found.verdict == "fail")

    def __getitem__(self, name: str) -> Finding:
        """The finding of one check.

        Raises:
            KeyError: There was no check of that name.
        """
        for found in self.findings:
            if found.name == name:
                return found
        raise KeyError(name)

    @property
    def summary(self) -> str:
        """One line for people."""
        counts = Counter(found.verdict for found in self.findings)
        parts = [f"{counts[name]} {word}" for name, word in _WORDS.items() if counts[name]]
        return f"{'healthy' if self.healthy else 'broken'}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "target": self.target,
            "task": self.task,
            "healthy": self.healthy,
            "environment": dict(self.environment),
            "checks": [asdict(found) for found in self.findings],
        }
