"""Write docs/llms.txt: the pages of the site with a sentence on each, for language models.

The order and the titles are those of `nav` in mkdocs.yml, and the sentence is the page's first.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_PARAGRAPH = re.compile(
    r"^(?!#|---|```|<!--|\||- |title:|hide:|English \||\[English\])\S.*(?:\n\S.*)*", re.MULTILINE
)
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without importing what its tags name."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *tag: tag[1])


def configuration() -> dict[str, Any]:
    """Return what mkdocs.yml says."""
    return yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def pages(nav: list[Any] | str, title: str = "") -> Iterator[tuple[str, str]]:
    """Yield (title, path) of each page of a navigation, in order."""
    if isinstance(nav, str):
        yield title, nav
        return
    for entry in nav:
        for name, below in entry.items():
            yield from pages(below, name)


def first_sentence(text: str) -> str:
    """Return the first sentence of a page in Markdown, without links; empty if it has no text."""
    paragraph = _PARAGRAPH.search(_CODE.sub("", text))
    if not paragraph:
        return ""
    words = " ".join(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", paragraph[0]).split())
    return re.split(r"(?<=[.:!?。])(?:\s|$)|(?<=。)", words, maxsplit=1)[0].rstrip(":：")


def render() -> str:
    """Return llms.txt."""
    settings = configuration()
    lines = [f"# {settings['site_name']}", "", f"> {settings['site_description']}", ""]
    for section in settings["nav"]:
        [(name, below)] = section.items()
        found = [(title, path) for title, path in pages(below, name) if _is_in_docs(path)]
        if not found:
            continue
        lines += [f"## {name}", ""]
        for title, path in found:
            sentence = first_sentence((ROOT / "docs" / path).read_text())
            lines.append(f"- [{title}]({path})" + (f": {sentence}" if sentence else ""))
        lines.append("")
    return "\n".join(lines)


def _is_in_docs(path: str) -> bool:
    return not path.startswith("repository/")


if __name__ == "__main__":
    (ROOT / "docs" / "llms.txt").write_text(render())
