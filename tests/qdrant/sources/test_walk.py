import os
import socket

import pytest

from quernstone_qdrant import QdrantLoader, SourceError, read_paths
from quernstone_qdrant.sources import EXCLUDED, ReadOptions


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(*paths, **options):
    """Return the keys of the records, the errors, and the counts of files."""
    records = read_paths(paths, options=ReadOptions(**options))
    found = list(records)
    files = records.files
    assert files.found == files.loaded + files.failed + sum(files.skipped.values())
    errors = [str(item) for item in found if isinstance(item, SourceError)]
    return [item.key for item in found if not isinstance(item, SourceError)], errors, files


def test_every_entry_is_counted_by_its_reason(tmp_path):
    write(
        tmp_path,
        {
            "a.txt": "good",
            "a.zip": "x", "b.ZIP": "x", "c.png": "x", "Makefile": "x",
            ".git/config": "x", ".env": "x",
            "empty.txt": "", "blank.md": " \n", "bom.txt": "\ufeff", "empty.csv": "",
            "header.csv": "text\n", "empty.jsonl": "\n\n",
            "node_modules/a/index.md": "x", "deep/venv/b.txt": "x", "build/c.txt": "x",
            "bad.txt": b"\xff", "rows.jsonl": '{"text": "a"}\n{\n', "worse.jsonl": "{\n",
        },
    )  # fmt: skip
    keys, errors, files = read(tmp_path)
    assert keys == ["a.txt", "rows.jsonl#1"]
    assert len(errors) == 3
    assert (files.loaded, files.failed, files.unfollowed) == (2, 2, ())
    assert files.skipped == {
        ".zip": 2, ".png": 1, "without a suffix": 1, "hidden": 2, "empty": 6,
        "node_modules (excluded)": 1, "venv (excluded)": 1, "build (excluded)": 1,
    }  # fmt: skip


def test_patterns_that_exclude(tmp_path):
    names = ["a.log.txt", "b.txt", "drafts/c.txt", "old/drafts/d.txt", "2019/e.txt", "2019/f.md",
             "x/2019/g.txt", "drafts.txt", "dist/h.txt"]  # fmt: skip
    write(tmp_path, dict.fromkeys(names, "text"))
    everything = sorted(names)
    for pattern, skipped in [
        ("*.log.txt", {"a.log.txt"}),
        ("drafts/", {"drafts/c.txt", "old/drafts/d.txt"}),
        ("drafts*", {"drafts/c.txt", "old/drafts/d.txt", "drafts.txt"}),
        ("2019/*.txt", {"2019/e.txt"}),
        ("old/drafts", {"old/drafts/d.txt"}),
        ("[", set()),
    ]:
        keys, _, files = read(tmp_path, exclude=[pattern])
        assert sorted(keys) == [name for name in everything if name not in skipped]
        assert bool(files.skipped) == bool(skipped)
    keys, _, files = read(tmp_path, exclude=[*EXCLUDED, "drafts"])
    assert files.skipped == {"dist (excluded)": 1, "drafts (excluded)": 2}
    assert read(tmp_path / "dist")[0] == ["h.txt"], "a folder that is named is always read"


@pytest.mark.timeout(20)
def test_pipes_and_sockets_in_a_folder_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("a.txt")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jsonl")
        keys, errors, files = read(tmp_path)
    assert (keys, errors, files.skipped) == ([], [], {"pipe, socket or device": 3})


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    write(root, {"a/x.txt": "x", "b/y.txt": "y"})
    write(other, {"z.txt": "z", "deep/w.txt": "w"})
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (root / "link").symlink_to(other)
    (other / "back").symlink_to(root)
    (root / "file.txt").symlink_to(other / "z.txt")
    (root / "gone").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    keys, errors, files = read(root)
    assert keys == ["a/x.txt", "b/y.txt", "file.txt", "link/deep/w.txt", "link/z.txt"]
    assert errors == []
    assert files.skipped == {"link in a circle": 3, "broken link": 2}
    assert files.unfollowed == ("a/self", "a/up", "gone", "link/back", "loop")


@pytest.mark.parametrize("replacement", ["link", "broken", "circle"])
def test_a_folder_that_became_a_link_keeps_its_documents(
    client, embedder, stored, tmp_path, replacement
):
    root = tmp_path / "root"
    write(root, {"a/x.txt": "x", "b.txt": "b"})
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(read_paths(root))
    (root / "a").rename(tmp_path / "moved")
    (root / "a").symlink_to({"link": "../moved", "broken": "../gone", "circle": "."}[replacement])
    report = loader.load(read_paths(root), prune=True)
    assert (report.embedded, report.pruned, len(stored(client, "docs"))) == (0, 0, 2)
    assert report.files.unfollowed == (() if replacement == "link" else ("a",))
    options = ReadOptions(exclude=["a"])
    assert loader.load(read_paths(root, options=options), prune=True).pruned == 1


def test_a_name_that_is_not_utf8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("text")
    keys, (error,), files = read(tmp_path)
    assert keys == []
    assert "caf\ufffd.txt: its name is not valid UTF-8; rename the file" in error
    assert files.failed == 1
