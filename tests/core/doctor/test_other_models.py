"""Models that differ from Qwen's: no false alarms, and a reference for what a library computes."""

import json
import shutil

import pytest
from tests.core.doctor.conftest import TINY
from tests.core.doctor.test_servers import check, show
from tests.support.adapters import write_adapter
from tests.support.rerankers import CHAT, MESSAGES, converted, logit_score
from tests.support.rerankers import write as change
from transformers import AutoConfig, AutoModel

from quernstone import PairTemplate
from quernstone.doctor import diagnose

PROMPTS = {"query": "query: ", "document": "passage: "}
INSTRUCTED = {"query": "Instruct: Find code\nQuery: ", "document": "Document: "}
OWN = PairTemplate(prefix=CHAT.prefix, suffix=CHAT.suffix, positive="true", temperature=5.0)


def family(folder, name, **fields):
    """Replace the model by a random one of another family, and keep the tokenizer."""
    (folder / "model.safetensors").unlink()
    config = AutoConfig.for_model(
        name, vocab_size=24945, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, **fields,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)


def llama_tokenizer(folder):
    """Write a Llama whose tokenizer has other control tokens, and puts only one before a text."""
    family(folder, "llama")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text().replace("<|endoftext|>", "<|begin_of_text|>"))
    template = spec["post_processor"]
    for kind in ("single", "pair"):
        template[kind] = template[kind][-1:] + template[kind][:-1]
    path.write_text(json.dumps(spec))


def stored(**fields):
    return lambda folder: change(folder, "config_sentence_transformers.json", **fields)


EMBEDDERS = {
    "prompts": stored(prompts=PROMPTS),
    "prompts with an instruction": stored(prompts=INSTRUCTED),
    "llama": llama_tokenizer,
    "mistral": lambda folder: family(folder, "mistral", sliding_window=16),
    "qwen2": lambda folder: family(folder, "qwen2"),
}
RERANKERS = {
    "template": (lambda folder: None, {"template": OWN}),
    "head": (lambda folder: converted(folder, "no", "yes"), {"template": "card"}),
    "logit": (
        lambda folder: logit_score(
            folder, "true", chat=MESSAGES.replace("CONTENT", ""), activation="linear.Identity",
            add_generation_prompt=True,
        ),
        {},
    ),
}  # fmt: skip
EXPECTED = {
    "template": "the score is a probability, from the logit of 'true' (token 1996), divided by 5",
    "head": "from the logits of 'no' (label 0), 'yes' (label 1), subtracted",
    "logit": "the score is a logit, from the logit of 'true' (token 1996)",
}
SETTINGS = {"dtype": "float32", "device": "cpu"}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embedders_are_healthy_and_agree_with_transformers(copy, name):
    folder = copy()
    EMBEDDERS[name](folder)
    report = diagnose(str(folder), reference=str(folder), **SETTINGS)
    assert report.healthy, show(report)
    assert "8 vectors agree with transformers in float32" in report["reference"].finding
    for each in ("query prompt", "bare documents", "control tokens"):
        assert report[each].verdict == "ok", show(report)
    if name == "llama":
        assert "`<|begin_of_text|>`" in report["control tokens"].finding


def test_an_adapter_is_compared_with_transformers(tmp_path):
    adapter = str(write_adapter(tmp_path / "adapter"))
    report = diagnose("tiny", adapter=adapter, reference="tiny", **SETTINGS)
    assert report["reference"].verdict == "ok"
    assert "agree with transformers" in report["reference"].finding


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_what_only_our_engine_computes_is_said_by_name(copy, pooling):
    folder = copy()
    change(folder, "config.json", use_bidirectional_attention=True)
    change(folder, "1_Pooling/config.json", pooling_mode=pooling)
    report = diagnose(str(folder), reference=str(folder), **SETTINGS)
    assert report.healthy, show(report)
    assert report["pooling"].verdict == report["reference"].verdict == "skipped"
    assert f"bidirectional attention and pool by '{pooling}'" in report["pooling"].finding
    assert "`use_bidirectional_attention`" in report["reference"].finding


def test_another_pooling_is_compared_with_sentence_transformers(copy):
    folder = copy()
    change(folder, "1_Pooling/config.json", pooling_mode="mean")
    report = diagnose(str(folder), reference=str(folder), **SETTINGS)
    assert "agree with sentence-transformers in float32" in report["reference"].finding


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers_are_healthy_and_agree_with_transformers(copy, name):
    folder = copy("rerank")
    make, settings = RERANKERS[name]
    make(folder)
    report = diagnose(str(folder), task="rerank", reference=str(folder), **settings, **SETTINGS)
    assert report.healthy, show(report)
    assert "9 scores agree with transformers in float32" in report["reference"].finding
    assert EXPECTED[name] in report["yes and no"].finding
    for each in ("template", "control tokens", "alone or together"):
        assert report[each].verdict == "ok", show(report)
    if name == "logit":
        assert "the logit is -" in report["tells apart"].finding


def test_other_weights_are_found(copy, tmp_path):
    folder = copy()
    EMBEDDERS["prompts"](folder)
    other = shutil.copytree(TINY / "embedding", tmp_path / "other")
    stored(prompts={"query": "find: ", "document": "passage: "})(other)
    report = diagnose(str(folder), reference=str(other), **SETTINGS)
    check(report, "reference", says=["differ from transformers in float32"])
    converted(rerank := copy("rerank"), "no", "yes")
    report = diagnose(str(rerank), task="rerank", template="card", reference="tiny", **SETTINGS)
    assert report["reference"].verdict == "skipped"
