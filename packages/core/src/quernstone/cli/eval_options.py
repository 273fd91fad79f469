"""Options of `quern eval`, and what they describe: tasks, rules, a model."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from quernstone import Embedder
    from quernstone.evaluation.protocol import Protocol
    from quernstone.types import Dtype

_TASKS = "Tasks"
Benchmark = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        "-b",
        help='A benchmark of mteb, such as "MTEB(eng, v2)", "MTEB(cmn, v1)", "MTEB(Code, v1)", '
        '"MTEB(Multilingual, v2)".',
        rich_help_panel=_TASKS,
    ),
]
Names = Annotated[
    str | None,
    typer.Option(
        "--tasks", "-t", help="Names of tasks, separated by commas.", rich_help_panel=_TASKS
    ),
]
TasksFile = Annotated[
    Path | None,
    typer.Option(help="A Python file that defines mteb tasks of your own.", rich_help_panel=_TASKS),
]
Languages = Annotated[
    str | None,
    typer.Option(
        help="ISO 639-3 codes, separated by commas: only tasks and subsets in these.",
        rich_help_panel=_TASKS,
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol", help="official (Qwen's rules) or mteb (its own).", rich_help_panel=_TASKS
    ),
]
InstructionsFile = Annotated[
    Path | None,
    typer.Option(
        "--instructions",
        help="A file in the form of the official task_prompts.json, which goes before our table.",
        rich_help_panel=_TASKS,
    ),
]


def selected_tasks(
    benchmark: str | None, tasks: str | None, file: Path | None, languages: str | None
) -> list[AbsTask]:
    """The tasks that the options name."""
    from quernstone.evaluation.benchmarks import select_tasks

    return select_tasks(
        benchmark=benchmark, names=commas(tasks), file=file, languages=commas(languages)
    )


def protocol_of(name: str, file: Path | None, tasks: Sequence[AbsTask]) -> Protocol:
    """The rules of a name, with our instructions and those of a file."""
    from quernstone.evaluation.benchmarks import known_task_names
    from quernstone.evaluation.instructions import (
        Instructions,
        own_instructions,
        read_instructions,
    )
    from quernstone.evaluation.protocol import PROTOCOLS, Protocol

    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; use {' or '.join(PROTOCOLS)}")
    table = own_instructions() if name == "official" else Instructions({}, "mteb")
    if file is not None:
        known = frozenset([*known_task_names(), *(task.metadata.name for task in tasks)])
        table = read_instructions(file, known).over(table)
    return Protocol(name=name, instructions=table)


def open_for(
    model: str,
    rules: Protocol,
    dimensions: int | None,
    device: str,
    dtype: str,
    where: dict[str, Any],
    batch_tokens: int | None,
) -> Embedder:
    """Load the embedding model that the options describe, for texts as long as the rules allow."""
    from quernstone import Embedder

    return Embedder(
        model,
        **where,
        device=device,
        dtype=cast("Dtype", dtype),
        dimensions=dimensions,
        max_length=rules.max_length,
        max_batch_tokens=batch_tokens,
    )


def commas(text: str | None) -> list[str]:
    """The parts of a list such as `eng,zho`. The comma of `MTEB(eng, v2)` is in no such list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@contextmanager
def quiet_mteb() -> Iterator[None]:
    """Silence the progress bars, the log and the warnings of mteb: ours say what matters."""
    import quernstone.evaluation  # noqa: F401 - says first that the extra is missing

    os.environ.setdefault("TQDM_DISABLE", "1")  # some of mteb's bars know no other switch
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mteb\.")
        yield
