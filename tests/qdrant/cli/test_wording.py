"""No message of this package reaches the command line with the name of an argument of Python."""

import ast
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
import typer.main
from tests.support.syntax import parse

import quernstone_qdrant
from quernstone.cli.table import option_names
from quernstone.cli.wording import in_options

PACKAGE = Path(quernstone_qdrant.__file__).parent
ARGUMENT = re.compile(r"`(\w+)(?:=[^`]*)?`")
ABOUT_DATA = {"SourceError", "RecordError", "InputError"}
"""Errors in which a name between backticks may be a column."""


def options():
    """Return the options of all commands, by the names of their parameters."""
    found = {}
    for entry in entry_points(group="quernstone.commands"):
        target = entry.load()
        if not isinstance(target, typer.Typer):
            app = typer.Typer()
            app.command()(target)
            target = app
        command = typer.main.get_command(target)
        for one in (command, *getattr(command, "commands", {}).values()):
            found |= option_names(one)
    return found


class Messages(ast.NodeVisitor):
    """Collects the strings of a module, except docstrings and help, with the error they are in."""

    def __init__(self):
        self.found = []
        self._error = None

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Call(self, node):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        before = self._error
        if name.endswith("Error"):
            self._error = name
        for child in (*node.args, *(one for one in node.keywords if one.arg != "help")):
            self.visit(child)
        self._error = before
        self.visit(node.func)

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            self.found.append((self._error, node.value))

    def visit_JoinedStr(self, node):
        parts = (getattr(part, "value", "") for part in node.values)
        text = "".join(part if isinstance(part, str) else "X" for part in parts)
        self.found.append((self._error, text))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part)


def messages():
    """Yield the place, the error and the text of each message that names an argument."""
    names = options()
    assert {"defer_index", "patience", "prune", "text_field"} <= set(names)
    for path in sorted(PACKAGE.rglob("*.py")):
        visitor = Messages()
        visitor.visit(parse(path))
        for error, text in visitor.found:
            if any(name in names for name in ARGUMENT.findall(text)):
                yield path.relative_to(PACKAGE).as_posix(), error, text, names


def test_every_message_can_be_said_in_options():
    found = list(messages())
    assert len(found) > 25
    python = []
    for place, error, text, names in found:
        bare = error is not None and error not in ABOUT_DATA
        shown = in_options(text, names if error else {}, bare=bare)
        if any(name in names for name in ARGUMENT.findall(shown)):
            python.append((place, error, text))
    assert not python, "\n".join(map(str, python))


@pytest.mark.parametrize("form", ["", "--json"])
def test_notes_name_options(quern, docs, form):
    options = ("-c", "docs", "--defer-index", "m0", "--report", "r.json")
    done = quern("load", docs, *options, *([form] if form else []))
    note = "--defer-index is ignored: the embedded client has no index"
    assert f"quern: {note}\n" in done.stderr
    assert note in Path("r.json").read_text()
    assert "defer_index" not in done.stdout + done.stderr


def test_errors_that_are_left_out_name_options(quern, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,text\n1,mill year=5 {name}\n")
        path = tmp_path / f"{name}.csv"
        done = quern("load", path, "-c", "docs", "--id-field", "id", "--skip-errors")
    assert "pass --replace-sources to allow that" in done.stderr
    assert "replace_sources" not in done.stderr
    missing = quern("load", tmp_path / "a.csv", "-c", "docs", "--metadata", "price")
    assert "no column `price` for --metadata" in missing.stderr
