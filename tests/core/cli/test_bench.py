"""`quern bench`: what it says must fit together. How fast anything is, is no matter of tests."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from quernstone import Embedder, Reranker
from quernstone.bench import Rate, measure
from quernstone.bench.measured import MeasuredEmbedder, MeasuredReranker
from quernstone.bench.measurement import _latency, _sweep
from quernstone.bench.report import best_of
from quernstone.bench.texts import passages, query
from quernstone.cli.bench import _conclusions, _without_warnings
from quernstone.errors import ConfigError, EngineMemoryError, InputError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def embedding_model(checkpoints):
    """With the official vocabulary, because some tests count tokens."""
    return str(checkpoints("embedding-0.6b", layers=1, width=16))


@pytest.fixture(scope="module")
def reranking_model(checkpoints):
    return str(checkpoints("reranker-0.6b", layers=1, width=16))


@pytest.fixture(scope="module")
def report(embedding_model):
    said = []
    found = measure(embedding_model, device="cpu", seconds=0.01, announce=said.append)
    return found, said


def check(report):
    """What is true of every report."""
    budgets = report["budgets"]
    sizes = [budget["max_batch_tokens"] for budget in budgets]
    assert sizes == sorted(set(sizes))
    assert report["default"] in sizes
    fastest = max(budgets, key=lambda budget: budget["inputs_per_second"])
    assert report["best"] == fastest["max_batch_tokens"]
    work = report["workload"]
    assert work["median"] <= work["p95"]
    for rate in budgets + report["comparisons"]:
        assert rate["runs"] >= 3
        assert rate["inputs_per_second"] * rate["seconds"] == pytest.approx(work["inputs"])
        assert rate["tokens_per_second"] * rate["seconds"] == pytest.approx(work["tokens"])
        assert rate["spread"] >= 0
    assert report["noisy"] == (report["spread"] > 0.2)
    for other in report["comparisons"]:
        assert other["ratio"] == pytest.approx(other["seconds"] / fastest["seconds"])
    assert [latency["callers"] for latency in report["latencies"]] == [1, 4]
    for latency in report["latencies"]:
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert latency["calls"] >= 8
    if report["floor"]:
        assert report["floor"]["share"] == pytest.approx(
            report["floor"]["seconds"] / fastest["seconds"]
        )
        assert report["no_floor"] == ""


def test_a_report_fits_together(report):
    found, said = report
    check(json.loads(json.dumps(found.as_dict())))
    assert found.task == "embed"
    assert found.floor.seconds > 0
    assert [budget.max_batch_tokens for budget in found.budgets][:3] == [512, 1024, 2048]
    assert all(budget.peak_memory > 2**20 for budget in found.budgets)
    assert found.environment["device"] == "cpu"
    (sentence,) = said
    assert f"{found.workload.inputs} texts" in sentence
    assert "from 512 to" in sentence


def test_the_tokens_are_those_that_the_tokenizer_counts(report, embedding_model):
    found, _ = report
    with Embedder(embedding_model, device="cpu") as embedder:
        embedder.embed_documents(passages(found.workload.inputs))
        assert found.workload.tokens == found.workload.planned == embedder.usage.tokens
    assert found.workload.tokens >= 2 * found.default


def test_shared_prefixes_count_once_where_batches_are_planned(reranking_model):
    with Reranker(reranking_model, device="cpu") as reranker:
        subject = MeasuredReranker(reranker, ["a hand mill", "rain"])
        work = subject.workload(200)
        subject.prepare(200)()
        assert work.tokens == reranker.usage.tokens
        # two queries, each with a hundred documents that share all in front of them
        own = work.tokens - work.planned
        assert own % 198 == 0
        assert work.planned < work.tokens / 3
        assert subject.ask()[0].score >= subject.ask()[19].score


def test_a_reranker_as_json(quern, reranking_model):
    done = quern("bench", "--task", "rerank", "--seconds", 0.01, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    check(found)
    assert found["model"] == reranking_model  # QUERN_RERANK_MODEL
    assert found["task"] == "rerank"
    assert found["workload"]["inputs"] % 100 == 0
    assert found["workload"]["planned"] < found["workload"]["tokens"]
    assert found["request"] == "one query with 20 documents"
    assert "documents" in done.stderr


@pytest.mark.slow
def test_people_get_tables_and_a_picture(quern, embedding_model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COLUMNS", "100")
    lines = tmp_path / "lines.txt"
    lines.write_text("A quern is a hand mill.\n\nIt rains in Bergen.\n")
    picture = tmp_path / "rates.png"
    done = quern(
        "bench", embedding_model, "--texts", lines, "--seconds", 0.01, "--plot", picture,
        "--compare", "transformers",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"{embedding_model} (embed)" in done.stdout.replace("\n", "")
    assert "max_batch_tokens" in done.stdout
    assert "one short query" in done.stdout
    assert "times as long" in done.stdout
    assert "Best: max_batch_tokens=" in done.stdout
    assert "Inputs have" in done.stdout
    assert picture.read_bytes().startswith(PNG)


def test_other_engines_run_the_same_and_have_no_floor(embedding_model):
    found = measure(
        embedding_model,
        engine="transformers",
        compare=["torch"],
        device="cpu",
        dtype="float32",
        seconds=0.01,
        texts=["a hand mill", "rain"],
    )
    check(found.as_dict())
    assert found.floor is None
    assert "transformers" in found.no_floor
    (other,) = found.comparisons
    assert (other.engine, other.dtype) == ("torch", "float32")


@pytest.mark.slow
def test_a_model_that_others_use_keeps_its_budget(embedding_model):
    with Embedder(embedding_model, device="cpu") as embedder:
        measure(embedding_model, device="cpu", seconds=0.001, texts=["a"])
        assert embedder.info.max_batch_tokens == 8192


def test_budgets_that_do_not_fit_end_the_search(embedding_model, monkeypatch):
    from quernstone.engines.torch.engine import TorchEngine

    whole = TorchEngine.run

    def run(self, batch, *, precise=False):
        tokens = sum(map(len, batch))
        if tokens > 1500 and len(batch) > 1:
            raise EngineMemoryError(None, tokens, "made up")
        return whole(self, batch, precise=precise)

    monkeypatch.setattr(TorchEngine, "run", run)
    found = measure(embedding_model, device="cpu", seconds=0.01, texts=["a hand mill"] * 9)
    fitted = {one.max_batch_tokens: not one.out_of_memory for one in found.budgets}
    assert fitted == {512: True, 1024: True, 2048: False, 8192: False}  # the default is always run
    assert found.best.max_batch_tokens <= 1024


def test_the_search_ends_after_two_that_are_worse(embedding_model, monkeypatch):
    rates = {512: 3.0, 1024: 5.0, 2048: 4.0, 4096: 5.0, 8192: 9.0, 16384: 1.0}

    def rate(subject, workload, seconds):
        return Rate(
            inputs_per_second=rates[subject.user.info.max_batch_tokens],
            tokens_per_second=None,
            seconds=1.0,
            runs=3,
            spread=0.0,
        )

    monkeypatch.setattr("quernstone.bench.measurement._rate", rate)
    with Embedder(embedding_model, device="cpu", max_batch_tokens=4096) as embedder:
        subject, done = MeasuredEmbedder(embedder, None), []
        found = list(_sweep(subject, subject.workload(1), list(rates), 1.0, done.append))
        assert [one.max_batch_tokens for one in found] == [512, 1024, 2048, 4096]
        assert best_of(found).max_batch_tokens == 1024
        assert sum(done) == len(rates)  # the bar reaches its end
        rates[4096] = 6.0
        subject.worker.set_budget(16384)  # the default is run, too, wherever it stands
        found = list(_sweep(subject, subject.workload(1), list(rates), 1.0, done.append))
        assert [one.max_batch_tokens for one in found] == list(rates)
        rates[8192] = 2.0
        found = list(_sweep(subject, subject.workload(1), [*rates, 32768], 1.0, done.append))
        assert [one.max_batch_tokens for one in found] == list(rates)


def test_the_texts_are_as_long_as_passages_are(embedding_model):
    with Embedder(embedding_model, device="cpu") as embedder:
        work = MeasuredEmbedder(embedder, None).workload(1000)
        assert 70 <= work.median <= 82
        assert 470 <= work.p95 <= 545
        short = MeasuredEmbedder(embedder, None).workload(60)
        assert 65 <= short.median <= 90
    assert passages(40) == passages(60)[:40]
    assert len({query(number) for number in range(100)}) == 100


def test_texts_that_are_cut_are_counted_once_and_for_all(report, embedding_model):
    with Embedder(embedding_model, device="cpu", max_length=8) as embedder:
        work = MeasuredEmbedder(embedder, ["a mill", "grain " * 20, "rain " * 20]).workload(5)
        assert (work.inputs, work.truncated, work.p95) == (5, 3, 8)
    found, _ = report
    assert "were too long" not in " ".join(_conclusions(found))
    said = " ".join(_conclusions(replace(found, workload=work)))
    assert "3 of 5 inputs were too long for the model and were cut." in said
    with _without_warnings():
        assert not logging.getLogger("quernstone").isEnabledFor(logging.WARNING)
    assert logging.getLogger("quernstone").isEnabledFor(logging.WARNING)


def test_errors_come_before_any_work(quern, embedding_model, tmp_path, monkeypatch):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    refused = {
        ("--texts", empty): "contains no text",
        ("--texts", tmp_path / "gone.txt"): "no such file",
        ("--seconds", 0): "--seconds is 0.0; it must be a number greater than 0",
        ("--seconds", "inf"): "--seconds is inf",
        ("--task", "classify"): "--task classify: use auto, embed, rerank",
        ("--engine", "other"): "unknown engine 'other'",
        ("--engine", "remote"): "a benchmark measures this machine",
        ("--compare", "other"): "unknown engine 'other'",
        ("--compare", "torch"): "cannot compare the torch engine with 'torch'",
        ("--compare", "remote"): "cannot compare the torch engine with 'remote'",
        ("--plot", "rates.pdf"): "the name must end in .png",
        ("--plot", tmp_path / "no" / "rates.png"): "does not exist",
    }
    for arguments, message in refused.items():
        done = quern("bench", embedding_model, *arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    monkeypatch.setattr("quernstone.engines._is_installed", lambda module: module != "vllm")
    done = quern("bench", embedding_model, "--compare", "vllm")
    assert done.exit_code == 1
    assert done.stderr == 'quern: `vllm` is not installed; run `pip install "quernstone[vllm]"`\n'


def test_wrong_texts_are_refused(embedding_model):
    with pytest.raises(ConfigError, match="holds no text to measure with"):
        measure(embedding_model, texts=["", ""])
    with pytest.raises(InputError, match="expected a list"):
        measure(embedding_model, texts="a text")
    with pytest.raises(InputError, match="input 1: the text is int"):
        measure(embedding_model, texts=["a text", 7])


def test_percentiles_are_of_all_calls(embedding_model, monkeypatch):
    class Counted:
        calls = 0

        def ask(self):
            self.calls += 1

    subject = Counted()
    found = _latency(subject, 2, 0.0)
    assert found.calls == subject.calls - 1 == 8  # less the warm-up
    assert np.isfinite(found.calls_per_second)
