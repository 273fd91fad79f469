"""`quern search`."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from tests.support.qdrant_server import running_server

from quernstone import Embedder
from quernstone.errors import InputError


def test_ranges_and_misspelled_fields_of_filters(quern, docs):
    (docs / "rows.csv").write_text("text,unit price\nbarley,5\nwheat,15\n")
    quern("load", docs, "-c", "docs", "--types", "unit price=int", "--index", "unit price=integer")
    options = ("-c", "docs", "--no-rerank", "--json", "--filter")
    found = quern("search", "grain", *options, "unit price>=10")
    assert [hit["text"] for hit in orjson.loads(found.stdout)] == ["wheat"]
    none = quern("search", "grain", *options, "unit prize>=10")
    assert (none.exit_code, orjson.loads(none.stdout)) == (0, [])
    assert "no document has the field 'unit prize' of --filter" in none.stderr
    assert quern("search", "grain", *options, "unit price>99").stderr == ""


def test_search_prints_a_table_with_the_first_rank(quern, docs):
    quern("load", docs, "-c", "docs")
    done = quern("search", "what grinds grain?", "-c", "docs", "-n", 3)
    assert (done.exit_code, done.stderr) == (0, "")
    for head in ("what grinds grain?", "rank", "was", "P(yes)", "cosine", "source"):
        assert head in done.stdout
    dense = quern("search", "what grinds grain?", "-c", "docs", "--no-rerank")
    assert "was" not in dense.stdout
    assert "b.md › Bread" in dense.stdout
    assert "c.jsonl#2" in dense.stdout


def test_search_as_json_is_reranked_and_remembers_the_model(quern, docs, monkeypatch, tmp_path):
    quern("load", docs, "-c", "docs", "--dimensions", 48)
    monkeypatch.delenv("QUERN_MODEL")
    done = quern("search", "mills", "-c", "docs", "--json", "-n", 4)
    hits = orjson.loads(done.stdout)
    assert sorted(hit["retrieval_rank"] for hit in hits) == [1, 2, 3, 4]
    scores = [hit["rerank_score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert {hit["key"] for hit in hits} == {"a.txt", "deep/b.md", "c.jsonl#1", "c.jsonl#2"}


def test_a_collection_of_ones_own_is_searched_by_words_and_filtered(quern, docs):
    options = ("--preset", "mrl", "--prefix", 48, "--layout", "plain", "--hybrid")
    done = quern("load", docs, "-c", "docs", *options, "--index", "source=keyword", "--json")
    assert done.exit_code == 0, done.stderr
    lacks = ["quantization", "vectors on disk", "payload indexes"]
    assert orjson.loads(done.stdout)["ignored"] == lacks
    assert (
        done.stderr
        == f"quern: this target does not support {', '.join(lacks)}; a Qdrant server does\n"
    )
    again = quern("load", docs, "-c", "docs", "--json")  # all of it is remembered
    assert orjson.loads(again.stdout)["skipped"] == 4

    found = quern("search", "snow", "-c", "docs", "--no-rerank", "--json", "-n", 1)
    (hit,) = orjson.loads(found.stdout)
    assert hit["fused_score"] > 1 / 60  # the first by words, and by meaning somewhere
    assert hit["text"] == "Snow falls."
    dense = quern("search", "snow", "-c", "docs", "--no-rerank", "--json", "--no-hybrid")
    assert {hit["fused_score"] for hit in orjson.loads(dense.stdout)} == {None}

    def keys(*filters):
        done = quern("search", "snow", "-c", "docs", "--no-rerank", "--json", *filters)
        return sorted(hit["key"] for hit in orjson.loads(done.stdout))

    assert keys("--filter", "row=2") == ["c.jsonl#2"]
    assert keys("-f", "source=c.jsonl") == ["c.jsonl#1", "c.jsonl#2"]
    assert keys("-f", "source=c.jsonl", "-f", "row=1") == ["c.jsonl#1"]
    assert keys("-f", "source=x") == []


def test_a_search_and_info_survive_an_error_of_the_server(quern, docs):
    with running_server() as server:
        where = ("-c", "docs", "--url", server.url)
        quern("load", docs, *where)
        left = []
        server.chaos = lambda _, path: left.pop() if left and "/collections/docs" in path else None
        for arguments in (["search", "mills", "--no-rerank"], ["collection", "info"]):
            left[:] = ["500"]
            done = quern(*arguments, *where, "--json")
            assert (done.exit_code, left) == (0, []), done.stderr
        left[:] = ["500"]
        done = quern("search", "mills", *where, "--patience", 0)
        assert (done.exit_code, "fault 500" in done.stderr) == (1, True)


def test_hybrid_hits_have_a_column_of_fused_scores_and_can_be_sorted(quern, docs):
    quern("load", docs, "-c", "docs", "--hybrid")
    table = quern("search", "snow falls", "-c", "docs", "--no-rerank")
    assert "fused" in table.stdout
    plain = quern("search", "snow falls", "-c", "docs", "--plain")
    rows = [line.split("\t") for line in plain.stdout.splitlines()]
    assert rows[0] == ["rank", "was", "P(yes)", "fused", "cosine", "source", "text"]
    assert len(rows) == 5
    assert ["c.jsonl#2", "Snow falls."] in [row[-2:] for row in rows]

    def column(key):
        done = quern("search", "snow falls", "-c", "docs", "--json", "--sort", key)
        name = {"was": "retrieval_rank", "rerank": "rerank_score", "cosine": "score"}
        return [hit[name.get(key, "fused_score")] for hit in orjson.loads(done.stdout)]

    assert column("was") == [1, 2, 3, 4]
    for key in ("rerank", "fused", "cosine"):
        assert column(key) == sorted(column(key), reverse=True)
    wrong = quern("search", "snow", "-c", "docs", "--no-hybrid", "--sort", "fused")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "quern: --sort fused needs --hybrid: these hits have no such score\n",
    )
    wrong = quern("search", "snow", "-c", "docs", "--no-rerank", "--sort", "rerank")
    assert "--sort rerank needs --rerank" in wrong.stderr


def test_options_that_choose_and_rank_hits(quern, docs):
    text = " ".join(f"Grain is ground in mill number {n}." for n in range(9))
    rows = [
        {"id": 1, "text": text, "day": "2001-01-01", "views": 5},
        {"id": 2, "text": "Grain and bread.", "day": "2999-01-01", "views": 900},
    ]
    (docs / "long.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    quern("load", docs, "-c", "docs", "--chunk-size", 30)

    def search(*options):
        done = quern("search", "grain mill", "-c", "docs", "--json", "-n", 9, *options)
        assert done.exit_code == 0, done.stderr
        return orjson.loads(done.stdout)

    keys = [hit["key"] for hit in search("--no-rerank", "--per-document", 1)]
    assert len(keys) == len(set(keys)) == 6
    grouped = search("--no-rerank", "--group-by", "views", "--group-size", 2)
    assert sorted(hit["group"] for hit in grouped) == [5, 5, 900]
    assert len(search("--no-rerank", "--diversity", 0.9)) == 9
    popular = search("--no-rerank", "--popularity", "views=10:4")
    assert popular[0]["metadata"]["views"] == 900
    assert popular[0]["boosted_score"] > 3.9
    recent = search("--no-rerank", "--recency", "day=99999y:4")
    assert recent[0]["boosted_score"] > recent[0]["score"] + 3
    formula = '{"sum": ["$score", {"mult": [2, 3]}]}'
    assert search("--no-rerank", "--formula", formula)[0]["boosted_score"] > 6
    assert len(search("--feedback", "1,0.5,0.2,3")) == 9
    table = quern("search", "grain", "-c", "docs", "--plain", "--per-document", 1, "--popularity",
                  "views=10")  # fmt: skip
    assert table.stdout.splitlines()[0].split("\t")[:5] == [
        "rank", "was", "P(yes)", "boosted", "group"
    ]  # fmt: skip


def test_options_that_cannot_be_read(quern, docs):
    quern("load", docs, "-c", "docs")
    for options, message in (
        (("--recency", "day=30"), "has the age '30'; write 12h, 30d or 1y"),
        (("--recency", "day"), "--recency 'day' is not of the form FIELD=SIZE"),
        (("--popularity", "views=many"), "has 'many' where a number belongs"),
        (("--formula", "$score +"), "is not an expression of Qdrant in JSON"),
        (("--formula", "1", "--popularity", "views=1"), "--formula excludes --recency and --popu"),
        (("--feedback", "1,2"), "is not of the form A,B,C or A,B,C,SEEDS"),
        (("--consistency", "most"), "it must be a number of replicas"),
        (("--timeout", 3), "needs a server"),
        (("--feedback", "1,1,1", "--no-rerank"), "needs a reranker"),
    ):
        done = quern("search", "grain", "-c", "docs", *options)
        assert done.exit_code != 0
        assert message in " ".join(done.stderr.split())


@pytest.fixture
def questions(quern, docs):
    """A loaded collection, and 70 questions in a file, more than are answered together."""
    quern("load", docs, "-c", "docs", "--hybrid", "--index", "row=integer")
    lines = [f"what grinds grain number {n}?" for n in range(68)]
    text = "\ufeffsnow\r\n\n" + "\n".join(lines) + "\n   \nsnow"
    Path("questions.txt").write_text(text, "utf-8", newline="")
    return ["snow", *lines, "snow"]


@pytest.mark.parametrize(
    "options",
    [
        ("--no-hybrid", "--diversity", 0.5, "--no-rerank"),
        ("-n", 2, "--filter", "row>=2", "--sort", "fused"),
        ("-n", 3, "--candidates", 4, "--popularity", "row=1", "--instruction", "Find weather"),
        ("--feedback", "1,0.5,0.2,2"),
        ("--per-document", 1, "--no-rerank"),
        ("--group-by", "row", "--group-size", 1),
    ],
    ids=["diversity", "filter", "boost", "feedback", "documents", "groups"],
)
def test_questions_of_a_file_have_the_hits_of_single_ones(quern, questions, options):
    given = ("-c", "docs", "--json", *options)
    done = quern("search", "--queries", "questions.txt", *given)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "quern: skipped 2 empty lines of questions.txt\n"
    answers = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [one["query"] for one in answers] == questions
    for number in (0, 68):
        single = orjson.loads(quern("search", questions[number], *given).stdout)
        assert [rounded(hit) for hit in answers[number]["hits"]] == [rounded(hit) for hit in single]


def rounded(hit):
    """Return a hit with few digits: texts of a batch are rounded together."""
    return {name: round(one, 4) if isinstance(one, float) else one for name, one in hit.items()}


def test_questions_from_standard_input_and_their_tables(quern, docs):
    quern("load", docs, "-c", "docs")
    options = ("--queries", "-", "-c", "docs", "--no-rerank", "-n", 1, "--filter", "row>=2")
    done = quern("search", *options, stdin="snow\nrain\n")
    titles = [line.strip() for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.stderr
    assert titles.count("snow") == titles.count("rain") == 1
    assert titles.index("snow") < titles.index("rain")
    assert done.stdout.count("c.jsonl#2") == 2
    assert "searching: 2, " in done.stderr
    plain = quern("search", *options, "--plain", stdin="snow\nrain\n").stdout
    rows = [line.split("\t") for line in plain.splitlines()]
    assert rows[0] == ["question", "rank", "cosine", "source", "text"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("snow", "Snow falls."),
        ("rain", "Snow falls."),
    ]
    none = quern("search", *options[:-1], "line>=2", stdin="snow\nrain\n")
    assert none.stdout.split() == ["snow", "nothing", "found", "rain", "nothing", "found"]
    assert none.stderr.count("no document has the field 'line' of --filter") == 1


def test_files_of_questions_that_cannot_be_read(quern, docs, monkeypatch):
    quern("load", docs, "-c", "docs")
    Path("bad.txt").write_bytes(b"snow\nr\xe9sum\xe9\n")
    Path("empty.txt").write_text("\n \n")
    for arguments, code, message in (
        (("--queries", "bad.txt"), 1, "bad.txt, row 2: is not valid UTF-8"),
        (("--queries", "empty.txt"), 2, "empty.txt has no query: write one per line"),
        (("--queries", "none.txt"), 2, "--queries none.txt: no such file"),
        (("snow", "--queries", "bad.txt"), 2, "give one QUESTION, or a file"),
        ((), 2, "give one QUESTION, or a file"),
    ):
        done = quern("search", *arguments, "-c", "docs", "--json")
        assert (done.exit_code, message in " ".join(done.stderr.split())) == (code, True)

    def embed_queries(self, queries, *_):
        queries = list(queries)
        if "long" in queries:
            raise InputError(queries.index("long"), "the text is too long")
        return embed(self, queries)

    embed = Embedder.embed_queries
    monkeypatch.setattr(Embedder, "embed_queries", embed_queries)
    Path("long.txt").write_text("snow\n\nlong\nrain\n")
    done = quern("search", "--queries", "long.txt", "-c", "docs", "--json", "--no-rerank")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert "quern: long.txt, row 3: the text is too long" in done.stderr


def test_a_closed_pipe_ends_a_search_for_many_questions(quern, questions):
    del quern  # only its folder and models
    command = [sys.executable, "-c", "import quernstone.cli; quernstone.cli.main()", "search"]
    process = subprocess.Popen(
        [*command, "-c", "docs", "--queries", "-", "--no-rerank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, printed = process.communicate("\n".join(questions), timeout=120)
    assert (process.returncode, printed) == (141, "")
