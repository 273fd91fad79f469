"""Stage one on real texts: scores, what is saved, interruptions."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from quernstone.errors import ConfigError
from quernstone.evaluation.adapters import Encoder
from quernstone.evaluation.folder import RunFolder
from quernstone.evaluation.run import run, settings_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def ndcg_at_10(ranked, relevant):
    """`ranked`: the documents of each query, best first; one right document per query."""
    gains = [
        1 / np.log2(2 + list(documents[:10]).index(right)) if right in documents[:10] else 0
        for documents, right in zip(ranked, relevant, strict=True)
    ]
    return float(np.mean(gains))


def results_of(folder):
    """Scores of all tasks, without times and dates."""
    found = {}
    for path in sorted(folder.glob("results/*/*/*.json")):
        content = json.loads(path.read_text())
        if "task_name" in content:
            found[content["task_name"]] = {
                split: sorted(entries, key=lambda entry: entry["hf_subset"])
                for split, entries in content["scores"].items()
            }
    return found


def predictions_of(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "predictions").iterdir()}


def main_score(folder, task, subset="default"):
    [entry] = [e for e in results_of(folder)[task]["test"] if e["hf_subset"] == subset]
    return entry["main_score"]


def test_every_type_of_the_four_benchmarks_runs(first_stage):
    run_file = json.loads((first_stage / "run.json").read_text())
    assert set(run_file["tasks"].values()) == {
        "BitextMining",
        "Classification",
        "Clustering",
        "InstructionReranking",
        "MultilabelClassification",
        "PairClassification",
        "Reranking",
        "Retrieval",
        "STS",
        "Summarization",
    }
    assert set(results_of(first_stage)) == set(run_file["tasks"])


@pytest.mark.parametrize("subset", ["en", "zh"])
def test_retrieval_scores_are_those_computed_by_hand(
    first_stage, tasks, embedder, official, subset
):
    [task] = tasks("LocalRetrieval")
    task.load_data()
    split = task.dataset[subset]["test"]
    instruction = official.embedding_instruction(task.metadata, None)
    asked = embedder.embed_queries(list(split["queries"]["text"]), instruction)
    vectors = embedder.embed_documents([text.strip() for text in split["corpus"]["text"]])
    order = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")
    expected = ndcg_at_10(order, range(len(asked)))
    assert main_score(first_stage, "LocalRetrieval", subset) == pytest.approx(expected, abs=1e-5)


def test_sts_is_the_correlation_with_what_people_said(first_stage, tasks, embedder):
    [task] = tasks("LocalSTS")
    task.load_data()
    rows = task.dataset["test"]
    texts = sorted({*rows["sentence1"], *rows["sentence2"]})
    vectors = embedder.embed_queries(texts, "Retrieve semantically similar text")
    one, two = (
        vectors[[texts.index(text) for text in rows[side]]] for side in ("sentence1", "sentence2")
    )
    expected = spearmanr((one * two).sum(axis=1), rows["score"]).statistic
    assert expected > 0.4
    assert main_score(first_stage, "LocalSTS") == pytest.approx(expected, abs=1e-4)


def test_predictions_are_saved_for_rankings_only(first_stage):
    saved = predictions_of(first_stage)
    assert set(saved) == {
        f"Local{kind}_predictions.json"
        for kind in ("Retrieval", "CodeRetrieval", "Reranking", "InstructionReranking")
    }
    ranking = saved["LocalRetrieval_predictions.json"]["zh"]["test"]
    assert len(ranking) == 60
    assert {len(documents) for documents in ranking.values()} == {200}


SOME = ("LocalRetrieval", "LocalReranking", "LocalClustering")


class Stop(BaseException):
    """What Ctrl-C would raise."""


@pytest.mark.parametrize(
    "calls",
    [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow), 5],
)
def test_an_interrupted_run_ends_with_the_same_files(
    calls, first_stage, tasks, embedder, official, tmp_path, monkeypatch
):
    embed, left = Encoder.embed, [calls]

    def embed_and_stop(self, texts, instruction):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return embed(self, texts, instruction)

    monkeypatch.setattr(Encoder, "embed", embed_and_stop)
    with pytest.raises(Stop):
        run(embedder, tasks(*SOME), tmp_path, official)
    monkeypatch.setattr(Encoder, "embed", embed)
    outcomes = run(embedder, tasks(*SOME), tmp_path, official)
    assert [one.error for one in outcomes] == ["", "", ""]
    whole = results_of(first_stage)
    assert results_of(tmp_path) == {name: whole[name] for name in SOME}
    expected = predictions_of(first_stage)
    assert predictions_of(tmp_path) == {
        name: expected[name]
        for name in ("LocalRetrieval_predictions.json", "LocalReranking_predictions.json")
    }


def test_a_finished_run_embeds_nothing(tasks, embedder, official, tmp_path):
    run(embedder, tasks(*SOME), tmp_path, official)
    before = embedder.usage.inputs
    outcomes = run(embedder, tasks(*SOME), tmp_path, official)
    assert embedder.usage.inputs == before
    assert all(one.score is not None for one in outcomes)
    assert all(one.kept.startswith("20") for one in outcomes)


def test_results_of_other_data_are_computed_again(tasks, embedder, official, tmp_path, caplog):
    [task] = tasks("LocalReranking")
    run(embedder, [task], tmp_path, official)
    [path] = tmp_path.glob("results/*/*/LocalReranking.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "dataset_revision": "0"}))
    [outcome] = run(embedder, tasks("LocalReranking"), tmp_path, official)
    assert outcome.kept == ""
    assert json.loads(path.read_text())["scores"] == content["scores"]
    assert json.loads(path.read_text())["dataset_revision"] == "1"
    assert "LocalReranking: computing again, because its results are of revision 0" in caplog.text


def test_a_folder_has_one_writer(embedder, official, tmp_path):
    with (
        RunFolder(tmp_path, settings_of(embedder, official)),
        pytest.raises(ConfigError, match="another process is evaluating into"),
    ):
        run(embedder, [], tmp_path, official)
    assert run(embedder, [], tmp_path, official) == []


@pytest.mark.parametrize(
    "damaged", ["results/*/*/LocalReranking.json", "predictions/LocalReranking_predictions.json"]
)
def test_half_a_file_is_made_again(damaged, first_stage, tasks, embedder, official, tmp_path):
    run(embedder, tasks("LocalReranking"), tmp_path, official)
    [path] = tmp_path.glob(damaged)
    path.write_bytes(path.read_bytes()[:100])
    run(embedder, tasks("LocalReranking"), tmp_path, official)
    assert results_of(tmp_path)["LocalReranking"] == results_of(first_stage)["LocalReranking"]
    name = "LocalReranking_predictions.json"
    assert predictions_of(tmp_path)[name] == predictions_of(first_stage)[name]


def test_missing_predictions_are_made_although_there_are_results(
    first_stage, tasks, embedder, official, tmp_path
):
    run(embedder, tasks("LocalReranking"), tmp_path, official)
    [path] = (tmp_path / "predictions").iterdir()
    path.unlink()
    run(embedder, tasks("LocalReranking"), tmp_path, official)
    assert predictions_of(tmp_path)[path.name] == predictions_of(first_stage)[path.name]


def test_a_failing_task_is_reported_and_the_rest_goes_on(tasks, embedder, official, tmp_path):
    broken, fine = tasks("LocalSTS", "LocalReranking")[::-1]

    def gone(**kwargs):
        raise OSError("no such data set")

    broken.load_data = gone
    seen = []
    outcomes = run(embedder, [broken, fine], tmp_path, official, on_task=seen.append)
    assert outcomes == seen
    assert [one.error for one in outcomes] == ["OSError: no such data set", ""]
    assert outcomes[0].score is None
    assert set(results_of(tmp_path)) == {"LocalReranking"}


def test_a_folder_of_another_model_is_refused(first_stage, tasks, embedder, mteb_rules):
    with pytest.raises(ConfigError) as caught:
        run(embedder, tasks("LocalSTS"), first_stage, mteb_rules)
    message = str(caught.value)
    assert "contains results of another model or of other settings" in message
    assert "`protocol` is 'official' there and 'mteb' here" in message
