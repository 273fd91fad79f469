"""Direction, pooling, dense layers and prompts, against transformers and sentence-transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

import quernstone
from quernstone import Embedder, ModelLoadError
from quernstone.model import session_of

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
TEXTS = ["a quern is a hand mill", "grain", "", "it rains " * 40, "the mill grinds grain " * 9]
DIRECTIONS = {
    "causal": {},
    "bidirectional": {"use_bidirectional_attention": True},
    "not causal": {"is_causal": False},
}


@pytest.fixture
def model(tmp_path):
    """Writes a variant of the tiny model."""

    def make(direction="causal", pooling="lasttoken", dense=(), prompts=None, normalize=True):
        folder = shutil.copytree(TINY, tmp_path / "model")
        change(folder / "config.json", **DIRECTIONS[direction])
        if prompts:
            change(folder / "config_sentence_transformers.json", prompts=prompts)
        mode = {"mean": "mean_tokens", "cls": "cls_token"}.get(pooling, pooling)
        modes = {"pooling_mode_lasttoken": False, f"pooling_mode_{mode}": True}
        change(folder / "1_Pooling" / "config.json", **modes)
        modules = json.loads((folder / "modules.json").read_text())[:2]
        width = 256
        for place, (size, activation, bias) in enumerate(dense, 2):
            path = f"{place}_Dense"
            write_dense(folder / path, width, size, activation, bias=bias, seed=place)
            modules.append(module(place, path, "Dense"))
            width = size
        if normalize:
            modules.append(module(len(modules), f"{len(modules)}_Normalize", "Normalize"))
        (folder / "modules.json").write_text(json.dumps(modules))
        return folder

    return make


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def module(place, path, kind):
    kind = f"sentence_transformers.models.{kind}"
    return {"idx": place, "name": str(place), "path": path, "type": kind}


def write_dense(folder, inner, outer, activation, *, bias, seed):
    folder.mkdir()
    config = {
        "in_features": inner,
        "out_features": outer,
        "bias": bias,
        "activation_function": activation,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = {"linear.weight": torch.randn(outer, inner, generator=generator) / inner**0.5}
    if bias:
        tensors["linear.bias"] = torch.randn(outer, generator=generator)
    save_file(tensors, folder / "model.safetensors")


def states_of(folder, ids, *, causal):
    """Return the states of all tokens by transformers, with an explicit mask."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    length = tokens.shape[1]
    mask = torch.zeros(1, 1, length, length)
    if causal:
        mask = mask.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    with torch.inference_mode():
        return model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "cls"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_direction_and_pooling_equal_transformers(model, direction, pooling):
    folder = model(direction, pooling)
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        ours = embedder.embed_documents(TEXTS)
        alone = [embedder.embed_documents([text])[0] for text in TEXTS]
        batch = session_of(embedder).encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(ours, alone, atol=2e-6)
    for row, sequence in zip(ours, batch.sequences, strict=True):
        assert sequence.prefix is None
        states = states_of(folder, sequence.ids, causal=direction == "causal")
        pooled = {"lasttoken": states[-1], "mean": states.mean(0), "cls": states[0]}[pooling]
        expected = torch.nn.functional.normalize(pooled, dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


DENSE = {
    "none": (),
    "tanh": [(64, "torch.nn.modules.activation.Tanh", True)],
    "two": [
        (512, "torch.nn.modules.activation.GELU", False),
        (96, "torch.nn.modules.linear.Identity", True),
    ],
}
PROMPTS = {
    "qwen": None,
    "none": {"query": "", "document": ""},
    "own": {"query": "query: ", "passage": "passage: "},
    "one character": {"query": ":", "document": " "},
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("dense", DENSE)
@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "cls"])
def test_heads_and_prompts_equal_sentence_transformers(model, pooling, dense, prompts):
    folder = model(
        pooling=pooling,
        dense=DENSE[dense],
        prompts=PROMPTS[prompts],
        normalize=dense != "two",
    )
    with Embedder(str(folder), dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        queries, documents = embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS)
        width = embedder.dimensions
        assert embedder.normalized is (dense != "two")
    theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    prompt = theirs.prompts.get("passage", "")
    for rows, expected in (
        (queries, theirs.encode_query(TEXTS)),
        (documents, theirs.encode(TEXTS, prompt=prompt)),
    ):
        assert rows.shape == (len(TEXTS), width) == expected.shape
        np.testing.assert_allclose(rows, expected, atol=2e-6)


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
def test_without_a_normalize_module_vectors_keep_their_length(model, engine):
    folder = model(normalize=False)
    whole = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    cut = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, truncate_dim=64
    )
    options = {"engine": engine, "dtype": "float32", "device": "cpu"}
    with Embedder(str(folder), **options) as embedder:
        assert not embedder.normalized
        expected = whole.encode(TEXTS)
        assert np.linalg.norm(expected, axis=1).min() > 2
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            embedder.embed_documents(TEXTS) / scale, expected / scale, atol=2e-6
        )
        fingerprint = embedder.fingerprint
    with Embedder(str(folder), dimensions=64, **options) as embedder:
        rows = embedder.embed_documents(TEXTS)
        np.testing.assert_allclose(rows / scale, cut.encode(TEXTS) / scale, atol=2e-6)
    change_modules(folder)
    with Embedder(str(folder), **options) as embedder:
        assert embedder.normalized
        np.testing.assert_allclose(np.linalg.norm(embedder.embed_documents(TEXTS), axis=1), 1, 1e-6)
        assert embedder.fingerprint.split(";revision=")[1] != fingerprint.split(";revision=")[1]


def change_modules(folder):
    """Append a `Normalize`."""
    modules = json.loads((folder / "modules.json").read_text())
    modules.append(module(len(modules), f"{len(modules)}_Normalize", "Normalize"))
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("direction", "pooling", "shares", "why"),
    [
        ("causal", "lasttoken", True, "attention is causal"),
        ("causal", "mean", False, "mean pooling needs the states of all tokens"),
        ("bidirectional", "lasttoken", False, "attention is bidirectional"),
        ("bidirectional", "mean", False, "attention is bidirectional"),
    ],
)
def test_the_info_says_whether_prefixes_are_shared(model, direction, pooling, shares, why):
    with Embedder(str(model(direction, pooling)), dtype="float32", device="cpu") as embedder:
        info = embedder.info
    assert (info.engine, info.shares_prefixes) == ("torch", shares)
    assert info.prefix_sharing.startswith(why)
    assert ("its attention is bidirectional" in info.reason) == (direction == "bidirectional")
    assert ("does not pool the last token" in info.reason) == (pooling == "mean")


def test_bidirectional_attention_in_bfloat16_is_close(model):
    folder = model("bidirectional", "mean")
    with Embedder(str(folder), dtype="float32") as exact, Embedder(str(folder)) as rounded:
        cosines = (exact.embed_documents(TEXTS) * rounded.embed_documents(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.995


def test_a_dense_layer_without_weights_is_refused(model):
    folder = model(dense=DENSE["tanh"])
    save_file({"other": torch.zeros(1)}, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"has no `linear\.weight` of 64 x 256 numbers"):
        Embedder(str(folder), engine="torch")


def test_another_activation_goes_to_sentence_transformers(model):
    folder = model(dense=[(64, "torch.nn.modules.activation.Softsign", True)])
    with Embedder(str(folder), dtype="float32") as embedder:
        assert embedder.info.engine == "sentence-transformers"


def test_what_no_engine_does_together_is_refused(model):
    folder = model("bidirectional")
    change(folder / "config.json", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(ModelLoadError, match=r"no engine supports .*bidirectional; `rope_scaling`"):
        Embedder(str(folder))
