"""Merged LoRA adapters, against PEFT."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.support.public_models import MODELS, write_folder
from tests.support.rerankers import write
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import quernstone
from quernstone import Embedder, Reranker
from quernstone.model import session_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT
TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"
TEXTS = ["a quern is a hand mill", "grain", "it rains " * 40, "the mill grinds grain " * 9]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapter(tmp_path):
    """Train nothing: write an adapter with random numbers for a tiny model."""

    def make(name="adapter", base=TINY / "embedding", causal=False, seed=0, **config):
        loader = AutoModelForCausalLM if causal else AutoModel
        torch.manual_seed(seed)
        config = {"r": 4, "lora_alpha": 24, "target_modules": ALL, **config}
        model = get_peft_model(loader.from_pretrained(base), LoraConfig(**config))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
        folder = tmp_path / name
        model.save_pretrained(folder)
        return folder

    return make


def by_peft(folder, adapter, sequences, *, causal=False, attends_back=True):
    """Return the last state, or all logits, of each sequence; the adapter is not merged."""
    loader = AutoModelForCausalLM if causal else AutoModel
    base = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, adapter).eval()
    for sequence in sequences:
        prefix = [] if sequence.prefix is None else sequence.prefix.ids.tolist()
        ids = torch.tensor([[*prefix, *sequence.ids.tolist()]])
        with torch.inference_mode():
            size = ids.shape[1]
            mask = None if attends_back else torch.zeros(1, 1, size, size)
            out = model(input_ids=ids, attention_mask=mask, use_cache=False)
        yield (out.logits if causal else out.last_hidden_state)[0, -1]


CONFIGS = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora of some layers": {
        "use_dora": True,
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "a regular expression": {"target_modules": r".*\.0\.self_attn\.(q|v)_proj"},
    "all linear layers": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "patterns": {
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "down_proj": 8},
        "alpha_pattern": {"v_proj": 3, r"^layers\.1\.mlp\.up_proj": 5},
    },
    "rank-stabilized patterns": {"use_rslora": True, "rank_pattern": {"o_proj": 1}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "whole modules": {"modules_to_save": ["embed_tokens", "norm", "q_norm"]},
    "fan in, fan out": {"fan_in_fan_out": True},
    "biases": {"bias": "all"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}
IN_LIBRARIES = ("dora", "embedding", "whole modules")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_merged_adapter_equals_peft(adapter, name):
    folder = adapter(**CONFIGS[name])
    libraries = ("transformers", "sentence-transformers") if name in IN_LIBRARIES else ()
    for engine in ("torch", *libraries):
        settings = {"dtype": "float32", "device": "cpu", "engine": engine}
        with Embedder("tiny", adapter=str(folder), **settings) as embedder:
            rows = embedder.embed_documents(TEXTS)
            batch = session_of(embedder).encoder.encode_documents(TEXTS)
        expected = torch.stack([*by_peft(TINY / "embedding", folder, batch.sequences)])
        expected = torch.nn.functional.normalize(expected)
        np.testing.assert_allclose(rows, expected.numpy(), atol=2e-6)
    with Embedder("tiny", dtype="float32") as base:
        assert abs(base.embed_documents(TEXTS) - rows).max() > 1e-3


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_an_adapter_in_the_shape_of_the_smallest_model_equals_peft(tmp_path, adapter, direction):
    """Two layers of Qwen3-Embedding-0.6B; the adapter has the shape of jina-embeddings-v5's."""
    model = next(each for each in MODELS if each.name == "Qwen/Qwen3-Embedding-0.6B")
    base = write_folder(tmp_path / "base", model)
    fields = {"num_hidden_layers": 2, "intermediate_size": 3072}
    write(base, "config.json", **fields)
    torch.manual_seed(0)
    loaded = AutoModel.from_config(AutoConfig.from_pretrained(base))
    loaded.save_pretrained(base)
    write(base, "config.json", use_bidirectional_attention=direction == "bidirectional")
    folder = adapter(base=base, r=32, lora_alpha=32, task_type="FEATURE_EXTRACTION")
    settings = {"dtype": "float32", "device": "cpu"}
    with Embedder(str(base), adapter=str(folder), **settings) as embedder:
        rows = embedder.embed_documents(TEXTS)
        batch = session_of(embedder).encoder.encode_documents(TEXTS)
    causal = direction == "causal"
    expected = torch.stack([*by_peft(base, folder, batch.sequences, attends_back=causal)])
    np.testing.assert_allclose(rows, torch.nn.functional.normalize(expected).numpy(), atol=2e-6)
    with Embedder(str(base), **settings) as plain:
        assert abs(plain.embed_documents(TEXTS) - rows).max() > 1e-3


HEADS = {
    "attention": {"target_modules": ATTENTION},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("name", HEADS)
def test_an_adapter_of_a_reranker_equals_peft(adapter, name):
    base = TINY / "reranker"
    folder = adapter(base=base, causal=True, task_type="CAUSAL_LM", **HEADS[name])
    with Reranker("tiny", adapter=str(folder), dtype="float32", device="cpu") as reranker:
        scores = reranker.score([("grain", text) for text in TEXTS])
        session = session_of(reranker)
        sequences = session.encoder.encode_pairs(
            [("grain", text, reranker.instruction) for text in TEXTS], "card"
        ).sequences
        yes, no = (session.tokenizer.token_id(word) for word in ("yes", "no"))
    logits = torch.stack([*by_peft(base, folder, sequences, causal=True)])
    expected = torch.sigmoid(logits[:, yes] - logits[:, no]).numpy()
    np.testing.assert_allclose(scores, expected, atol=2e-6)
