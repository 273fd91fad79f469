"""`quern doctor`: what is wrong with a model or a server, and how to fix it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.cli.options import (
    Device,
    Dialect,
    DtypeName,
    Engine,
    RenderedBy,
    default_model,
    engine_settings,
    on_terminal,
)
from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone.doctor import Report, Verdict
    from quernstone.types import Dtype, Task

_TASKS = ("embed", "rerank")
_STYLES: dict[Verdict, str] = {
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "skipped": "dim",
}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|URL]",
            help="Hub id, local folder, `tiny`, or the address of a server. "
            "(default: QUERN_MODEL, or with --task rerank QUERN_RERANK_MODEL)",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="embed, rerank. (default: found out)", show_default=False),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Folder or hub id of the same checkpoint, computed here in float32 to compare.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)
    ] = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    served: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model's name on the server. (default: the first that it serves)",
            rich_help_panel="Model on a server",
            show_default=False,
        ),
    ] = None,
    dialect: Dialect = None,
    template: RenderedBy = None,
) -> None:
    """Examine a model on an engine, or a server.

    Says in plain words what is wrong and how to fix it. Nothing is guessed: what cannot be known
    is skipped, with the reason. The exit code is 1 if a check failed.
    """
    from quernstone.doctor import diagnose

    if task not in (None, *_TASKS):
        raise ConfigError(f"--task {task}: use embed or rerank")
    if target is not None and target.startswith(("http://", "https://")):
        model, chosen, settings = _on_server(target, served, task, dialect, template)
    else:
        for name, value in (("--model", served), ("--dialect", dialect), ("--template", template)):
            if value is not None:
                raise ConfigError(f"{name} is for servers: give an address in the place of MODEL")
        model, chosen = target or default_model(task), task
        settings = engine_settings(engine, None, None)
    report = diagnose(
        model,
        task=cast("Task | None", chosen),
        device=device,
        dtype=cast("Dtype", dtype),
        revision=revision,
        reference=reference,
        progress=on_terminal() and not as_json,
        **settings,
    )
    if as_json:
        _print_json(report)
    else:
        _print_table(report)
    if not report.healthy:
        raise typer.Exit(1)


def _on_server(
    address: str, model: str | None, task: str | None, dialect: str | None, template: str | None
) -> tuple[str, str | None, dict[str, Any]]:
    """The model's name, the task, and `engine` with its options, asked from the server."""
    from quernstone.doctor import recognise

    if model is None or dialect is None:
        found = recognise(address)
        model, dialect = model or found.model, dialect or found.dialect
    if template is None and (task == "rerank" or (task is None and "rerank" in model.lower())):
        template = "server"  # where something can be wrong
    return model, task, engine_settings("auto", address, dialect, template)


def _print_json(report: Report) -> None:
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(report.as_dict(), option=options))


def _print_table(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{report.target} ({report.task})", style="bold"))
    known = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in report.environment.items():
        known.add_row(Text(name, style="dim"), Text(value))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("finding")
    for found in report.findings:
        style = _STYLES[found.verdict]
        cell = Text(found.finding)
        if found.fix:
            cell.append(f"\n-> {found.fix}", style="italic")
        table.add_row(Text(found.verdict, style=style), Text(found.name), cell)
    console.print(known)
    console.print(table)
    console.print(Text(report.summary, style="bold green" if report.healthy else "bold red"))
