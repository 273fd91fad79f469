"""Run the examples in the documentation, and check its links.

The blocks of a page run in order in one empty folder. `python` blocks share their names, except in
the README, where every block must run when it is pasted alone. In `console` blocks, the lines that
start with `$` go to a shell. A block after a comment `<!-- not run: reason -->` is skipped. The
default models are the bundled ones. Translated pages have the blocks of their originals, see
`test_translations.py`, and are not run again.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.environments import ROOT, Environment
from tests.support.pages import TRANSLATED, anchor

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "packages/*/README.md", "evaluation/*.md")
    for page in ROOT.glob(pattern)
    if "frameworks" not in page.parts  # of Qdrant's site: test_listings.py runs it
)
SLOW_PAGES = ["command-line.md", "doctor.md", "evaluation.md", "searching.md"]
MOST_LINES = {"README.md": 130, "docs/performance.md": 150}

_BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<language>python|console)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ANY_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def blocks(page):
    """Yield (line, language, code) for each block to run."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        if not match["skip"]:
            line = text.count("\n", 0, match.start("code")) + 1
            yield line, match["language"], match["code"]


def commands(code):
    """Return the commands of a console block, without their output."""
    lines = code.splitlines()
    found = []
    for number, line in enumerate(lines):
        if line.startswith("$ "):
            found.append(line[2:])
        elif number and lines[number - 1].endswith("\\"):
            found.append(line)
    return found


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _ANY_BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {anchor(heading) for heading in headings}


def listed_modules(page):
    """Return the paths of the Python files in the tree of a page, one folder per indentation."""
    tree = re.search(r"<!-- tree -->\n+```text\n(.*?)```", page.read_text(), re.DOTALL)[1]
    paths, folders = set(), []
    for line in filter(None, tree.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        if name.endswith(".py"):
            paths.add("".join(folders))
    return paths


def run_console(code, where):
    script = "set -euo pipefail\n" + "\n".join(commands(code))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}:\n{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW_PAGES else [])
        for page in PAGES
        if any(blocks(page)) and page not in TRANSLATED
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_examples_of(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUERN_MODEL", "tiny")
    monkeypatch.setenv("QUERN_RERANK_MODEL", "tiny")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    names = {"__name__": "__main__"}
    for line, language, code in blocks(page):
        if page == ROOT / "README.md":
            names = {"__name__": "__main__"}
        if language == "console":
            run_console(code, f"{page}:{line}")
        else:
            # the newlines make a traceback show the line of the page
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of(page):
    for link in _LINK.findall(_ANY_BLOCK.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{page}: {link} names no heading"


@pytest.mark.soak
@pytest.mark.parametrize("page", ["langchain.md", "llamaindex.md"])
def test_a_page_runs_after_its_install_lines_in_a_clean_environment(page, tmp_path):
    """Builds the packages from a copy of the tree, as the line on the page says."""
    text = (ROOT / "docs" / page).read_text()
    [install] = re.findall(r"^```sh\n(pip install .*?)^```$", text, re.MULTILINE | re.DOTALL)
    code = "".join(block for _, language, block in blocks(ROOT / "docs" / page))
    copy = tmp_path / "clone"
    shutil.copytree(ROOT / "packages", copy / "packages")
    environment = Environment(tmp_path)
    environment.run(install, copy)
    environment.run_offline(code)


def test_contributing_lists_every_module():
    modules = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("packages/*/src/**/*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert listed_modules(ROOT / "CONTRIBUTING.md") == modules


@pytest.mark.parametrize("page", MOST_LINES)
def test_short_pages_stay_short(page):
    assert len((ROOT / page).read_text().splitlines()) <= MOST_LINES[page]


def test_console_blocks_are_split_into_commands_and_what_they_print():
    code = "$ quern embed in.txt \\\n    --dimensions 64\nprinted\n$ ls\n"
    assert commands(code) == ["quern embed in.txt \\", "    --dimensions 64", "ls"]
