"""The table of commands, and their exit codes.

Another distribution adds a command with an entry point in the group `quernstone.commands`. Its
value is a function for Typer, or a `typer.Typer` app with several commands:

    [project.entry-points."quernstone.commands"]
    load = "quernstone_qdrant.cli.load:load"

A command is imported when it is run. `quern --help` imports all of them to show their first lines,
so their modules import heavy packages inside functions.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from quernstone.cli.wording import in_options
from quernstone.errors import ConfigError, QuernstoneError

GROUP = "quernstone.commands"

_OWN = {
    "bench": "quernstone.cli.bench:bench",
    "doctor": "quernstone.cli.doctor:doctor",
    "embed": "quernstone.cli.embed:embed",
    "eval": "quernstone.cli.eval:app",
    "rerank": "quernstone.cli.rerank:rerank",
    "serve": "quernstone.cli.serve:serve",
}
_FAILED = 1
_WRONG_USAGE = 2
_PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell reports it


class CommandImportError(QuernstoneError, ImportError):
    """A command of an installed distribution cannot be imported."""


class CommandTable(TyperGroup):
    """A group of the commands of this distribution and of others."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of all commands, sorted."""
        return sorted(_declared())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Import a command. Return None if it does not exist."""
        found = _declared().get(cmd_name)
        if found is None:
            return None
        try:
            target = found.load()
        except ImportError as error:
            target = _broken(found, error)
        if isinstance(target, typer.Typer):
            group = typer.main.get_group(target)
            group.name = cmd_name
            return group
        single = new_app()
        single.command(cmd_name, help=_unwrapped(target.__doc__ or ""))(target)
        return typer.main.get_command(single)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and turn an error into one line of text and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that a closed pipe raises here and not at exit
        except BrokenPipeError:
            _abandon_stdout()
            raise typer.Exit(_PIPE_CLOSED) from None
        except QuernstoneError as error:
            usage = isinstance(error, ConfigError)
            is_about_data = isinstance(error, ValueError) and not usage
            print_error(in_options(str(error), _options(self, ctx), bare=not is_about_data))
            code = _WRONG_USAGE if usage else _FAILED
            raise typer.Exit(code) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print_error(f"{where}{error.strerror or error}")
            raise typer.Exit(_FAILED) from error
        return result


def _options(group: Any, ctx: Any) -> dict[str, str]:
    """Return the options of the command that runs, by the names of their parameters."""
    command = group.get_command(ctx, ctx.invoked_subcommand or "")
    commands = [command, *getattr(command, "commands", {}).values()]
    return {name: option for one in commands for name, option in option_names(one).items()}


def option_names(command: Any) -> dict[str, str]:
    """Return the options of a command, by the names of their parameters."""
    return {
        parameter.name: parameter.opts[0]
        for parameter in getattr(command, "params", ())
        if parameter.opts[0].startswith("--")
    }


def new_app(*, completion: bool = False, **settings: Any) -> typer.Typer:
    """Create a Typer app with the settings that all commands share."""
    # Bugs print a plain traceback, which is easy to copy into a report.
    return typer.Typer(
        add_completion=completion,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = new_app(completion=True, cls=CommandTable, no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quern {version('quernstone')}")
        raise typer.Exit


@app.callback()
def quern(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Qwen3 embeddings and reranking: files, pipes and Qdrant.

    Exit codes: 0 success, 1 the data or the model failed, 2 wrong usage.
    """


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph: Typer would keep the line breaks of the source code."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _declared() -> dict[str, EntryPoint]:
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    own = {name: EntryPoint(name, value, GROUP) for name, value in _OWN.items()}
    return {**found, **own}


def _broken(entry: EntryPoint, error: ImportError) -> Callable[[], None]:
    """Return a command that reports the error, so that the other commands keep working."""

    def command() -> None:
        raise CommandImportError(f"`quern {entry.name}` ({entry.value}): {error}") from error

    command.__doc__ = f"(Cannot be imported: {error})"
    return command


def print_error(message: str) -> None:
    """Print an error in one line."""
    typer.echo(f"quern: {' '.join(message.split())}", err=True)


def _abandon_stdout() -> None:
    """Discard buffered output: flushing it to the closed pipe at exit would print an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
