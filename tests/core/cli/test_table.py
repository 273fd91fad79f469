import subprocess
import sys
from importlib.metadata import EntryPoint, version

import pytest
import typer

from quernstone.cli.table import GROUP

# each takes a tenth of a second or more to import, and no help needs it
HEAVY = (
    "torch transformers sentence_transformers vllm mteb huggingface_hub httpx pydantic "
    "qdrant_client pyarrow pandas matplotlib semantic_text_splitter ray"
)


@pytest.fixture
def declare(monkeypatch):
    """Declares commands as another distribution would."""

    def declare(**targets):
        entries = [EntryPoint(name, value, GROUP) for name, value in targets.items()]
        monkeypatch.setattr("quernstone.cli.table.entry_points", lambda group: entries)

    return declare


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from quernstone.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('HEAVY', sorted(set(sys.argv.pop().split()) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help", HEAVY], capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
    for command in ("embed", "rerank", "eval", "doctor", "bench", "load", "search", "collection"):
        assert command in done.stdout


def test_version(quern):
    done = quern("--version")
    assert (done.exit_code, done.output) == (0, f"quern {version('quernstone')}\n")


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("--nonsense",), ("embed",), ("embed", "-", "--nonsense")]
)
def test_wrong_usage_is_2(quern, arguments):
    done = quern(*arguments)
    assert done.exit_code == 2
    assert "Usage: quern" in done.stderr


def test_a_distribution_adds_a_function_or_an_app(declare, quern, monkeypatch):
    group = typer.Typer(help="Tools of all kinds.")
    group.command("one")(lambda: typer.echo("inside"))
    group.command("other")(lambda: None)
    monkeypatch.setattr("quernstone.cli.extra", group, raising=False)
    declare(hello="quernstone.cli.table:print_error", tools="quernstone.cli:extra")
    listed = quern("--help").output
    assert "tools   Tools of all kinds." in listed
    assert "hello" in listed
    assert quern("tools", "one").output == "inside\n"
    done = quern("hello", "a\nmessage")
    assert (done.exit_code, done.stderr) == (0, "quern: a message\n")


def test_a_broken_distribution_breaks_only_its_own_command(declare, quern):
    declare(load="no_such_module.cli:load")
    listed = quern("--help")
    assert listed.exit_code == 0
    assert "Cannot be imported: No module named 'no_such_module'" in listed.output
    done = quern("load")
    assert done.exit_code == 1
    assert done.stderr == (
        "quern: `quern load` (no_such_module.cli:load): No module named 'no_such_module'\n"
    )


@pytest.mark.parametrize("command", [(), ("embed",), ("eval",), ("load",), ("collection", "info")])
def test_h_is_help(quern, command):
    short, long = quern(*command, "-h"), quern(*command, "--help")
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert "Usage: " in short.stdout
