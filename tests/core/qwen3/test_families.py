"""Qwen2, Llama and Mistral in the same decoder, and scaled RoPE, against transformers."""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.support.gpu_stand_ins import Recorder, use
from transformers import AutoConfig, AutoModel

import quernstone
from quernstone import Embedder, ModelLoadError, Reranker
from quernstone.model import session_of
from quernstone.qwen3.int8 import can_compute_int8
from quernstone.types import Encoded

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
TEXTS = ["a quern is a hand mill", "grain", "", "it rains " * 60, "the mill grinds grain " * 9]

FAMILIES = {
    "qwen3": {"attention_bias": True},
    "qwen2": {},
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "mistral": {"sliding_window": None},
}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn with all fields": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "yarn with a factor of attention": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 0.8,
    },
}


def random_model(folder, family, **fields):
    """Write a random model of a family with the tiny model's tokenizer and modules."""
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").unlink()
    plain = {
        "vocab_size": 24945,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }
    kind = family.partition(" ")[0]
    config = AutoConfig.for_model(kind, **{**plain, **FAMILIES[family], **fields})
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zeros in a new model
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@lru_cache(maxsize=1)
def reference(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def states_of(folder, ids, *, causal):
    """Return the states of all tokens by transformers, with an explicit mask."""
    model = reference(folder)
    length = len(ids)
    mask = torch.zeros(1, 1, length, length)
    if causal:
        mask = mask.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    with torch.inference_mode():
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        return model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[0]


def whole(sequence):
    return np.concatenate(
        [sequence.prefix.ids if sequence.prefix else sequence.ids[:0], sequence.ids]
    )


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "cls"])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_direction_and_pooling_equal_transformers(tmp_path, family, direction, pooling):
    folder = random_model(tmp_path / "model", family)
    causal = direction == "causal"
    change(folder / "config.json", use_bidirectional_attention=not causal)
    change(folder / "1_Pooling" / "config.json", pooling_mode=pooling)
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        ours = embedder.embed_documents(TEXTS)
        alone = [embedder.embed_documents([text])[0] for text in TEXTS]
        batch = session_of(embedder).encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(ours, alone, atol=2e-6)
    for row, sequence in zip(ours, batch.sequences, strict=True):
        states = states_of(folder, whole(sequence), causal=causal)
        pooled = {"lasttoken": states[-1], "mean": states.mean(0), "cls": states[0]}[pooling]
        expected = torch.nn.functional.normalize(pooled, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
@pytest.mark.parametrize("window", [1, 16, 150, 1024])
def test_a_window_of_attention_equals_transformers(tmp_path, window, pooling):
    folder = random_model(tmp_path / "model", "mistral", sliding_window=window)
    change(folder / "1_Pooling" / "config.json", pooling_mode=pooling)
    texts = [*TEXTS, "it rains " * 130, "the mill grinds grain " * 61]
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        ours = embedder.embed_documents(texts)
        alone = [embedder.embed_documents([text])[0] for text in texts]
        sequences = session_of(embedder).encoder.encode_documents(texts).sequences
    np.testing.assert_allclose(ours, alone, atol=2e-6)
    assert max(map(len, sequences)) > 256
    model = reference(folder)
    for row, sequence in zip(ours, sequences, strict=True):
        ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
        with torch.inference_mode():
            states = model(input_ids=ids, use_cache=False).last_hidden_state[0]
        pooled = states[-1] if pooling == "lasttoken" else states.mean(0)
        expected = torch.nn.functional.normalize(pooled, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


def test_a_window_of_bidirectional_attention_is_refused(tmp_path):
    folder = random_model(tmp_path / "model", "mistral", sliding_window=16)
    change(folder / "config.json", use_bidirectional_attention=True)
    with pytest.raises(ModelLoadError, match=r"`sliding_window` in `config\.json` is 16"):
        Embedder(str(folder))
    change(folder / "config.json", sliding_window=2048)  # all of the context
    Embedder(str(folder)).close()


@pytest.mark.parametrize("family", [*FAMILIES, "mistral with a window"])
def test_sharing_the_prompt_changes_nothing(tmp_path, family):
    fields = {"sliding_window": 8} if "window" in family else {}
    folder = random_model(tmp_path / "model", family.removesuffix(" with a window"), **fields)
    instruction = "Find what a mill does"
    with Embedder(str(folder), dtype="float32", device="cpu", instruction=instruction) as embedder:
        session = session_of(embedder)
        sequences = session.encoder.encode_queries(TEXTS, instruction).sequences
        shared = [each.prefix is not None for each in sequences]
        assert not any(shared) if fields else all(shared)
        ours = embedder.embed_queries(TEXTS)
        rows = session.run_encoded([Encoded(whole(each)) for each in sequences])
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_scaled_rope_equals_transformers_beyond_the_original_context(tmp_path, family, scaling):
    rope = {"rope_theta": 1e4, **SCALINGS[scaling]}
    folder = random_model(tmp_path / "model", family, rope_parameters=rope)
    texts = ["it rains " * 100, "the mill grinds grain " * 40]
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        ours = embedder.embed_documents(texts)
        batch = session_of(embedder).encoder.encode_documents(texts)
    for row, sequence in zip(ours, batch.sequences, strict=True):
        assert len(sequence.ids) > 64 * 2
        expected = states_of(folder, sequence.ids, causal=True)[-1]
        expected = torch.nn.functional.normalize(expected, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


# --------------------------------------------------------------- on GPUs, and rounded to 8 bits


@pytest.mark.parametrize("family", [*FAMILIES, "mistral with a window"])
def test_the_way_of_a_gpu_gives_the_same_vectors(tmp_path, monkeypatch, family):
    fields = {"sliding_window": 40} if "window" in family else {}
    folder = random_model(tmp_path / "model", family.removesuffix(" with a window"), **fields)
    settings = {"dtype": "float32", "device": "cpu", "instruction": "Find what a mill does"}

    def vectors():
        with Embedder(str(folder), **settings) as embedder:
            return embedder.embed_documents(TEXTS), embedder.embed_queries(TEXTS)

    expected = vectors()
    recorder = Recorder()
    use(monkeypatch, record=recorder)
    np.testing.assert_allclose(vectors(), expected, atol=2e-6)
    assert (recorder.recorded > 0) is not bool(fields)  # a window has no CUDA graphs


@pytest.mark.parametrize("family", FAMILIES)
def test_fp8_is_close(tmp_path, monkeypatch, family):
    folder = random_model(tmp_path / "model", family)
    with Embedder(str(folder), dtype="float32", device="cpu") as exact:
        expected = exact.embed_documents(TEXTS)
    use(monkeypatch, record=Recorder())
    monkeypatch.setattr("quernstone.engines.torch.engine.can_compute_fp8", lambda device: True)
    with Embedder(str(folder), dtype="fp8") as rounded:
        cosines = (rounded.embed_documents(TEXTS) * expected).sum(axis=1)
    assert 0.98 < cosines.min() < 0.99999


@pytest.mark.skipif(not can_compute_int8(), reason="this CPU has no VNNI")
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_close(tmp_path, family):
    folder = random_model(tmp_path / "model", family)
    with (
        Embedder(str(folder), dtype="float32", device="cpu") as exact,
        Embedder(str(folder), dtype="int8", device="cpu") as rounded,
    ):
        cosines = (exact.embed_documents(TEXTS) * rounded.embed_documents(TEXTS)).sum(axis=1)
    assert 0.99 < cosines.min() < 0.999999


# ---------------------------------------------------------------------- files of other versions


def test_files_of_older_versions_are_read_as_transformers_reads_them(tmp_path):
    folder = random_model(tmp_path / "model", "llama", num_key_value_heads=4)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for field in ("rope_parameters", "head_dim", "num_key_value_heads"):
        del config[field]
    old = {"rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    path.write_text(json.dumps({**config, **old}))
    weights = load_file(folder / "model.safetensors")
    weights["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        ours = embedder.embed_documents(TEXTS)
        sequences = session_of(embedder).encoder.encode_documents(TEXTS).sequences
    for row, sequence in zip(ours, sequences, strict=True):
        expected = states_of(folder, sequence.ids, causal=True)[-1]
        expected = torch.nn.functional.normalize(expected, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_and_additional_weights_are_refused_by_name(tmp_path, family):
    folder = random_model(tmp_path / "model", family)
    weights = load_file(folder / "model.safetensors")
    biased = "layers.1.self_attn.q_proj.bias"
    if biased in weights:
        del weights[biased]
    else:
        weights[biased] = torch.zeros(64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=rf"(missing|unexpected) `{biased}`"):
        Embedder(str(folder), engine="torch")


@pytest.mark.parametrize("family", ["qwen2", "llama with biases", "mistral"])
def test_a_reranker_with_qwens_prompt_equals_transformers(tmp_path, family):
    folder = random_model(tmp_path / "model", family, tie_word_embeddings=True)
    (folder / "modules.json").unlink()  # of an embedding model
    scores = []
    for engine in ("torch", "transformers"):
        settings = {"dtype": "float32", "device": "cpu", "engine": engine}
        with Reranker(str(folder), **settings) as reranker:
            ranked = reranker.rerank("what grinds grain", TEXTS)
            scores.append([each.score for each in sorted(ranked, key=lambda each: each.index)])
    np.testing.assert_allclose(*scores, atol=2e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT
@pytest.mark.parametrize("family", ["qwen2", "llama with biases", "mistral"])
def test_a_merged_adapter_equals_peft(tmp_path, family):
    folder = random_model(tmp_path / "model", family)
    targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    config = LoraConfig(r=4, lora_alpha=24, target_modules=targets, init_lora_weights=False)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    with (
        Embedder(str(folder), adapter=adapter, dtype="float32", device="cpu") as embedder,
        Embedder(str(folder), dtype="float32", device="cpu") as plain,
    ):
        assert embedder.info.engine == "torch"
        ours, without = embedder.embed_documents(TEXTS), plain.embed_documents(TEXTS)
        sequences = session_of(embedder).encoder.encode_documents(TEXTS).sequences
    assert np.abs(ours - without).max() > 0.01
    for row, sequence in zip(ours, sequences, strict=True):
        ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
        with torch.inference_mode():
            state = model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(state, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)
