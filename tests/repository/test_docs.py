"""Runs the examples of the documentation: what it says is what happens.

The blocks of a file run in order, in one empty folder: `python` blocks share their names, and of
`console` blocks the lines that begin with `$` go to a shell. A block after a comment
`<!-- not run: reason -->` is left alone. The default models are the bundled ones.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")])

_BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<language>python|console)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page):
    """Yield (line, language, code) of the blocks that are to be run."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        if not match["skip"]:
            line = text.count("\n", 0, match.start("code")) + 1
            yield line, match["language"], match["code"]


def commands(code):
    """The commands of a console block, without what they print."""
    lines = code.splitlines()
    found = []
    for number, line in enumerate(lines):
        if line.startswith("$ "):
            found.append(line[2:])
        elif number and lines[number - 1].endswith("\\"):
            found.append(line)
    return found


def run_console(code, where):
    script = "set -euo pipefail\n" + "\n".join(commands(code))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}:\n{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_examples_of(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUERN_MODEL", "tiny")
    monkeypatch.setenv("QUERN_RERANK_MODEL", "tiny")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    names = {"__name__": "__main__"}
    for line, language, code in blocks(page):
        if language == "console":
            run_console(code, f"{page}:{line}")
        else:
            # the newlines make a traceback show the line of the page
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def test_console_blocks_are_split_into_commands_and_what_they_print():
    code = "$ quern embed in.txt \\\n    --dimensions 64\nprinted\n$ ls\n"
    assert commands(code) == ["quern embed in.txt \\", "    --dimensions 64", "ls"]
