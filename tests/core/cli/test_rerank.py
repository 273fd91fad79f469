import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone import Reranker

DOCUMENTS = ["a hand mill", "rain", "bread of grain", "rain"]


@pytest.fixture
def expected(reranking_model):
    with Reranker(reranking_model) as reranker:
        return [
            {"index": found.index, "score": pytest.approx(found.score, abs=1e-6)}
            for found in reranker.rerank("mills", DOCUMENTS)
        ]


def jsonl(*rows):
    return b"\n".join(map(orjson.dumps, rows))


def test_rows(quern, expected, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        jsonl(
            {"id": 7, "query": "mills", "documents": DOCUMENTS},
            {"query": "nothing", "documents": []},
            {"query": "mills", "documents": [{"body": text} for text in DOCUMENTS]},
        )
    )
    done = quern("rerank", source, "--output", tmp_path / "out.jsonl", "--text-field", "body")
    assert (done.exit_code, done.output) == (0, "")
    first, second, third = map(orjson.loads, (tmp_path / "out.jsonl").read_bytes().splitlines())
    assert first == {"id": 7, "query": "mills", "results": expected}
    assert second == {"query": "nothing", "results": []}
    assert third["results"] == expected


def test_lines_with_a_query(quern, expected):
    done = quern("rerank", "-", "-q", "mills", "-n", 2, "--with-text", stdin="\n".join(DOCUMENTS))
    row = orjson.loads(done.stdout)
    assert row["query"] == "mills"
    assert row["results"] == [{**r, "text": DOCUMENTS[r["index"]]} for r in expected[:2]]


def test_parquet(quern, expected, tmp_path):
    rows = pa.table({"query": ["mills"], "documents": [DOCUMENTS]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    done = quern("rerank", tmp_path / "rows.parquet")
    assert orjson.loads(done.stdout)["results"] == expected
    pq.write_table(pa.table({"title": DOCUMENTS}), tmp_path / "documents.parquet")
    done = quern("rerank", tmp_path / "documents.parquet", "--query", "mills")
    assert orjson.loads(done.stdout)["results"] == expected


def test_template(quern, reranking_model):
    stdin = "\n".join(DOCUMENTS)
    done = quern("rerank", "-", "-q", "mills", "--template", "eval", stdin=stdin)
    with Reranker(reranking_model, template="eval") as reranker:
        expected = {one.index: one.score for one in reranker.rerank("mills", DOCUMENTS)}
    results = orjson.loads(done.stdout)["results"]
    assert {one["index"]: one["score"] for one in results} == pytest.approx(expected, abs=1e-6)
    wrong = quern("rerank", "-", "-q", "mills", "--template", "mine", stdin=stdin)
    assert wrong.exit_code == 2
    assert "unknown template 'mine'; use 'card' or 'eval'" in wrong.stderr


def test_groups_of_rows_stay_in_order(quern, monkeypatch):
    rows = [{"query": f"q{n}", "documents": DOCUMENTS[: n % 4]} for n in range(20)]
    whole = quern("rerank", "-", stdin=jsonl(*rows)).stdout
    monkeypatch.setattr("quernstone.cli.rerank._PAIRS", 3)
    small = quern("rerank", "-", stdin=jsonl(*rows)).stdout
    assert [orjson.loads(line)["query"] for line in small.splitlines()] == [
        r["query"] for r in rows
    ]
    for one, other in zip(whole.splitlines(), small.splitlines(), strict=True):
        one_row, other_row = orjson.loads(one), orjson.loads(other)
        assert [r["index"] for r in one_row["results"]] == [
            r["index"] for r in other_row["results"]
        ]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b'{"query": "q"}', "row 1: expected a string `query` and a list `documents`"),
        (b'{"query": 1, "documents": []}', "row 1: expected a string `query`"),
        (
            b'{"query": "q", "documents": [7]}',
            "row 1: expected a string or an object as document, got int",
        ),
        (b'{"query": "q", "documents": [{"a": 1}]}', "row 1: no text column (`text`, "),
        (b'{"query": "q", "documents": []}\n{', "row 2: is not valid JSON"),
        (b"plain text", "row 1: expected a string `query`"),
    ],
)
def test_bad_rows(quern, stdin, message):
    done = quern("rerank", "-", stdin=stdin)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"quern: standard input, {message}")
    assert done.stderr.count("\n") == 1


def test_wrong_usage_is_2(quern):
    assert quern("rerank", "gone.jsonl").exit_code == 2
    assert quern("rerank", "-", "--top-n", "0").exit_code == 2
    assert quern("rerank", "-", "-o", "no/folder/o.jsonl").exit_code == 2


def test_process(quern_process, expected):
    done = quern_process("rerank", "-", stdin=jsonl({"query": "mills", "documents": DOCUMENTS}))
    assert (done.returncode, done.stderr) == (0, b"")
    assert orjson.loads(done.stdout)["results"] == expected
