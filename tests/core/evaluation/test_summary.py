"""Means, what is missing, and the published tables."""

import json

import mteb
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from mteb import ResultCache
from mteb.results import TaskResult

from quernstone.errors import ConfigError
from quernstone.evaluation.benchmarks import BENCHMARKS, benchmark_tasks
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.plots import bar_chart
from quernstone.evaluation.published import published_rows
from quernstone.evaluation.summary import summarise
from quernstone.evaluation.tables import as_json, markdown

ENGLISH = "MTEB(eng, v2)"
QWEN = [f"Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B")]


def write(folder, task, scores, place="results/org__model/rev"):
    """`scores`: main scores by subset by split."""
    content = {
        "task_name": task,
        "mteb_version": "2.26.24",
        "scores": {
            split: [{"hf_subset": subset, "main_score": score} for subset, score in row.items()]
            for split, row in scores.items()
        },
    }
    path = folder / place / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def english(tmp_path):
    """Results of five tasks, one with more subsets and splits than the benchmark has."""
    folder = tmp_path / "model"
    write(folder, "STS12", {"test": {"default": 0.8}})
    write(folder, "STS17", {"test": {"en-en": 0.6, "ko-ko": 0.1}})
    write(folder, "SCIDOCS", {"test": {"default": 0.2}})
    write(folder, "Banking77Classification", {"test": {"default": 0.9}, "dev": {"default": 0.1}})
    write(folder, "PawsX", {"test": {"en": 0.3}})
    return folder


def test_means(english):
    found = summarise(english, benchmark=ENGLISH)
    assert {task.task: task.score for task in found.tasks} == pytest.approx(
        {"Banking77Classification": 90.0, "SCIDOCS": 20.0, "STS12": 80.0, "STS17": 60.0}
    )
    assert found.by_type == pytest.approx({"Classification": 90.0, "Retrieval": 20.0, "STS": 70.0})
    assert found.mean_task == pytest.approx((90 + 20 + 80 + 60) / 4)
    assert found.mean_type == pytest.approx((90 + 20 + 70) / 3)
    assert len(found.missing) == 37
    assert found.missing[0] == benchmark_tasks(ENGLISH)[0].metadata.name


def test_rules_of_splits(tmp_path):
    scores = {"test": {"default": 0.6}, "validation": {"default": 0.8}}
    write(tmp_path, "MultilingualSentiment", scores)
    first = summarise(tmp_path, benchmark="MTEB(cmn, v1)", rule="first")
    assert first.mean_task == pytest.approx(80.0)  # the benchmark's first split is `validation`
    every = summarise(tmp_path, benchmark="MTEB(cmn, v1)", rule="all")
    assert every.mean_task == pytest.approx(70.0)
    assert summarise(tmp_path, rule="first").mean_task == pytest.approx(60.0)  # as in the file


def test_missing_subsets_are_named(tmp_path):
    write(tmp_path, "MassiveIntentClassification", {"validation": {"en": 0.5}, "test": {"da": 0.5}})
    write(tmp_path, "XNLI", {"test": {"ar": 0.5, "bg": 0.7}})
    found = summarise(tmp_path, benchmark="MTEB(Multilingual, v2)", rule="all")
    scores = {task.task: task for task in found.tasks}
    assert scores["XNLI"].score == pytest.approx(60.0)
    assert "test/de" in scores["XNLI"].missing
    assert "validation/ar" in scores["XNLI"].missing
    text = markdown([found])
    assert f"XNLI lacks {len(scores['XNLI'].missing)} splits or subsets: test/de" in text


def test_a_run_of_ours_is_summarised_with_its_own_tasks(first_stage):
    found = summarise(first_stage)
    assert found.name == "tiny"
    assert len(found.tasks) == 12
    assert len(found.by_type) == 10
    clustering = [task.score for task in found.tasks if task.type == "Clustering"]
    assert found.by_type["Clustering"] == pytest.approx(sum(clustering) / 2)


def test_the_layout_of_the_official_scripts(tmp_path):
    write(tmp_path, "STS12", {"test": {"default": 0.5}}, "NAME/no_revision_available")
    (tmp_path / "STS12_default_predictions.json").write_text('{"q": {"d": 1.0}}')
    assert summarise(tmp_path, benchmark=ENGLISH).mean_task == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("place", "meta", "name"),
    [
        ("NAME/no_revision_available", None, "NAME"),
        ("NAME/no_model_name_available/no_revision_available", None, "NAME"),
        ("NAME/no_revision_available", {"name": "no_model_name_available"}, "NAME"),
        ("Qwen__Qwen3-Embedding-0.6B/b22da495", {"name": "Qwen/Q3"}, "Qwen/Q3"),
        ("NAME/rev", {"name": None}, "NAME"),
        ("NAME/rev", ["damaged"], "NAME"),
        ("mine", None, "mine"),
    ],
    ids=["embedding", "reranker", "unnamed", "revision", "null", "a list", "a folder"],
)
def test_the_model_of_a_folder_of_mteb(tmp_path, place, meta, name):
    write(tmp_path, "STS12", {"test": {"default": 0.5}}, place)
    if meta is not None:
        (tmp_path / place / "model_meta.json").write_text(json.dumps(meta))
    assert summarise(tmp_path / place, benchmark=ENGLISH).name == name


def test_a_mean_over_a_part_of_the_benchmark_is_marked(tmp_path):
    names = [task.metadata.name for task in benchmark_tasks("MTEB(cmn, v1)")]
    assert len(names) == 31
    tasks = {task.metadata.name: task for task in benchmark_tasks("MTEB(cmn, v1)")}
    for folder, count in (("full", 31), ("part", 3)):
        for name in names[:count]:
            task = tasks[name]
            row = dict.fromkeys(task.hf_subsets, 0.5)
            write(tmp_path / folder, name, dict.fromkeys(task.eval_splits, row))
    found = [summarise(tmp_path / name, benchmark="MTEB(cmn, v1)") for name in ("full", "part")]
    assert [one.label for one in found] == ["full", "part (3 of 31 tasks)"]
    assert "\n| part (3 of 31 tasks) | 50.00 |" in markdown(found)
    assert [one["label"] for one in as_json(found, [])["models"]] == [one.label for one in found]


def test_a_mean_over_a_part_of_a_tasks_subsets_is_marked(tmp_path):
    write(tmp_path / "x", "STS17", {"test": {"en-en": 0.6}})
    [multilingual] = [b for b in BENCHMARKS if "Multilingual" in b]
    label = summarise(tmp_path / "x", benchmark=multilingual).label
    assert label == "x (1 of 131 tasks, 1 of them in part)"


def test_models_side_by_side_beside_the_published_rows(english, tmp_path):
    other = tmp_path / "other"
    write(other, "STS12", {"test": {"default": 0.5}})
    found = [summarise(path, benchmark=ENGLISH) for path in (english, other)]
    rows = published_rows(ENGLISH)
    text = markdown(found, rows)
    assert "| model (4 of 41 tasks) | 62.50 | 60.00 | 90.00 | 20.00 | 70.00 |" in text
    assert "| other (1 of 41 tasks) | 50.00 | 50.00 |  |  | 50.00 |" in text
    assert "| Qwen3-Embedding-0.6B (published) | 70.70 | 64.88 | 85.76 | 61.83 | 86.57 |" in text
    assert "| STS | STS12 | 80.00 | 50.00 |" in text
    assert "- other: 40 tasks are missing: " in text
    content = as_json(found, rows, benchmark=ENGLISH)
    assert content["models"][0]["mean_task"] == 62.5
    assert content["published"][-1]["by_type"]["STS"] == 88.58
    bar_chart(tmp_path / "bars.png", found, rows, ENGLISH)
    assert (tmp_path / "bars.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_no_two_bars_have_one_color(english, tmp_path, monkeypatch):
    found = [summarise(english, benchmark=ENGLISH)] * 12
    rows, colors, draw = published_rows(ENGLISH), [], Axes.bar

    def bar(self, *values, color, **options):
        colors.append(to_hex(color))
        return draw(self, *values, color=color, **options)

    monkeypatch.setattr(Axes, "bar", bar)
    bar_chart(tmp_path / "bars.png", found, rows)
    assert len(set(colors)) == len(colors) == 12 + len(rows)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_splits_give_the_means_of_the_leaderboard(tmp_path):
    bench = mteb.get_benchmark("MTEB(cmn, v1)")
    numbers, cache = np.random.default_rng(0), ResultCache(tmp_path)
    meta = mteb.get_model_meta("Qwen/Qwen3-Embedding-0.6B")
    for task in bench.tasks:
        scores = {
            split: {
                subset: {
                    name: numbers.random() for name in ("main_score", task.metadata.main_score)
                }
                for subset in task.hf_subsets
            }
            for split in task.eval_splits
        }
        result = TaskResult.from_task_results(task, scores, 1.0, kg_co2_emissions=None)
        cache.save_to_cache(result, meta)
    loaded = cache.load_results(models=[meta.name], tasks=bench, include_remote=False)
    theirs = loaded.get_benchmark_result().iloc[0]
    ours = summarise(tmp_path, benchmark=bench.name, rule="all")
    assert ours.mean_task == pytest.approx(100 * theirs["Mean (Task)"], abs=1e-3)
    assert ours.mean_type == pytest.approx(100 * theirs["Mean (TaskType)"], abs=1e-3)
    first = summarise(tmp_path, benchmark=bench.name)
    assert first.mean_task != pytest.approx(ours.mean_task, abs=1e-3)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_means_of_types_follow_from_the_types(name):
    rows = published_rows(name)
    assert [row.model for row in rows][-3:] == QWEN
    types = {str(task.metadata.type) for task in benchmark_tasks(name)}
    for row in rows:
        assert set(row.by_type) == types
        if row.mean_type is not None:
            # the published figures are rounded
            assert sum(row.by_type.values()) / len(types) == pytest.approx(row.mean_type, abs=0.02)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_means_of_tasks_follow_from_the_types(name):
    """A wrong digit in a table would show here."""
    count = {}
    for task in benchmark_tasks(name):
        count[task.metadata.type] = count.get(task.metadata.type, 0) + 1
    if name == "MTEB(cmn, v1)":
        count["Classification"] += 1  # MultilingualSentiment counted twice at the time
    for row in published_rows(name)[-3:]:
        mean = sum(row.by_type[kind] * n for kind, n in count.items()) / sum(count.values())
        assert mean == pytest.approx(row.mean_task, abs=0.35)


def test_published_rerankers():
    rows = {row.model: row.by_type for row in published_rows(ENGLISH, reranking=True)}
    assert rows["Qwen3-Reranker-4B"] == {"Retrieval": 69.76}
    assert published_rows("MTEB(deu, v1)") == []


def test_results_of_two_versions_of_mteb_are_named(english):
    assert "versions of mteb" not in markdown([summarise(english)])
    path = english / "results/org__model/rev/STS12.json"
    path.write_text(path.read_text().replace("2.26.24", "1.38.9"))
    found = summarise(english)
    assert "computed by several versions of mteb: 1.38.9, 2.26.24\n" in markdown([found])
    assert found.as_dict()["mteb_versions"] == ["1.38.9", "2.26.24"]


@pytest.mark.parametrize("content", ['{"task_name": "STS12", "sco', ""])
def test_half_a_result(content, english):
    path = english / "results/org__model/rev/STS12.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"STS12\.json`: not complete JSON"):
        summarise(english)


def test_results_without_scores(english):
    path = english / "results/org__model/rev/STS12.json"
    path.write_text('{"task_name": "STS12", "scores": {"test": [{"main_score": 1}]}}')
    with pytest.raises(ResultsError, match=r"not the results of a task: KeyError\('hf_subset'\)"):
        summarise(english)


def test_results_without_splits(english):
    write(english, "STS12", {"test": {}})
    with pytest.raises(ResultsError, match=r"STS12\.json`: contains no scores"):
        summarise(english)


def test_results_of_two_models(english):
    write(english, "STS12", {"test": {"default": 0.5}}, "results/org__other/rev")
    with pytest.raises(ResultsError, match="contains results of several models: STS12 is in"):
        summarise(english)


def test_nothing_to_summarise(tmp_path, english):
    with pytest.raises(ConfigError, match="is not a folder"):
        summarise(tmp_path / "gone")
    with pytest.raises(ConfigError, match="contains no results of MTEB\\(Code, v1\\)"):
        summarise(english, benchmark="MTEB(Code, v1)")
    with pytest.raises(ConfigError, match=r"unknown benchmark 'MTEB\(en, v2\)'; did you mean"):
        summarise(english, benchmark="MTEB(en, v2)")
