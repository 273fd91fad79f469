"""`engine="auto"` says which engine it chose and why."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from tests.support.adapters import write_adapter

import quernstone
from quernstone import Embedder, Reranker
from quernstone.doctor import diagnose

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"
PLAIN = "torch supports all fields in the files of this Qwen3 model"


def pooled(folder):
    path = shutil.copytree(TINY / "embedding", folder) / "1_Pooling" / "config.json"
    modes = {"pooling_mode_lasttoken": False, "pooling_mode_max_tokens": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **modes}))
    return folder


MODELS = {
    "tiny": (lambda _: "tiny", "torch", PLAIN),
    "adapter": (
        write_adapter,
        "torch",
        "`peft_type` in `adapter_config.json` is 'LORA': it is an adapter",
    ),
    "max pooling": (
        pooled,
        "sentence-transformers",
        "`pooling_mode` in `1_Pooling/config.json` is 'max_tokens': it does not pool the last "
        "token",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_info_the_log_and_the_doctor_say_why(tmp_path, caplog, name):
    make, engine, reason = MODELS[name]
    model = str(make(tmp_path / "model"))
    caplog.set_level(logging.INFO, "quernstone")
    with Embedder(model, device="cpu") as embedder:
        assert (embedder.info.engine, embedder.info.reason) == (engine, reason)
        assert f"`{model}` runs on the {engine} engine: {reason}" in caplog.text
        with Embedder(model, device="cpu", engine=engine) as named:
            assert named.info.reason == ""
    finding = diagnose(model, device="cpu")["model files"].finding
    assert f"`auto` chose {engine}: {reason}" in finding
    finding = diagnose(model, device="cpu", engine=engine)["model files"].finding
    assert f"{engine} was requested: {reason}" in finding


def test_a_reranker_says_why(tmp_path):
    with Reranker("tiny") as reranker:
        assert reranker.info.reason == PLAIN
    folder = shutil.copytree(TINY / "reranker", tmp_path / "reranker")
    finding = diagnose(str(folder))["model files"].finding
    assert finding.endswith(f"`auto` chose torch: {PLAIN}")
