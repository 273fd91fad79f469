"""Errors of the commands speak of options, and completion knows commands."""

import re

import pytest

PYTHON = re.compile(r"\w=(True|False|None)|Value error|`[a-z]+(_[a-z]+)+`|Traceback|pydantic")
"""Names that only Python has: arguments, and words of its libraries."""

LOAD = ("load", "DOCS", "-c")
WRONG = [
    (*LOAD, "old", "--hybrid"),
    (*LOAD, "old", "--layout", "langchain"),
    (*LOAD, "old", "--dimensions", "32"),
    (*LOAD, "new", "--prefix", "48"),
    (*LOAD, "new", "--preset", "mrl", "--prefix", "999"),
    (*LOAD, "new", "--hybrid", "--language", "klingon"),
    (*LOAD, "new", "--set", "m=-1"),
    (*LOAD, "new", "--set", "quantization=fast"),
    (*LOAD, "new", "--chunk-size", "10", "--chunk-overlap", "20"),
    (*LOAD, "new", "--dimensions", "9999"),
    (*LOAD, "new", "--dtype", "int9"),
    (*LOAD, "new", "--engine", "abacus"),
    (*LOAD, "new", "--batch-tokens", "0"),
    (*LOAD, "new", "--url", "http://127.0.0.1:7777", "--grpc"),
    (*LOAD, "new", "--url", "http://127.0.0.1:9"),
    (*LOAD, "new", "--url", "nonsense://x"),
    (*LOAD, "new", "--path", "a", "--edge", "b"),
    (*LOAD, "new", "--edge", "qdrant-data"),
    (*LOAD, "new", "--endpoint", "http://127.0.0.1:9"),
    ("search", "mill", "-c", "old", "--hybrid"),
    ("search", "mill", "-c", "old", "--filter", "year"),
    ("search", "mill", "-c", "old", "-n", "5", "--candidates", "2"),
    ("search", "mill", "-c", "none"),
    ("embed", "lines.txt", "--dimensions", "1"),
    ("embed", "lines.txt", "--dialect", "vllm"),
    ("embed", "lines.txt", "--endpoint", "http://127.0.0.1:9"),
    ("embed", "lines.txt", "--endpoint", "http://127.0.0.1:9", "--device", "cpu"),
    ("rerank", "lines.txt", "--query", "x", "--endpoint", "http://127.0.0.1:9"),
    ("collection", "info", "-c", "old", "--url", "http://127.0.0.1:9"),
    ("collection", "list", "--url", "http://127.0.0.1:9"),
    ("collection", "delete", "-c", "none", "--yes"),
]


def test_errors_name_options_and_addresses(quern, docs, tmp_path, impatient):
    assert quern("load", docs, "-c", "old").exit_code == 0
    with open("lines.txt", "w") as lines:
        lines.write("A quern.\n")
    failures = []
    for arguments in WRONG:
        done = quern(*(docs if one == "DOCS" else one for one in arguments))
        text = done.stderr
        clean = done.exit_code in (1, 2) and isinstance(done.exception, SystemExit)
        named = PYTHON.search(text)
        address = "failed" not in text or "127.0.0.1:9" in text
        if not clean or named or not address or len(text.splitlines()) > 12:
            failures.append((arguments[2:], done.exit_code, text, named and named[0]))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("quern colle", "collection"),
        ("quern collection de", "delete"),
        ("quern load --prune-", "--prune-all"),
    ],
    ids=["command", "subcommand", "option"],
)
def test_completion(words, shown):
    from typer.testing import CliRunner

    from quernstone.cli import app

    environment = {
        "_QUERN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = CliRunner().invoke(app, [], prog_name="quern", env=environment)
    assert shown in done.stdout.split()
