"""A folder as people have them: every file is accounted for."""

import os

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.documents import write_documents

from quernstone_qdrant import read_paths

BOM = b"\xef\xbb\xbf"
FILES = {
    "bom.csv": BOM + "text,n\nMühle,1\n".encode(),
    "semicolons.csv": b"text;n\nmill;1\n",
    "cp1252.csv": "text,n\nMühle,1\ngood,2\n".encode("cp1252"),
    "all-bad.csv": b"text\n\xff\n",
    "tabs.tsv": b"text\tn\nmill\t1\n",
    "stray.csv": b'text,n\n"open,1\ngood,2\n',
    "header.csv": b"text,n\n",
    "no-text.csv": b"price\n5\n",
    "empty.csv": b"", "empty.txt": b"", "empty.md": b" \n", "empty.jsonl": b"\n",
    "rows.jsonl": b'{"text": "a"}\n{"text": NaN}\n{"text": "b", "x": NaN}\n',
    "broken.jsonl": b"{\n", "list.ndjson": b"[1]\n", "good.ndjson": b'{"body": "x"}\n',
    "damaged.parquet": b"PAR1 no Parquet", "utf16.txt": "mill".encode("utf-16"),
    "cp1252.md": "Mühle".encode("cp1252"), "README.md": b"# Mills\n\nText.",
    "notes.rst": b"Notes", "UPPER.TXT": b"upper",
    "الرحى.txt": "الرحى تطحن القمح.".encode(), "石磨.md": "石磨把谷物磨成面粉。".encode(),
    "with space.txt": b"space", "emoji 🍞.txt": "🍞".encode(),
    "huge.txt": b"A quern is a hand mill. " * 100_000,
    "deep/er/than/this/file.txt": b"deep", "a.png": b"\x89PNG", "b.PDF": b"%PDF", "c.docx": b"PK",
    "Makefile": b"all:", ".hidden.txt": b"x", ".git/config": b"x", "node_modules/x.md": b"x",
    "build/y.md": b"x", "drafts/z.md": b"x",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_documents(folder / "deep")
    pq.write_table(pa.table({"text": ["a", "b"]}), folder / "rows.parquet")
    os.mkfifo(folder / "pipe.txt")
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked.txt").write_text("linked")
    (other / "back").symlink_to(folder)
    (folder / "deep" / "link").symlink_to(other)
    (folder / "deep" / "circle").symlink_to(folder)
    (folder / "gone").symlink_to("nowhere")
    return folder


@pytest.mark.timeout(60)
def test_loaded_and_skipped_and_failed_are_all_that_was_found(quern, folder):
    arguments = ("-c", "docs", "--skip-errors", "--exclude", "drafts", "--chunk-size", 100_000)
    done = quern("load", folder, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    report = orjson.loads(done.stdout)
    files = report["files"]
    assert files["found"] == files["loaded"] + files["failed"] + sum(files["skipped"].values())
    assert (files["found"], files["loaded"], files["failed"]) == (49, 24, 9)
    assert files["skipped"] == {
        ".png": 1, "without a suffix": 1, "hidden": 2, "empty": 5,
        "node_modules (excluded)": 1, "build (excluded)": 1, "drafts (excluded)": 1,
        "pipe, socket or device": 1, "link in a circle": 2, "broken link": 1,
    }  # fmt: skip
    assert files["values"] == {"NaN or Infinity, stored as null": 2}
    records = [item for item in read_paths(folder) if not isinstance(item, Exception)]
    assert report["seen"] == len(records) - 1  # but not the draft
    assert report["failed"] > files["failed"]
    assert f"left out: 2 more, {report['failed']} in total" in done.stderr
    assert done.stderr.count("left out: /") == report["failed"] - 2
