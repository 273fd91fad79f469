"""Both stages beside mteb's own wrappers of Qwen3, on random weights of the official layout."""

import json

import mteb
import numpy as np
import pytest
from benchmarks.evaluation import mteb_embedding, mteb_reranker

from quernstone import Embedder, Reranker
from quernstone.evaluation.predictions import Predictions
from quernstone.evaluation.rerank import rerank
from quernstone.evaluation.run import run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOP_K = 4


def small(tasks):
    """One task of each of four forms, small: mteb's reranker computes all logits."""
    found = tasks("LocalRetrieval", "LocalReranking", "LocalSTS", "LocalClassification")
    found[0] = found[0].filter_languages(["eng"])
    for task in found[:2]:
        task.load_data()
        [subset] = task.dataset
        split = task.dataset[subset]["test"]
        split["queries"] = split["queries"].select(range(8))
    return found


def rankings(folder, name):
    saved = json.loads((folder / f"{name}_predictions.json").read_text())
    return {subset: saved[subset]["test"] for subset in saved if subset != "mteb_model_meta"}


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for subset in ours:
        for query, scores in theirs[subset].items():
            assert set(ours[subset][query]) == set(scores)
            documents = list(scores)
            np.testing.assert_allclose(
                [ours[subset][query][one] for one in documents],
                [scores[one] for one in documents],
                atol=1e-4,
            )


def test_both_stages_score_as_mteb_own_wrappers(checkpoints, tasks, mteb_rules, tmp_path):
    embedding = checkpoints("embedding-0.6b", layers=2, width=8)
    reranking = checkpoints("reranker-0.6b", layers=2, width=8)
    quiet = {"co2_tracker": False, "show_progress_bar": False, "encode_kwargs": {"batch_size": 4}}

    with Embedder(str(embedding), dtype="float32", max_length=mteb_rules.max_length) as embedder:
        ours = run(embedder, small(tasks), tmp_path / "ours", mteb_rules)
    theirs = mteb.evaluate(
        mteb_embedding(embedding),
        small(tasks),
        cache=None,
        prediction_folder=tmp_path / "theirs",
        **quiet,
    )
    for mine, other in zip(ours, theirs.task_results, strict=True):
        assert mine.error == ""
        assert mine.score == pytest.approx(other.get_score(), abs=1e-4), mine.task
    name = "LocalRetrieval"
    first = rankings(tmp_path / "ours/predictions", name)
    assert_close(first, rankings(tmp_path / "theirs", name))

    task = small(tasks)[0]
    with Reranker(str(reranking), dtype="float32", template=mteb_rules.template) as reranker:
        [mine] = rerank(
            reranker,
            [task],
            Predictions(tmp_path / "ours"),
            tmp_path / "reranked",
            mteb_rules,
            top_k=TOP_K,
        )
    task = small(tasks)[0].convert_to_reranking(tmp_path / "ours" / "predictions", top_k=TOP_K)
    other = mteb.evaluate(
        mteb_reranker(reranking),
        task,
        cache=None,
        prediction_folder=tmp_path / "theirs_reranked",
        **quiet,
    )
    assert mine.score == pytest.approx(other.task_results[0].get_score(), abs=1e-4)
    reranked = rankings(tmp_path / "reranked/predictions", name)
    assert_close(reranked, rankings(tmp_path / "theirs_reranked", name))
