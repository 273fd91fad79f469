"""Selection of tasks: those of a benchmark, by name, or from a user's file."""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.get_tasks import TASK_LIST

from quernstone.errors import ConfigError

BENCHMARKS = ("MTEB(eng, v2)", "MTEB(cmn, v1)", "MTEB(Code, v1)", "MTEB(Multilingual, v2)")
"""Benchmarks with published results of Qwen3-Embedding; all others of mteb work as well."""


def select_tasks(
    *,
    benchmark: str | None = None,
    names: Sequence[str] = (),
    file: Path | None = None,
    languages: Sequence[str] = (),
) -> list[AbsTask]:
    """Return the tasks that the options of a command describe, in the benchmark's order.

    Args:
        benchmark: A benchmark of mteb, such as `MTEB(eng, v2)`.
        names: Names of tasks in the benchmark or the file, or of any task in mteb without both.
        file: A Python file that defines tasks.
        languages: ISO 639-3 codes such as `eng`, or `eng-Latn`. Tasks in other languages are
            skipped unless `names` has them; multilingual tasks only run on these.

    Raises:
        ConfigError: A name is unknown (the message suggests similar ones), a named task has none of
            the languages, or no task remains.
    """
    if benchmark is None and file is None:
        if not names:
            raise ConfigError("pass a benchmark, tasks, or a file of tasks")
        tasks = [_by_name(name) for name in names]
    else:
        tasks = [] if benchmark is None else list(benchmark_tasks(benchmark))
        tasks += [] if file is None else tasks_of_file(file)
        tasks = _named(tasks, names, str(benchmark or file)) if names else tasks
    if languages:
        try:
            found = list(mteb.filter_tasks(tasks, languages=list(languages)))
        except ValueError as error:  # not an ISO code
            raise ConfigError(str(error)) from error
        other = [task for task in tasks if task not in found]
        if not found or (other and names):
            known = sorted({one for task in other for one in task.metadata.languages})
            none = (
                f"{', '.join(task.metadata.name for task in other)}: not" if names else "no task is"
            )
            more = ", ..." if len(known) > 20 else ""
            raise ConfigError(
                f"{none} in any of the languages {', '.join(languages)}, only in "
                f"{', '.join(known[:20])}{more}"
            )
        tasks = [task.filter_languages(list(languages)) for task in found]
    return tasks


def benchmark_tasks(name: str) -> Sequence[AbsTask]:
    """Return the tasks of a benchmark.

    Raises:
        ConfigError: mteb does not know the benchmark.
    """
    known = {one.name: one for one in mteb.get_benchmarks()}
    aliases = {alias: one for one in known.values() for alias in one.aliases or ()}
    found = known.get(name) or aliases.get(name)
    if found is None:
        raise ConfigError(_unknown("benchmark", name, [*known, *aliases]))
    return list(found.tasks)


def task_types(names: Iterable[str]) -> dict[str, str]:
    """Return the types of the named tasks that mteb knows."""
    types = {task.metadata.name: str(task.metadata.type) for task in TASK_LIST}
    return {name: types[name] for name in names if name in types}


def known_task_names() -> list[str]:
    """Return the names of all tasks of mteb."""
    return [task.metadata.name for task in TASK_LIST]


def tasks_of_file(path: Path) -> list[AbsTask]:
    """Create a task of each class in a Python file that is a complete mteb task, in order.

    The file may import others of its folder.

    Raises:
        ConfigError: The file does not exist, fails or defines no task.
    """
    if not path.is_file():
        raise ConfigError(f"`{path}` is not a Python file")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module: dict[str, Any] = runpy.run_path(str(path), run_name="quernstone_tasks")
        classes = [
            value
            for value in module.values()
            if isinstance(value, type)
            and issubclass(value, AbsTask)
            and value.__module__ == "quernstone_tasks"
            and getattr(value, "metadata", None) is not None
        ]
        tasks = [found() for found in classes]
    except Exception as error:
        lines = [one.lineno for one in extract_tb(error.__traceback__) if one.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        where = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"`{path}`{where}: {type(error).__name__}: {error}") from error
    if not tasks:
        raise ConfigError(f"`{path}` defines no task: a subclass of mteb's tasks with `metadata`")
    return tasks


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with similar known names, or an empty string."""
    by_fold = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), list(by_fold), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(repr(by_fold[one]) for one in close)}?" if close else ""


def _by_name(name: str) -> AbsTask:
    known = known_task_names()
    if name not in known:
        raise ConfigError(_unknown("task", name, known))
    return mteb.get_task(name)


def _named(tasks: Sequence[AbsTask], names: Sequence[str], where: str) -> list[AbsTask]:
    known = {task.metadata.name: task for task in tasks}
    for name in names:
        if name not in known:
            raise ConfigError(f"{_unknown('task', name, known)} (in {where})")
    wanted = set(names)
    return [task for name, task in known.items() if name in wanted]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    return f"unknown {what} {name!r}{nearest(name, known)}"
