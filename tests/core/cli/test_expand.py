from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from quernstone.cli.expand import expand_options


@dataclass(frozen=True)
class Base:
    name: Annotated[str, typer.Option("--called", "-c", help="A required option.")]
    size: Annotated[int, typer.Option(min=1, envvar="QUERN_TEST_SIZE")] = 3


@dataclass(frozen=True)
class Options(Base):
    tags: Annotated[list[str] | None, typer.Option("--tag")] = None


@pytest.fixture
def run():
    app = typer.Typer()

    @app.command()
    @expand_options
    def command(
        source: Annotated[str, typer.Argument(metavar="INPUT")],
        *,
        before: bool = False,
        options: Options,
        after: int = 0,
    ) -> None:
        """Print the arguments."""
        typer.echo(f"{source} {before} {options} {after}")

    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_fields_become_options(run):
    done = run("x", "-c", "n", "--tag", "a", "--tag", "b", "--before", "--after", "2")
    assert done.output == "x True Options(name='n', size=3, tags=['a', 'b']) 2\n"


def test_required_options_limits_and_variables_work_as_usual(run, monkeypatch):
    assert "Missing option '--called'" in run("x").output
    assert run("x", "-c", "n", "--size", "0").exit_code == 2
    monkeypatch.setenv("QUERN_TEST_SIZE", "7")
    assert "size=7" in run("x", "-c", "n").output


def test_help_lists_the_options_in_the_order_of_the_parameters(run):
    shown = run("--help").output
    assert "Print the arguments." in shown
    places = [
        shown.index(name)
        for name in ("INPUT", "--before", "--called", "--size", "--tag", "--after")
    ]
    assert places == sorted(places)


def test_two_commands_can_share_a_dataclass():
    @expand_options
    def one(*, options: Base) -> None:
        assert options == Base("a", 1)

    @expand_options
    def other(*, options: Base, more: int) -> None:
        assert (options, more) == (Base("b", 2), 5)

    one(name="a", size=1)
    other(name="b", size=2, more=5)
