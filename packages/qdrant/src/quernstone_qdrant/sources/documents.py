"""Read PDF, HTML, office documents and e-books, with kreuzberg."""

from __future__ import annotations

import codecs
import html
import importlib.util
import re
from pathlib import Path
from typing import Any

from quernstone.errors import MissingExtraError
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.options import ReadOptions

DOCUMENT_SUFFIXES = (".pdf", ".html", ".htm", ".docx", ".pptx", ".xlsx", ".epub")
"""Suffixes of the files that need the extra `documents`."""

_HEAD = re.compile(r"<head\b[^>]*>(.*?)</head\s*>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title\b[^>]*>(.*?)</title\s*>", re.IGNORECASE | re.DOTALL)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_SNIFFED_BYTES = 4096
_PAGE = "\n\n@@quernstone-page {page_num}@@\n\n"  # kreuzberg removes control characters
_MARKED_PAGE = re.compile(r"@@quernstone-page \d+@@")
_GAP = "\n\n"


def can_read_documents() -> bool:
    """Return True if the extra `documents` is installed."""
    return importlib.util.find_spec("kreuzberg") is not None


def read_document(path: Path, source: str, label: str, options: ReadOptions) -> Record | None:
    """Return a document as one record, with its title and the start of each page.

    PDFs are read page by page as text. Slides, sheets and the other formats become Markdown, with
    slides as pages. Nothing is recognized in images.

    Args:
        path: The file.
        source: Its key.
        label: `Record.source`.
        options: `encoding` is that of HTML files that declare none.

    Returns:
        None if it has no text, such as a scan.

    Raises:
        SourceError: The file is damaged, encrypted or in another encoding.
        MissingExtraError: kreuzberg is not installed.
        OSError: The file cannot be opened.
    """
    try:
        import kreuzberg  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("kreuzberg", "documents", "quernstone-qdrant") from error
    suffix, data = path.suffix.lower(), path.read_bytes()
    title = None
    if suffix in (".html", ".htm"):
        title, data = _body(data, path, options.encoding)
    settings = kreuzberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,  # type: ignore[call-arg]  # missing in its stub
        output_format="markdown",
        pages=kreuzberg.PageConfig(
            extract_pages=suffix == ".pdf",
            insert_page_markers=suffix == ".pptx",
            marker_format=_PAGE,
        ),
    )
    try:
        kind = kreuzberg.detect_mime_type_from_path(path)
        found = kreuzberg.extract_bytes_sync(data, kind, settings)
    except BaseException as error:
        # A panic of its Rust code must not end a load that skips damaged files.
        panicked = type(error).__name__ == "PanicException"
        if not (panicked or isinstance(error, kreuzberg.KreuzbergError)):
            raise
        reason = " ".join(str(error).split())
        raise SourceError(str(path), f"cannot be read as {suffix}: {reason}") from error
    pages = _pages(found, suffix)
    text = _GAP.join(pages)
    if not text.strip():
        return None
    metadata: dict[str, Any] = {"source": source}
    title = title or found.metadata.get("title")
    if title:
        metadata["title"] = " ".join(title.split())
    starts, start = [], 0
    for page in pages:
        starts.append(start)
        start += len(page) + len(_GAP)
    return Record(
        options.named(source),
        text,
        metadata,
        "text" if suffix == ".pdf" else "markdown",
        options.named(label),
        pages=tuple(starts) if suffix in (".pdf", ".pptx") else (),
    )


def _pages(found: Any, suffix: str) -> list[str]:
    if suffix == ".pdf":
        return [page["content"].replace("\r\n", "\n").strip() for page in found.pages or ()]
    before, *slides = _MARKED_PAGE.split(found.content)
    return [slide.strip() for slide in slides] if slides else [before.strip()]


def _body(data: bytes, path: Path, encoding: str) -> tuple[str | None, bytes]:
    """Return the title of an HTML page, and the page in UTF-8 without its head.

    kreuzberg takes every page for UTF-8, and would put the head's metadata into the text.
    """
    declared = _CHARSET.search(data[:_SNIFFED_BYTES])
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif encoding == "utf-8" and declared:
        encoding = declared[1].decode("ascii")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError) as error:
        raise SourceError(
            str(path),
            f"is not valid {encoding.upper()} ({error}): convert the file, or pass its encoding, "
            "such as --encoding cp1252",
        ) from error
    head = _HEAD.search(text)
    title = _TITLE.search(head[1] if head else "")
    body = text if head is None else text[: head.start()] + text[head.end() :]
    return html.unescape(title[1]) if title else None, body.encode()
