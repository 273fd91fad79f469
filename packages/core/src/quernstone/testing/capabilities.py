"""A pytest plugin that writes the results of the contract suites, and a table of them.

    pytest -p quernstone.testing.capabilities --capabilities docs/capabilities tests/core/engines
    python -m quernstone.testing docs/capabilities docs/engines.md

The first command writes `FOLDER/ENGINE.json` for each engine that ran. The second replaces the text
between two comments of a Markdown page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

CAPABILITIES: dict[str, dict[str, str]] = {
    "embed": {
        "order": "results in input order",
        "any_text": "any Unicode text, also an empty one",
        "wrong_input": "wrong input is an error naming its index",
        "batch_mates": "batch-mates change a vector by at most",
        "threads": "many threads at once",
        "coroutines": "many coroutines at once",
        "shared": "equal settings share one model",
        "dimensions": "`dimensions`",
        "instruction": "an instruction changes queries, not documents",
        "long": "a long text is cut before the last token",
        "too_long": "`truncate=False` refuses a long text",
        "control_tokens": "control tokens in a text are text",
        "usage": "tokens are counted",
        "agreement": "smallest cosine to the reference",
    },
    "rerank": {
        "order": "results in input order",
        "any_text": "any Unicode text, also an empty one",
        "wrong_input": "wrong input is an error naming its index",
        "batch_mates": "batch-mates change a score by at most",
        "threads": "many threads at once",
        "coroutines": "many coroutines at once",
        "shared": "equal settings share one model",
        "instruction": "an instruction changes scores",
        "template": "both official templates",
        "long": "a long document is cut, the prompt never",
        "too_long": "`truncate=False` refuses a long document",
        "control_tokens": "control tokens in a text are text",
        "usage": "tokens are counted",
        "agreement": "largest difference to the reference",
    },
}
"""The tested capabilities by task: the key used in tests and `cannot`, and the table row."""

_BEGIN, _END = "<!-- capabilities -->", "<!-- end of capabilities -->"

Test = TypeVar("Test", bound=Callable[..., Any])
Result = bool | float | str
"""`True` if it works, the measured number if there is one, or the reason why it does not work."""
Found = dict[str, dict[str, dict[str, Result]]]
"""engine -> task -> capability -> result"""

FOUND = pytest.StashKey[Found]()


def shows(capability: str) -> Callable[[Test], Test]:
    """Mark a contract test with the capability that it tests."""

    def mark(test: Test) -> Test:
        test.capability = capability  # type: ignore[attr-defined]
        return test

    return mark


# --------------------------------------------------------------------------------- the plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--capabilities`."""
    parser.addoption(
        "--capabilities",
        type=Path,
        metavar="FOLDER",
        help="write the results of the contract suites, one JSON file per engine",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start without results."""
    config.stash[FOUND] = {}


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost, to see the outcome before xfail
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the outcome of a contract test."""
    report = yield
    _note(item, call, report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Merge the results into the existing files: a run may cover only a part of the tests."""
    folder = session.config.getoption("--capabilities")
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for engine, found in session.config.stash[FOUND].items():
        path = folder / f"{engine.replace(',', '').replace(' ', '-')}.json"
        result: dict[str, Any] = {"engine": engine}
        if path.exists():
            result = json.loads(path.read_text())
        for task, rows in found.items():
            merged = {**result.get(task, {}), **rows}
            result[task] = {name: merged[name] for name in CAPABILITIES[task] if name in merged}
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def _note(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    capability = getattr(getattr(item, "function", None), "capability", None)
    contract = getattr(item, "cls", None)
    engine = getattr(contract, "engine", "")
    expected: str | None = getattr(report, "wasxfail", None)
    skipped = report.skipped and expected is None
    if not capability or not engine or skipped or (call.when != "call" and report.passed):
        return
    tasks = item.config.stash[FOUND].setdefault(engine, {})
    rows = tasks.setdefault(getattr(contract, "task", ""), {})
    measured: list[Any] = [v for name, v in report.user_properties if name == "measured"]
    if not report.passed:
        rows[capability] = "failed" if expected is None else expected
    elif not isinstance(rows.get(capability), str):  # one failing test is enough
        rows[capability] = measured[0] if measured else rows.get(capability, True)


# ---------------------------------------------------------------------------------- the table


def render(found: Mapping[str, Mapping[str, Mapping[str, Result]]]) -> str:
    """Return a Markdown table per task, with a row per capability and a column per engine."""
    parts = []
    notes: list[str] = []
    for task, title in (("embed", "Embedding"), ("rerank", "Reranking")):
        engines = [engine for engine in found if task in found[engine]]
        parts += [f"| {title} | {' | '.join(engines)} |", "|---" * (len(engines) + 1) + "|"]
        for capability, row in CAPABILITIES[task].items():
            cells = [_cell(found[engine][task].get(capability), notes) for engine in engines]
            parts.append(f"| {row} | {' | '.join(cells)} |")
        parts.append("")
    parts += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(parts).strip() + "\n"


def _cell(result: Result | None, notes: list[str]) -> str:
    if result is None:
        return "not tested"
    if isinstance(result, str):
        if result not in notes:
            notes.append(result)
        return f"no ({notes.index(result) + 1})"
    return "yes" if result is True else _shortened(result)


def _shortened(value: float) -> str:
    """Format errors with one digit, rounded up, and cosines with their nines, rounded down."""
    if value > 0.5:
        lost = max(1.0 - value, 1e-7)  # the resolution of float32
        nines = math.floor(-math.log10(lost))
        return f"{math.floor(value * 10**nines) / 10**nines:.{nines}f}" if value < 1 else "1"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(value))
    return f"{math.ceil(value / 10**exponent)}e{exponent}"


def read(folder: Path) -> Found:
    """Read the results by engine, in the order of `quernstone.engines.ENGINES`."""
    from quernstone.engines import ENGINES  # noqa: PLC0415 - not needed by the plugin

    def place(engine: str) -> tuple[int, str]:
        known = [i for i, name in enumerate(ENGINES) if engine.split(",")[0] == name]
        return (known[0] if known else len(ENGINES)), engine

    found: Found = {}
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        found[result.pop("engine")] = result
    return {engine: found[engine] for engine in sorted(found, key=place)}


def replaced(page: str, table: str) -> str:
    """Return the page with its table replaced.

    Raises:
        ValueError: The page lacks the two comments.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        msg = f"the page lacks `{_BEGIN}` or `{_END}`"
        raise ValueError(msg)
    return f"{before}{_BEGIN}\n\n{table}\n{_END}{after}"
