"""`quern doctor`: find out what is wrong with a model or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    Dialect,
    EngineOptions,
    Json,
    RenderedBy,
    Revision,
    Template,
    default_model,
    engine_settings,
    on_terminal,
    server_option,
)
from quernstone.cli.printing import facts_table, plain_table, print_json
from quernstone.cli.templates import read_template
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


@expand_options
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|URL]",
            help="Hub id, local folder, `tiny`, or the address of a server. "
            "(default: QUERN_MODEL, or with --task rerank QUERN_RERANK_MODEL)",
        ),
    ] = None,
    *,
    task: Annotated[
        str | None, typer.Option(help="Task of the model: embed, rerank. (default: detected)")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Hub id or folder of the same checkpoint, run here in float32 for comparison.",
        ),
    ] = None,
    as_json: Json = False,
    revision: Revision = None,
    options: EngineOptions,
    served_model: Annotated[
        str | None,
        server_option(
            "--model", "-m", help="Name of the model on the server. (default: the first one)"
        ),
    ] = None,
    dialect: Dialect = None,
    rendered_by: RenderedBy = None,
    template: Template = None,
) -> None:
    """Check a model, an engine or a server.

    Reports what is wrong and how to fix it. Checks that cannot be done are skipped, with the
    reason. The exit code is 1 if a check failed.
    """
    from quernstone.doctor import diagnose

    if task not in (None, *_TASKS):
        raise ConfigError(f"--task {task}: use embed or rerank")
    if template in ("client", "server"):  # the former spelling of --rendered-by
        rendered_by, template = rendered_by or template, None
    rendering = read_template(template)
    server_options = {"--model": served_model, "--dialect": dialect, "--rendered-by": rendered_by}
    if target is not None and target.startswith(("http://", "https://")):
        model, settings = _on_server(target, served_model, task, dialect, rendered_by)
    else:
        for name, value in server_options.items():
            if value is not None:
                raise ConfigError(f"{name} is for servers: pass an address in place of MODEL")
        model = target or default_model(task)
        settings = engine_settings(options.engine, None, None)
    report = diagnose(
        model,
        task=cast("Task | None", task),
        device=options.device,
        dtype=cast("Dtype", options.dtype),
        revision=revision,
        adapter=options.adapter,
        template=rendering,
        reference=reference,
        progress=on_terminal() and not as_json,
        **settings,
    )
    if as_json:
        print_json(report.as_dict(), indent=True)
    else:
        _print_table(report)
    if not report.healthy:
        raise typer.Exit(1)


def _on_server(
    address: str, model: str | None, task: str | None, dialect: str | None, rendered_by: str | None
) -> tuple[str, dict[str, Any]]:
    """Return the model's name and the `engine` arguments, asking the server for missing ones."""
    from quernstone.doctor import recognize

    if model is None or dialect is None:
        found = recognize(address)
        model, dialect = model or found.model, dialect or found.dialect
    if rendered_by is None and (task == "rerank" or (task is None and "rerank" in model.lower())):
        rendered_by = "server"  # the server's own template is what may be wrong
    return model, engine_settings("auto", address, dialect, rendered_by)


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{report.target} ({report.task})", style="bold"))
    console.print(facts_table(report.environment))
    table = plain_table()
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("finding")
    for found in report.findings:
        style = _STYLES[found.verdict]
        cell = Text(found.finding)
        if found.fix:
            cell.append(f"\n-> {found.fix}", style="italic")
        table.add_row(Text(found.verdict, style=style), Text(found.name), cell)
    console.print(table)
    console.print(Text(report.summary, style="bold green" if report.healthy else "bold red"))
