"""Options of `quern eval`, and the tasks and the protocol they select."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from quernstone.evaluation.protocol import Protocol

_task_option = partial(typer.Option, rich_help_panel="Tasks")

Benchmark = Annotated[
    str | None,
    _task_option(
        "--benchmark",
        "-b",
        help='An mteb benchmark, such as "MTEB(eng, v2)", "MTEB(cmn, v1)", "MTEB(Code, v1)", '
        '"MTEB(Multilingual, v2)".',
    ),
]


@dataclass(frozen=True)
class TaskOptions:
    """The tasks to run, and by which rules."""

    benchmark: Benchmark = None
    tasks: Annotated[
        str | None, _task_option("--tasks", "-t", help="Names of tasks, separated by commas.")
    ] = None
    tasks_file: Annotated[
        Path | None, _task_option(help="A Python file that defines mteb tasks of your own.")
    ] = None
    languages: Annotated[
        str | None,
        _task_option(
            help="Only run tasks and subsets in these languages: ISO 639-3 codes, separated by "
            "commas."
        ),
    ] = None
    protocol: Annotated[str, _task_option(help="official (Qwen's rules) or mteb (its own).")] = (
        "official"
    )
    instructions: Annotated[
        Path | None,
        _task_option(
            help="A file like the official task_prompts.json. Its instructions take precedence "
            "over the built-in ones."
        ),
    ] = None

    def select(self) -> list[AbsTask]:
        """Return new instances of the selected tasks."""
        from quernstone.evaluation.benchmarks import select_tasks

        return select_tasks(
            benchmark=self.benchmark,
            names=commas(self.tasks),
            file=self.tasks_file,
            languages=commas(self.languages),
        )

    def rules(self, selected: Sequence[AbsTask]) -> Protocol:
        """Return the protocol, with the built-in instructions and those of the file."""
        from quernstone.evaluation.benchmarks import known_task_names
        from quernstone.evaluation.instructions import (
            Instructions,
            own_instructions,
            read_instructions,
        )
        from quernstone.evaluation.protocol import PROTOCOLS, Protocol

        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {self.protocol!r}; use {' or '.join(PROTOCOLS)}")
        table = own_instructions() if self.protocol == "official" else Instructions({}, "mteb")
        if self.instructions is not None:
            known = frozenset([*known_task_names(), *(task.metadata.name for task in selected)])
            table = read_instructions(self.instructions, known).over(table)
        return Protocol(name=self.protocol, instructions=table)


def commas(text: str | None) -> list[str]:
    """Split a list such as `eng,zho`. Not for names of benchmarks, which contain commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@contextmanager
def quiet_mteb() -> Iterator[None]:
    """Silence the progress bars, the log and the warnings of mteb."""
    import quernstone.evaluation  # noqa: F401 - raises MissingExtraError before mteb is imported

    os.environ.setdefault("TQDM_DISABLE", "1")  # the only switch for several of mteb's bars
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mteb\.")
        yield
