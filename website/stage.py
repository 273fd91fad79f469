"""Copy docs/ to where the site is built from, with links that stay within the site.

A page of docs/ may link to files elsewhere in the repository, as GitHub allows. Markdown files that
are linked become pages below `repository/`, and so do other text files, with their code
highlighted. A link to the README leads to the home page.
"""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pygments.lexers import find_lexer_class_for_filename

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOT_PUBLISHED = ("capabilities", "listings")  # folders of docs/ that are for other readers

_LINK = re.compile(r"(\]\()((?!\w+:)[^)#\s]+)((?:#[^)\s]*)?\))")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)  # links there are text


def stage(target: Path, listed: Iterable[str]) -> None:
    """Write the pages and files of the site to the folder `target`, which is emptied first.

    Args:
        target: The folder.
        listed: The paths of the pages in the navigation.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DOCS, target, ignore=shutil.ignore_patterns(*NOT_PUBLISHED))
    pages = [DOCS / page.relative_to(target) for page in target.rglob("*.md")]
    pages += [ROOT / page.removeprefix("repository/") for page in listed if "repository/" in page]
    seen = set(pages)
    while pages:
        page = pages.pop()
        text = page.read_text()
        linked = {_target(page, link) for _, link, _ in _LINK.findall(_CODE.sub("", text))}
        new = {path for path in linked if path.is_file() and not path.is_relative_to(DOCS)} - seen
        seen |= new
        pages += [path for path in new if path.suffix == ".md" and path != ROOT / "README.md"]
        _write(target / published(page), _with_links(text, page))
        for path in new:
            if path.suffix == ".ipynb":
                _write(target / published(path), path.read_text())
            elif path.suffix != ".md":
                _write(target / published(path), _as_page(path))


def published(path: Path) -> PurePosixPath:
    """Return where the site has a file of the repository, relative to its own root."""
    if path == ROOT / "README.md":
        return PurePosixPath("index.md")
    if path.is_relative_to(DOCS):
        return PurePosixPath(path.relative_to(DOCS))
    uri = PurePosixPath("repository", path.relative_to(ROOT))
    return uri if path.suffix in (".md", ".ipynb") else uri.with_name(uri.name + ".md")


def _target(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _with_links(text: str, page: Path) -> str:
    start = published(page).parent

    def rewritten(link: re.Match[str]) -> str:
        path = _target(page, link[2])
        if not path.is_file():
            return link[0]  # the build reports it
        return f"{link[1]}{os.path.relpath(published(path), start)}{link[3]}"

    pieces, end = [], 0
    for code in _CODE.finditer(text):
        pieces += [_LINK.sub(rewritten, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _LINK.sub(rewritten, text[end:])])


def _as_page(path: Path) -> str:
    lexer = find_lexer_class_for_filename(path.name)
    code = f"````{lexer.aliases[0] if lexer else 'text'}\n{path.read_text()}````\n"
    return f"# {path.relative_to(ROOT)}\n\n{code}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
