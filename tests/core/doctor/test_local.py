"""Engines on this machine: healthy ones alarm nobody, broken files are told."""

import json

import pytest
from tests.core.doctor.conftest import append, append_nothing, overflow
from tests.core.doctor.test_servers import check, show

from quernstone import ConfigError, Embedder, Usage
from quernstone.doctor import diagnose

ENGINES = ["torch", "transformers", "sentence-transformers"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_the_tiny_models_are_healthy(engine, task):
    report = diagnose("tiny", task=task, engine=engine, dtype="float32", reference="tiny")
    assert report.task == task
    verdicts = {found.name: found.verdict for found in report.findings}
    verdicts.pop("server's template", None)
    assert set(verdicts.values()) == {"ok"}, show(report)
    assert report.environment["engine"] == engine


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["embedding-0.6b", "embedding-8b", "reranker-0.6b"])
def test_random_weights_are_told_and_alarm_nobody(checkpoints, layout, engine):
    report = diagnose(str(checkpoints(layout)), engine=engine)
    assert report.task == ("embed" if layout.startswith("embed") else "rerank")
    assert report.healthy, show(report)
    warned = {found.name for found in report.findings if found.verdict == "warn"}
    assert warned == {"tells apart"}, show(report)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_sixteen_bits_are_healthy(task, dtype):
    report = diagnose("tiny", task=task, dtype=dtype, reference="tiny")
    assert report.healthy, show(report)
    assert report.environment["dtype"] == dtype


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_overflow_is_told_although_it_was_made_good(copy, task, engine):
    folder = copy(task)
    overflow(folder, ["import", "importance"])
    report = diagnose(str(folder), task=task, engine=engine, dtype="float16")
    check(report, "finite values", says=["overflow float16"], fix="use bfloat16, or float32")
    assert diagnose(str(folder), task=task, engine=engine, dtype="float32").healthy


def test_usage_counts_what_was_computed_again(copy):
    folder = copy()
    overflow(folder, ["import"])
    with Embedder(str(folder), dtype="float16") as embedder:
        embedder.embed_documents(["a mill", "import a mill", "importance"])
        assert embedder.usage == Usage(inputs=3, tokens=embedder.usage.tokens, recomputed=1)


def test_a_tokenizer_file_that_servers_would_trust(copy):
    folder = copy()
    append_nothing(folder)
    report = diagnose(str(folder), dtype="float32", reference="tiny")
    assert report.healthy  # Quernstone does not trust it
    assert report["last token"].verdict == report["reference"].verdict == "ok"
    assert report["tokenizer file"].verdict == "warn"
    assert "tokenizer.json appends nothing" in report["tokenizer file"].finding


def test_a_model_with_another_final_token(copy):
    folder = copy()
    append(folder, "<|im_end|>")
    report = diagnose(str(folder), dtype="float32")
    assert "final token '<|im_end|>'" in report["model files"].finding


def test_another_name_for_what_is_wrong_with_the_weights(copy, checkpoints):
    """The tiny model's reference against other weights of the same shape."""
    folder = copy()
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.weight"))
    tensors[name] *= 3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = diagnose(str(folder), dtype="float32", reference="tiny")
    check(report, "reference", says=["no known mistake explains them"])


def test_a_model_that_does_not_open(tmp_path):
    report = diagnose(str(tmp_path))
    check(report, "opens", says=["holds no `config.json`"])
    assert report.summary == "broken: 1 failed"
    assert "torch" in report.environment


def test_a_server_that_is_not_there():
    report = diagnose(
        "model",
        engine="remote",
        engine_options={"endpoint": "http://127.0.0.1:9", "max_retries": 0},
    )
    check(report, "opens", says=["http://127.0.0.1:9", "failed"])


def test_what_can_never_work_is_an_error():
    with pytest.raises(ConfigError, match="unknown engine"):
        diagnose("tiny", engine="other")
    with pytest.raises(ConfigError, match="needs the address of a server"):
        diagnose("model", engine="remote")


def test_queries_without_an_instruction_are_told():
    from quernstone.doctor.embedding import EMBEDDING_CHECKS
    from quernstone.doctor.subject import EmbeddingSubject

    (prompt,) = (each for each in EMBEDDING_CHECKS if each.name == "query prompt")
    with Embedder("tiny", instruction="") as embedder:
        outcome = prompt.run(EmbeddingSubject(embedder))
    assert outcome.verdict == "warn"
    assert "queries are embedded bare" in outcome.finding


def test_a_model_with_prompts_of_its_own_is_left_alone(copy):
    """Pooled by its mean, as its files say: sentence-transformers' affair."""
    folder = copy()
    pooling = folder / "1_Pooling" / "config.json"
    config = json.loads(pooling.read_text())
    config = {k: v for k, v in config.items() if not k.startswith("pooling_mode")}
    pooling.write_text(json.dumps({**config, "pooling_mode_mean_tokens": True}))
    report = diagnose(str(folder), engine="sentence-transformers", dtype="float32")
    assert report.healthy, show(report)
    assert report["pooling"].verdict == report["last token"].verdict == "skipped"
    assert "which Quernstone leaves alone" in report["pooling"].finding


def test_a_report_is_json_and_its_findings_have_names():
    report = diagnose("tiny")
    value = json.loads(json.dumps(report.as_dict()))
    assert value["healthy"] is True
    assert [each["name"] for each in value["checks"]] == [f.name for f in report.findings]
    assert set(value["checks"][0]) == {"name", "looks_at", "verdict", "finding", "fix"}
    with pytest.raises(KeyError):
        report["nothing"]
