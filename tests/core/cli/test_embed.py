import datetime
import gzip
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone import Embedder
from quernstone.types import TEXT_FIELDS

TEXTS = ["a hand mill", "rain", "", "Grain and water make bread."]


@pytest.fixture
def expected(embedding_model):
    with Embedder(embedding_model) as embedder:
        return embedder.embed_documents(TEXTS)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(
        b"\n".join(orjson.dumps({"id": n, "content": text}) for n, text in enumerate(TEXTS))
    )
    return path


def vectors_of(output):
    return np.array([orjson.loads(line)["embedding"] for line in output.splitlines()])


def test_lines_to_jsonl_on_standard_output(quern, lines, expected):
    done = quern("embed", lines)
    assert done.exit_code == 0
    assert [orjson.loads(line)["text"] for line in done.stdout.splitlines()] == TEXTS
    np.testing.assert_allclose(vectors_of(done.stdout), expected, atol=1e-6)
    assert done.stderr == ""


def test_rows_come_out_as_they_went_in(quern, rows, expected, tmp_path):
    done = quern("embed", rows, "--output", tmp_path / "out.jsonl")
    assert (done.exit_code, done.output) == (0, "")
    written = (tmp_path / "out.jsonl").read_text()
    first = orjson.loads(written.splitlines()[0])
    assert list(first) == ["id", "content", "embedding"]
    np.testing.assert_allclose(vectors_of(written), expected, atol=1e-6)


def test_the_text_is_found_in_the_fields_that_load_takes(quern):
    for field in TEXT_FIELDS:
        done = quern("embed", "-", stdin=orjson.dumps({"name": "x", field: "a hand mill"}))
        assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("layout", ["parquet", "csv"])
def test_tables_as_load_takes_them(quern, expected, tmp_path, layout):
    titles = ["a hand mill", "rain"]
    columns = {"title": titles, "year": [1, 2], "day": [datetime.date(2026, 1, 2)] * 2}
    options = ["--text-template", "{title}"]
    if layout == "parquet":
        pq.write_table(pa.table({**columns, "raw": [b"x", b"y"]}), tmp_path / "in.parquet")
        piped = quern("embed", "-", *options, stdin=(tmp_path / "in.parquet").read_bytes())
        assert list(orjson.loads(piped.stdout.splitlines()[0]).items())[1:4] == [
            ("year", 1), ("day", "2026-01-02"), ("raw", "eA==")
        ]  # fmt: skip
    else:
        text = "title;year;size, mm\n" + "".join(f"{title};1;2\n" for title in titles)
        (tmp_path / "in.csv.gz").write_bytes(gzip.compress(text.encode()))
        options = ["--text-field", "title", "--output", tmp_path / "out.jsonl"]
        done = quern("embed", tmp_path / "in.csv.gz", *options)
        assert done.exit_code == 0, done.stderr
        piped = SimpleNamespace(stdout=(tmp_path / "out.jsonl").read_text())
    np.testing.assert_allclose(vectors_of(piped.stdout), expected[:2], atol=1e-6)


def test_npy(quern, rows, expected, tmp_path):
    assert quern("embed", rows, "-o", tmp_path / "out.npy").exit_code == 0
    read = np.load(tmp_path / "out.npy")
    assert (read.dtype, read.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(read, expected, atol=1e-6)


def test_parquet(quern, rows, expected, tmp_path):
    assert quern("embed", rows, "-o", tmp_path / "a.parquet").exit_code == 0
    assert pq.read_schema(tmp_path / "a.parquet").names == ["text", "embedding"]
    done = quern("embed", rows, "-o", tmp_path / "b.parquet", "--id-field", "id")
    assert done.exit_code == 0
    table = pq.read_table(tmp_path / "b.parquet")
    assert table["id"].to_pylist() == ["0", "1", "2", "3"]
    assert table["text"].to_pylist() == TEXTS
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["npy", "parquet", "jsonl"])
def test_no_rows_are_an_empty_file(quern, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    assert quern("embed", "-", "-o", output, "--dimensions", 32, stdin=b"").exit_code == 0
    if suffix == "npy":
        assert np.load(output).shape == (0, 32)
    elif suffix == "parquet":
        assert pq.read_table(output).num_rows == 0
    else:
        assert output.read_bytes() == b""


def test_many_rows_through_a_pipe_keep_their_order(quern, tmp_path, embedding_model):
    texts = [f"text number {n}" for n in range(1500)]
    done = quern("embed", "-", "-o", tmp_path / "out.npy", stdin="\n".join(texts))
    assert done.exit_code == 0
    with Embedder(embedding_model) as embedder:
        expected = embedder.embed_documents(texts)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


def test_standard_input_is_jsonl_when_it_begins_with_a_brace(quern, rows, expected):
    done = quern("embed", "-", stdin=b"\xef\xbb\xbf" + rows.read_bytes())
    np.testing.assert_allclose(vectors_of(done.stdout), expected, atol=1e-6)
    as_lines = quern("embed", "-", "--input-format", "lines", stdin='{"text": "x"}\n')
    assert orjson.loads(as_lines.stdout)["text"] == '{"text": "x"}'


def test_queries_with_an_instruction_and_dimensions(quern, lines, embedding_model):
    arguments = ("--queries", "--instruction", "Find mills", "--dimensions", 48)
    done = quern("embed", lines, *arguments)
    with Embedder(embedding_model, dimensions=48) as embedder:
        expected = embedder.embed_queries(TEXTS, "Find mills")
    np.testing.assert_allclose(vectors_of(done.stdout), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": ', "row 2: is not valid JSON: "),
        (b"[1]", "row 2: is not a JSON object but list"),
        (
            b'{"name": "x"}',
            "row 2: no field `text`; the fields are `name`",
        ),
        (b'{"text": 7}', "row 2: `text` is int, not a string"),
        (b'{"text": "\xff"}', "row 2: is not valid JSON: "),
        (b'{"text": "\\ud800"}', "row 2: is not valid JSON: "),
    ],
)
def test_a_bad_row_is_named_and_leaves_no_file(quern, tmp_path, line, reason):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    done = quern("embed", source, "-o", tmp_path / "out.npy")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"quern: {source}, {reason}")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_bytes_that_are_no_text(quern):
    done = quern("embed", "-", stdin=b"good\ncaf\xe9\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "quern: standard input, row 2: is not valid UTF-8: invalid continuation byte at byte 3\n"
    )


def test_a_missing_id_and_a_missing_field(quern, rows):
    assert (
        "row 1: no field `key`; the fields are `id`, `content`"
        in quern("embed", rows, "--id-field", "key").stderr
    )
    done = quern("embed", rows, "--text-field", "body")
    assert "row 1: no column `body` for the text; the columns are `id`, `content`" in done.stderr
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.txt"], "INPUT gone.txt: no such file"),
        (["-", "-o", "out.csv"], "unknown extension; use .jsonl, .ndjson, .npy, .parquet, or -"),
        (["-", "-o", "no/folder/out.npy"], "the folder `no/folder` does not exist"),
        (["-", "--input-format", "xml"], "unknown input format 'xml'"),
        (["-", "--dimensions", "7"], "--dimensions is 7; this model gives 32 to 64"),
        (["-", "--dtype", "int3"], "'int3'"),
        (["-", "--engine", "steam"], "'steam'"),
        (["-", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_usage_is_2(quern, arguments, message):
    done = quern("embed", *arguments)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr


def test_a_folder_that_is_no_model_is_1(quern, tmp_path):
    done = quern("embed", "-", "--model", tmp_path)
    assert done.exit_code == 1
    assert str(tmp_path) in done.stderr


def test_process(quern_process, lines, expected, tmp_path):
    done = quern_process("embed", "-", "--output", tmp_path / "o.npy", stdin=lines.read_bytes())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, atol=1e-6)

    piped = quern_process("embed", lines)
    np.testing.assert_allclose(vectors_of(io.BytesIO(piped.stdout).read()), expected, atol=1e-6)

    bad = quern_process("embed", "-", stdin=b"\xff\n")
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert b"Traceback" not in bad.stderr


def test_a_closed_pipe_ends_it_quietly(models, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("text\n" * 3000)
    main = [sys.executable, "-c", "from quernstone.cli import main; main()"]
    embed = subprocess.Popen(
        [*main, "embed", str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert embed.stdout.readline().startswith(b'{"text":"text"')
    embed.stdout.close()
    assert embed.stderr.read() == b""
    embed.stderr.close()
    assert embed.wait(timeout=60) == 141


def test_progress_is_shown_on_a_terminal_only(models, lines, tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    main = [sys.executable, "-c", "from quernstone.cli import main; main()"]
    output = tmp_path / "out.jsonl"
    with subprocess.Popen([*main, "embed", str(lines), "-o", str(output)], stderr=theirs) as embed:
        os.close(theirs)
        shown = b""
        while True:
            try:
                some = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end of a terminal is closed
                break
            if not some:
                break
            shown += some
    os.close(ours)
    assert embed.returncode == 0
    assert b"embedding" in shown
    assert len(output.read_bytes().splitlines()) == len(TEXTS)
