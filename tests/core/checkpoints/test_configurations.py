"""Any configuration of transformers' decoders equals transformers, or is refused by name."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, PreTrainedConfig

import quernstone
from quernstone import Embedder, ModelLoadError
from quernstone.checkpoints import differences
from quernstone.checkpoints.families import FAMILIES
from quernstone.model import session_of

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_transformers_is_known(family):
    """A field that a new version of transformers adds must be implemented, excused or refused."""
    known = differences.known_fields(FAMILIES[family])
    assert fields_of(family) - known == {"is_encoder_decoder"}  # refused if it is true


def fields_of(family):
    config = AutoConfig.for_model(family)
    fields = {f.name for kind in (type(config), PreTrainedConfig) for f in dataclasses.fields(kind)}
    return fields | set(config.to_dict())


VALUES = {
    "hidden_act": st.sampled_from(["silu", "gelu"]),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "use_sliding_window": st.booleans(),
    "sliding_window": st.sampled_from([None, 4, 4096]),
    "max_window_layers": st.integers(0, 2),
    "head_dim": st.sampled_from([16, 32, None]),
    "num_key_value_heads": st.sampled_from([1, 2, 4]),
    "rms_norm_eps": st.sampled_from([1e-6, 1e-2]),
    "tie_word_embeddings": st.booleans(),
    "attention_dropout": st.sampled_from([0.0, 0.3]),
    "initializer_range": st.sampled_from([0.02, 0.2]),
    "max_position_embeddings": st.sampled_from([64, 2048]),
    "rope_parameters": st.sampled_from(
        [
            {"rope_type": "default", "rope_theta": 1e6},
            {"rope_type": "default", "rope_theta": 1e4},
            {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
            {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 4.0},
            {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ]
    ),
    "use_cache": st.booleans(),
    "pad_token_id": st.sampled_from([None, 0]),
    "use_bidirectional_attention": st.booleans(),
    "is_causal": st.booleans(),
}
"""Fields of a configuration that are varied, a few of them in each example."""

NOT_OF_TRANSFORMERS = {"use_bidirectional_attention", "is_causal"}

TEXTS = ["a quern is a hand mill", "grain", "it rains " * 12]


def random_model(folder, family, fields):
    """Write a model with these fields of a configuration, and the tiny model's side files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(TINY / "embedding", folder)
    (folder / "model.safetensors").unlink()
    plain = {
        "vocab_size": 24945,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **({"sliding_window": None} if family == "mistral" else {}),
        **({"head_dim": 32} if family == "qwen3" else {}),
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **{**plain, **fields}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zeros in a new model
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def expected_vectors(folder, tokenizer, max_length, *, causal):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for ids in tokenizer.ids(TEXTS):
        sequence = torch.tensor([[*ids[: max_length - 1].tolist(), tokenizer.eos_id]])
        length = sequence.shape[1]
        mask = None if causal else torch.zeros(1, 1, length, length)
        with torch.inference_mode():
            output = model(input_ids=sequence, attention_mask=mask, use_cache=False)
        yield torch.nn.functional.normalize(output.last_hidden_state[0, -1], dim=0).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_any_configuration_equals_transformers_or_is_refused_by_name(tmp_path, family):
    outcomes, engines = [], []
    names = sorted(VALUES.keys() & (fields_of(family) | NOT_OF_TRANSFORMERS))

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        st.sets(st.sampled_from(names), max_size=5).flatmap(
            lambda names: st.fixed_dictionaries({name: VALUES[name] for name in sorted(names)})
        )
    )
    def check(fields):
        if family == "qwen3" and fields.get("head_dim", 1) is None:
            fields["head_dim"] = 16  # transformers cannot build a Qwen3 without
        folder = random_model(tmp_path / "model", family, fields)
        is_causal = fields.get("is_causal", True) and not fields.get("use_bidirectional_attention")
        libraries = [*differences._FORWARD, "rope_parameters", "sliding_window"]
        try:
            embedder = Embedder(str(folder), dtype="float32", device="cpu")
        except ModelLoadError as error:
            outcomes.append(False)
            assert not is_causal
            assert any(f"`{name}`" in str(error) for name in libraries if name in fields)  # noqa: PT017
            return
        outcomes.append(True)
        with embedder:
            assert is_causal or embedder.info.engine == "torch"
            engines.append(embedder.info.engine)
            tokenizer = session_of(embedder).tokenizer
            rows = embedder.embed_documents(TEXTS)
            expected = expected_vectors(folder, tokenizer, embedder.max_length, causal=is_causal)
            np.testing.assert_allclose(rows, list(expected), atol=2e-6)

    check()
    assert sum(outcomes) >= len(outcomes) / 2
    assert engines.count("torch") >= len(outcomes) / 2
