"""The tests that need a GPU, with one result for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.run import Run

_ROOT = Path(__file__).parents[3]
_MARK = "mark.gpu"


def run(run: Run) -> None:
    """Run the test files in which a test has the mark `gpu`."""
    files = [
        str(path)
        for path in sorted((_ROOT / "tests").rglob("test_*.py"))
        if _MARK in path.read_text(encoding="utf-8")
    ]
    run.check("test files were found", bool(files), files=len(files))
    if not files:
        return
    options = ["-p", "no:cacheprovider", "-W", "default", "--durations=5", "--timeout=90"]
    code = pytest.main([*files, "-m", "gpu", *options], plugins=[_Reporter(run)])
    run.check("pytest finished", code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))


class _Reporter:
    """Reports the outcome of each test as soon as it is known."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Report a failure of any phase, a skip, and a passed call."""
        name = report.nodeid.rpartition("/")[2]
        if report.failed:
            error = str(report.longrepr).strip().rpartition("\n")[2][:300]
            self._run.check(name, False, phase=report.when, error=error)
        elif report.skipped:
            if self._run.cuda:
                self._run.figure(name, skipped=_reason(report))
            else:
                self._run.needs_gpu(name)
        elif report.when == "call":
            self._run.check(name, True, seconds=report.duration)


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
