"""Qwen2, Llama and Mistral in the same decoder, and scaled RoPE, against transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

import quernstone
from quernstone import Embedder, ModelLoadError
from quernstone.model import session_of
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


def states_of(folder, ids, *, causal):
    """Return the states of all tokens by transformers, with an explicit mask."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
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
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
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
