"""Stage two over the saved first stage."""

import json
import shutil

import numpy as np
import pytest
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate

from quernstone import Embedder, Reranker
from quernstone.errors import ConfigError
from quernstone.evaluation.adapters import CrossEncoder
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.predictions import Predictions
from quernstone.evaluation.rerank import Reranked, comparison, rerank
from quernstone.evaluation.run import run
from quernstone.evaluation.summary import summarise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TOP_K = 5


@pytest.fixture(scope="module")
def english(tasks):
    def make(*names):
        return [task.filter_languages(["eng"]) for task in tasks(*(names or ("LocalRetrieval",)))]

    return make


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, english, official):
    """With vectors so short that there is something left to improve."""
    folder = tmp_path_factory.mktemp("results") / "short"
    with Embedder("tiny", dtype="float32", dimensions=32) as embedder:
        [outcome] = run(embedder, english(), folder, official)
    assert outcome.error == ""
    return folder


@pytest.fixture(scope="module")
def second_stage(first_stage, english, reranker, official, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranked")
    predictions = Predictions(first_stage)
    outcomes = rerank(reranker, english(), predictions, folder, official, top_k=TOP_K)
    return folder, outcomes


def test_reranking_beats_the_first_stage(second_stage, first_stage):
    _, [outcome] = second_stage
    [path] = first_stage.glob("results/*/*/LocalRetrieval.json")
    entries = json.loads(path.read_text())["scores"]["test"]
    [first] = [one["main_score"] for one in entries if one["hf_subset"] == "en"]
    assert outcome.first == pytest.approx(first, abs=1e-6)
    assert outcome.score > outcome.first + 0.01
    assert not outcome.hurts


def test_the_reranked_score_is_that_computed_by_hand(
    second_stage, first_stage, english, reranker, official
):
    _, [outcome] = second_stage
    [task] = english()
    task.load_data()
    split = task.dataset["en"]["test"]
    saved = json.loads((first_stage / "predictions/LocalRetrieval_predictions.json").read_text())
    texts = dict(zip(split["corpus"]["id"], split["corpus"]["text"], strict=True))
    gains = []
    for name, query in zip(split["queries"]["id"], split["queries"]["text"], strict=True):
        scores = saved["en"]["test"][name]
        best = sorted(scores, key=lambda document: -scores[document])[:TOP_K]
        pairs = [(query, texts[document].strip()) for document in best]
        after = reranker.score(pairs, official.reranking_instruction(task.metadata))
        order = [best[place] for place in np.argsort(-after, kind="stable")]
        right = f"d{name[1:]}"
        gains.append(1 / np.log2(2 + order.index(right)) if right in order else 0)
    assert outcome.score == pytest.approx(np.mean(gains), abs=1e-5)


def test_a_finished_stage_two_scores_nothing(
    second_stage, first_stage, english, reranker, official
):
    folder, outcomes = second_stage
    before = reranker.usage.inputs
    again = rerank(reranker, english(), Predictions(first_stage), folder, official, top_k=TOP_K)
    assert reranker.usage.inputs == before
    assert [(one.first, one.score) for one in again] == [
        (pytest.approx(one.first, abs=1e-6), pytest.approx(one.score, abs=1e-6)) for one in outcomes
    ]


def test_lost_predictions_of_stage_two_are_made_again(
    second_stage, first_stage, english, reranker, official, tmp_path
):
    folder = shutil.copytree(second_stage[0], tmp_path / "copied")
    [path] = (folder / "predictions").iterdir()
    expected = json.loads(path.read_text())
    path.unlink()
    rerank(reranker, english(), Predictions(first_stage), folder, official, top_k=TOP_K)
    assert json.loads(path.read_text()) == expected


def test_predictions_of_the_official_scripts(
    second_stage, first_stage, english, reranker, official, tmp_path
):
    """mteb 1: one file for each subset, and the split in the name unless it is `test`."""
    saved = json.loads((first_stage / "predictions/LocalRetrieval_predictions.json").read_text())
    old = tmp_path / "old"
    old.mkdir()
    (old / "LocalRetrieval_en_predictions.json").write_text(json.dumps(saved["en"]["test"]))
    outcomes = rerank(
        reranker, english(), Predictions(old), tmp_path / "new", official, top_k=TOP_K
    )
    _, [expected] = second_stage
    assert (outcomes[0].first, outcomes[0].score) == (expected.first, expected.score)


def test_tasks_with_candidates_of_their_own_need_no_predictions(
    first_stage, tasks, reranker, official, tmp_path
):
    some = tasks("LocalReranking", "LocalInstructionReranking")
    one, two = rerank(reranker, some, Predictions(first_stage), tmp_path, official)
    assert (one.first, two.first) == (None, None)
    assert one.score > 0.6
    assert two.score is not None


def test_a_task_that_ranks_nothing_is_reported(first_stage, tasks, reranker, official, tmp_path):
    [outcome] = rerank(reranker, tasks("LocalSTS"), Predictions(first_stage), tmp_path, official)
    assert "STS tasks do not rank documents and cannot be reranked" in outcome.error


def test_the_parts_of_an_aggregate_can_be_reranked(tasks, embedder, reranker, official, tmp_path):
    class Aggregate(AbsTaskAggregate):
        metadata = AggregateTaskMetadata(
            name="Aggregate",
            description="an aggregate such as CQADupstackRetrieval",
            tasks=tasks("LocalCodeRetrieval"),
            main_score="ndcg_at_10",
            type="Retrieval",
            eval_splits=["test"],
            reference=None,
            bibtex_citation=None,
        )

    [first] = run(embedder, [Aggregate()], tmp_path / "one", official)
    assert [one.task for one in summarise(tmp_path / "one").tasks] == ["Aggregate"]
    both = [Aggregate(), *tasks("LocalCodeRetrieval")]
    predictions = Predictions(tmp_path / "one")
    whole, part = rerank(reranker, both, predictions, tmp_path / "two", official, top_k=1)
    assert "is an aggregate; rerank its parts: --tasks LocalCodeRetrieval" in whole.error
    assert part.first == pytest.approx(first.score)


def test_the_comparison_flags_what_got_worse():
    rows = [
        Reranked(task="A", type="Retrieval", first=0.5, score=0.625, seconds=1),
        Reranked(task="B", type="Retrieval", first=0.5, score=0.4, seconds=1),
        Reranked(task="C", type="Reranking", first=None, score=0.4, seconds=1),
        Reranked(task="D", type="Retrieval", first=None, score=None, seconds=1, error="gone"),
    ]
    assert comparison(rows).splitlines()[2:] == [
        "| A | 50.00 | 62.50 | +12.50 |  |",
        "| B | 50.00 | 40.00 | -10.00 | worse |",
        "| C |  | 40.00 |  |  |",
        "| D |  | failed |  |  |",
    ]


def test_parts_give_the_scores_of_the_whole(
    second_stage, first_stage, english, reranker, official, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("quernstone.evaluation.adapters.PART", 2 * TOP_K)
    calls, score = [], CrossEncoder.score

    def counted(self, queries, documents, instructions):
        calls.append(len(documents))
        return score(self, queries, documents, instructions)

    monkeypatch.setattr(CrossEncoder, "score", counted)
    old = shutil.copytree(first_stage, tmp_path / "old")
    change(old, lambda saved: saved["en"]["test"].update(q0={}))
    rerank(reranker, english(), Predictions(old), tmp_path / "new", official, top_k=TOP_K)
    assert calls == [2 * TOP_K] * 29 + [TOP_K]
    new, whole = (
        json.loads((folder / "predictions/LocalRetrieval_predictions.json").read_text())
        for folder in (tmp_path / "new", second_stage[0])
    )
    expected = {**whole["en"]["test"], "q0": {}}
    assert new["en"]["test"] == {name: pytest.approx(expected[name], abs=1e-6) for name in expected}
    assert "LocalRetrieval: 1 of 60 queries have no candidates, and score 0" in caplog.messages


def test_splits_that_are_not_evaluated_need_no_predictions(
    second_stage, first_stage, english, reranker, official, tmp_path
):
    """A task may load its training split and all of its languages."""
    [task] = english()
    task.load_data()
    task.dataset["en"]["train"] = dict(task.dataset["en"]["test"])
    task.dataset["zh"] = {"test": dict(task.dataset["en"]["test"])}
    [outcome] = rerank(reranker, [task], Predictions(first_stage), tmp_path, official, top_k=TOP_K)
    assert (outcome.first, outcome.score) == (
        second_stage[1][0].first,
        pytest.approx(second_stage[1][0].score),
    )


def test_both_stages_are_compared_in_the_same_languages(
    second_stage, tasks, english, embedder, reranker, official, tmp_path
):
    """Chinese follows English in the same folders: its scores are those of Chinese alone."""

    def chinese():
        return [task.filter_languages(["zho"]) for task in tasks("LocalRetrieval")]

    for folder, run_before in (("both", english), ("alone", None)):
        for some in filter(None, (run_before, chinese)):
            run(embedder, some(), tmp_path / folder / "one", official)
            [outcome] = rerank(
                reranker,
                some(),
                Predictions(tmp_path / folder / "one"),
                tmp_path / folder / "two",
                official,
                top_k=1,
            )
        if folder == "both":
            expected = outcome
    assert (outcome.first, outcome.score) == (expected.first, expected.score)


# ------------------------------------------------------------------------- what cannot be reranked


@pytest.fixture
def copied(first_stage, tmp_path):
    """A copy of the first stage that may be damaged."""
    return shutil.copytree(first_stage, tmp_path / "first")


def change(folder, edit):
    path = folder / "predictions" / "LocalRetrieval_predictions.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda saved: saved.update(en={"dev": saved["en"]["test"]}),
            "contains predictions of LocalRetrieval (en) for the splits ['dev'] but not for 'test'",
        ),
        (
            lambda saved: saved.update(zh=saved.pop("en")),
            "contains LocalRetrieval for the subsets 'zh' but not for 'en'",
        ),
        (
            lambda saved: saved["en"]["test"].pop("q0"),
            "1 of 60 queries of en/test have no predictions (the first is 'q0')",
        ),
        (lambda saved: saved["en"].update(test={"q0": 1}), "is not a ranking"),
        (
            lambda saved: saved["en"]["test"]["q0"].update(x1=2.0, x2=3.0),
            "2 of 202 documents of en/test are not in the corpus (such as 'x1')",
        ),
    ],
)
def test_predictions_of_another_split(edit, message, copied, english, reranker, official, tmp_path):
    change(copied, edit)
    [outcome] = rerank(reranker, english(), Predictions(copied), tmp_path / "o", official)
    assert message in outcome.error


def test_half_written_predictions(copied, english):
    path = copied / "predictions" / "LocalRetrieval_predictions.json"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ResultsError, match="not complete JSON"):
        Predictions(copied).of_task(english()[0])


def test_no_predictions(tmp_path, english, first_stage):
    with pytest.raises(ConfigError, match="contains no predictions"):
        Predictions(tmp_path)
    (tmp_path / "LocalRetrieval_en_dev_predictions.json").write_text("{}")
    with pytest.raises(ResultsError) as caught:
        Predictions(tmp_path).of_task(english()[0])
    assert "no predictions of LocalRetrieval for splits ['test'] of subsets 'en'" in str(
        caught.value
    )
    assert "found only LocalRetrieval_en_dev_predictions.json" in str(caught.value)


def test_a_folder_of_another_reranker_is_refused(second_stage, first_stage, english, official):
    folder, _ = second_stage
    message = "`template` is 'eval' there and 'card' here"
    with (
        Reranker("tiny", dtype="float32", template="card") as other,
        pytest.raises(ConfigError, match=message),
    ):
        rerank(other, english(), Predictions(first_stage), folder, official, top_k=TOP_K)


def test_another_first_stage_at_the_same_path_is_refused(
    second_stage, copied, english, reranker, official, tmp_path
):
    folder = shutil.copytree(second_stage[0], tmp_path / "second")
    # the path does not matter, so both folders may be moved
    rerank(reranker, english(), Predictions(copied), folder, official, top_k=TOP_K)
    content = json.loads((copied / "run.json").read_text())
    content["settings"]["dimensions"] = 64
    (copied / "run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="`first stage's dimensions` is 32 there and 64 here"):
        rerank(reranker, english(), Predictions(copied), folder, official, top_k=TOP_K)


def test_both_stages_refuse_the_folder_of_the_other(second_stage, english, embedder, official):
    folder, _ = second_stage
    with pytest.raises(ConfigError, match="contains results of another model"):
        run(embedder, english(), folder, official)
