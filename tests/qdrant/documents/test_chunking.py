import time

import pytest

from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.records import Record

MARKDOWN = """\
intro

# Mills

Stone turns on stone.

## Hand mills

```python
# no heading
```

A quern is one. #

### Parts ###

Handle and stone.

# Bread

Grain and water.
"""


def test_short_text_is_one_chunk_without_its_margins():
    chunks = list(Chunker().split(Record("k", "\n  a text \n")))
    assert [(c.number, c.text, c.start, c.last) for c in chunks] == [(0, "a text", 3, True)]


@pytest.mark.parametrize("size", [None, 10])
def test_white_space_has_no_chunks(size):
    assert list(Chunker(size, 0).split(Record("k", " \n\t" * 30))) == []


def test_chunks_are_numbered_parts_of_the_text():
    text = "\n\n".join(f"Paragraph {n}. " + "word " * 30 for n in range(50))
    chunks = list(Chunker(400, 50).split(Record("k", text)))
    assert [c.number for c in chunks] == list(range(len(chunks)))
    assert [c.last for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(c.text) <= 400 for c in chunks)
    assert all(text[c.start : c.start + len(c.text)] == c.text for c in chunks)
    assert all(f"Paragraph {n}." in "".join(c.text for c in chunks) for n in range(50))


def test_no_chunking():
    text = "word " * 10_000
    assert [c.text for c in Chunker(None).split(Record("k", text))] == [text.strip()]


def test_markdown_keeps_the_headings_above():
    chunks = list(Chunker(40, 0).split(Record("k", MARKDOWN, format="markdown")))
    above = {
        sign: next(c.headings for c in chunks if sign in c.text)
        for sign in ("intro", "Stone turns", "A quern", "Handle", "Grain")
    }
    assert above == {
        "intro": (),
        "Stone turns": ("Mills",),
        "A quern": ("Mills", "Hand mills"),
        "Handle": ("Mills", "Hand mills", "Parts"),
        "Grain": ("Bread",),
    }
    assert {c.headings for c in Chunker(60, 0).split(Record("k", MARKDOWN))} == {()}


def test_headings_end_where_markdown_ends_them():
    text = "# C#\n\none\n\n# Closed ##\n\ntwo\n\n#\n\n#hash\n\n# F# and C# \n\nthree"
    chunks = list(Chunker(12, 0).split(Record("k", text, format="markdown")))
    above = {sign: c.headings for c in chunks for sign in ("one", "two", "three") if sign in c.text}
    assert above == {"one": ("C#",), "two": ("Closed",), "three": ("F# and C#",)}


@pytest.mark.parametrize("line", ["# a" + " " * 200_000 + "b", "# " + "#" * 200_000 + "b"])
def test_a_heading_without_end_takes_no_time(line):
    started = time.process_time()
    (chunk,) = Chunker(300_000, 0).split(Record("k", f"{line}\n\ntext", format="markdown"))
    assert time.process_time() - started < 10  # it was a quarter of an hour
    assert chunk.headings[0][-1] == "b"


@pytest.mark.parametrize("unit", ["a", "word ", "line\n", "é\u0301"])
def test_two_megabytes_without_a_paragraph_take_seconds_and_lose_nothing(unit):
    text = unit * (2_000_000 // len(unit))
    started = time.process_time()
    chunks = list(Chunker(1200, 0).split(Record("k", text)))
    assert time.process_time() - started < 10
    assert "".join("".join(c.text for c in chunks).split()) == "".join(text.split())
    assert max(len(c.text) for c in chunks) <= 1200
