"""Score against dimensions."""

import json

import pytest

from quernstone import Embedder
from quernstone.errors import ConfigError
from quernstone.evaluation import mrl
from quernstone.evaluation.mrl import measure_dimensions, powers
from quernstone.evaluation.plots import curve
from quernstone.evaluation.run import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

NAMES = ("LocalReranking", "LocalClustering", "LocalSTS")


def test_one_pass_gives_what_a_run_for_each_length_gives(tasks, official, tmp_path):
    with Embedder("tiny", dtype="float32") as embedder:
        curves = measure_dimensions(
            embedder, tasks(*NAMES), tmp_path / "mrl", official, dimensions=[64, 256]
        )
        once = embedder.usage.inputs
    for length in (64, 256):
        with Embedder("tiny", dtype="float32", dimensions=length) as embedder:
            for outcome in run(embedder, tasks(*NAMES), tmp_path / str(length), official):
                measured = curves[outcome.task][length]
                assert measured == pytest.approx(100 * outcome.score, abs=0.01), outcome.task
            assert embedder.usage.inputs == once
    assert curves["LocalReranking"][64] != curves["LocalReranking"][256]


def test_what_was_measured_is_not_measured_again(tasks, official, tmp_path):
    with Embedder("tiny", dtype="float32") as embedder:
        first = measure_dimensions(
            embedder, tasks("LocalReranking"), tmp_path, official, dimensions=[32]
        )
        before = embedder.usage.inputs
        again = measure_dimensions(
            embedder, tasks("LocalReranking"), tmp_path, official, dimensions=[32]
        )
        assert embedder.usage.inputs == before
        with pytest.raises(ConfigError, match="`measured`"):
            measure_dimensions(embedder, [], tmp_path, official, dimensions=[64])
    assert first == again
    assert json.loads((tmp_path / "mrl.json").read_text()) == {
        "LocalReranking": {"32": first["LocalReranking"][32]}
    }


def test_a_failing_task_is_reported_and_vectors_outlive_an_interruption(
    tasks, official, tmp_path, monkeypatch
):
    broken, fine = tasks("LocalReranking", "LocalSTS")

    def gone(**kwargs):
        raise OSError("gone")

    def stop(encoder, task, dimensions):
        if dimensions == 32:
            raise KeyboardInterrupt
        return score(encoder, task, dimensions)

    score, seen = mrl._score, []
    with Embedder("tiny", dtype="float32") as embedder:
        monkeypatch.setattr(mrl, "_score", stop)
        with pytest.raises(KeyboardInterrupt):
            measure_dimensions(embedder, [fine], tmp_path, official, dimensions=[32, 256])
        before = embedder.usage.inputs
        monkeypatch.setattr(mrl, "_score", score)
        broken.load_data = gone
        curves = measure_dimensions(
            *(embedder, [broken, tasks("LocalSTS")[0]], tmp_path, official),
            dimensions=[32, 256],
            on_task=lambda *one: seen.append(one),
        )
        assert embedder.usage.inputs == before
    assert seen == [
        ("LocalReranking", {}, "OSError: gone"),
        ("LocalSTS", curves["LocalSTS"], ""),
    ]
    assert list(curves) == ["LocalSTS"]
    assert not (tmp_path / ".vectors").exists()


def test_lengths():
    assert powers(256) == [32, 64, 128, 256]
    assert powers(1000) == [32, 64, 128, 256, 512, 1000]
    assert powers(16) == [16]


def test_a_length_that_the_model_does_not_have(embedder, official, tmp_path):
    with pytest.raises(ConfigError, match=r"dimensions \[257\]: this model gives up to 256"):
        measure_dimensions(embedder, [], tmp_path, official, dimensions=[32, 257])


def test_the_picture(tmp_path):
    curve(tmp_path / "curve.png", {"a": {32: 50.0, 64: 60.0}, "b": {32: 40.0, 64: 45.0}}, "tiny")
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
