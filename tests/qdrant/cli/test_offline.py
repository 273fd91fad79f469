"""Without a network, a command prints one line with the address that it could not reach."""

import pytest

NOWHERE = "http://127.0.0.1:9"
QDRANT = ("--url", NOWHERE)
SERVER = ("--model", "org/model", "--endpoint", NOWHERE)
HUB = ("--model", "org/model")
TEI = ("--dialect", "tei", "--rendered-by", "server")
RERANKER = ("--rerank-endpoint", NOWHERE, "--rerank-dialect", "tei", "--rendered-by", "server")
OFFLINE = [
    ("load", "a.txt", "-c", "docs", *QDRANT),
    ("load", "a.txt", "-c", "new", *HUB),
    ("load", "a.txt", "-c", "new", *HUB, "--dry-run"),
    ("load", "a.txt", "-c", "new", *SERVER),
    ("search", "mill", "-c", "docs", *QDRANT),
    ("search", "mill", "-c", "docs", *HUB),
    ("search", "mill", "-c", "docs", *SERVER),
    ("search", "mill", "-c", "docs", "--rerank-model", "org/model"),
    ("search", "mill", "-c", "docs", *RERANKER),
    ("embed", "a.txt", *HUB),
    ("embed", "a.txt", *SERVER),
    ("rerank", "a.txt", "--query", "mill", *HUB),
    ("rerank", "a.txt", "--query", "mill", *SERVER, *TEI),
    ("collection", "info", "-c", "docs", *QDRANT),
    ("collection", "list", *QDRANT),
    ("collection", "verify", "-c", "docs", *HUB),
]


@pytest.fixture
def no_hub(monkeypatch):
    """Lets the hub be unreachable."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)


def test_one_line_with_the_address(quern, tmp_path, impatient, no_hub):
    with open("a.txt", "w") as file:
        file.write("A mill grinds.\n")
    assert quern("load", "a.txt", "-c", "docs").exit_code == 0
    failures = []
    for command in OFFLINE:
        done = quern(*command)
        (line, *more) = done.stderr.splitlines() or [""]
        is_clean = done.exit_code == 1 and isinstance(done.exception, SystemExit) and not more
        if not (is_clean and line.startswith("quern: ") and NOWHERE in line) or done.stdout:
            failures.append((command, done.exit_code, done.exception, done.output))
    assert not failures, "\n".join(map(str, failures))
