"""Check the links of a built site, within it, and that it loads nothing from elsewhere."""

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The anchors of a page, and its (tag, address) pairs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names and where it leads."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.addresses += [(tag, given[name]) for name in ("href", "src") if name in given]


def faults(site: Path) -> list[str]:
    """Return a line for each broken link or anchor, and for each file loaded from elsewhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        # the server answers 404.html at any address: its links are absolute
        for tag, address in page.addresses if path.name != "404.html" else []:
            parts = urlsplit(address)
            where = f"{path.relative_to(site)}: {address}"
            if parts.scheme or parts.netloc:
                if tag != "a":
                    found.append(f"{where} is loaded from elsewhere")
                continue
            target = path
            if parts.path:
                target = Path(os.path.normpath(path.parent / unquote(parts.path)))
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{where} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors | {""}:
                found.append(f"{where} names no anchor")
    return found
