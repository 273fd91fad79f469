"""LoRA adapters are found, obeyed or refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tests.support.adapters import write_adapter

import quernstone
from quernstone import ConfigError, Embedder, ModelLoadError
from quernstone.checkpoints import adapters
from quernstone.checkpoints.checkpoint import resolve

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
TEXT = "a quern is a hand mill"


def embed(model, **settings):
    with Embedder(str(model), dtype="float32", device="cpu", **settings) as embedder:
        return embedder.embed_documents([TEXT])[0], embedder.fingerprint, embedder.digest


@pytest.fixture
def several(tmp_path):
    """A model with two adapters in its subfolder `adapters`."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    for seed, name in enumerate(("clustering", "retrieval")):
        write_adapter(folder / "adapters" / name, base="org/model", seed=seed)
    return folder


# ----------------------------------------------------------------------------------- which one


def test_one_of_several_adapters_is_chosen(several):
    with pytest.raises(ConfigError, match=r"adapters: choose one.* 'clustering' or 'retrieval'"):
        Embedder(str(several))
    plain, *_ = embed(TINY)
    rows = {name: embed(several, adapter=name) for name in ("clustering", "retrieval", "")}
    np.testing.assert_array_equal(rows[""][0], plain)
    assert len({fingerprint for _, fingerprint, _ in rows.values()}) == 3
    assert len({digest for _, _, digest in rows.values()}) == 3
    assert abs(rows["clustering"][0] - rows["retrieval"][0]).max() > 1e-3
    by_path, *_ = embed(TINY, adapter=str(several / "adapters" / "retrieval"))
    np.testing.assert_array_equal(by_path, rows["retrieval"][0])


def test_two_adapters_of_one_model_are_loaded_at_once(several):
    settings = {"dtype": "float32", "device": "cpu"}
    with (
        Embedder(str(several), adapter="clustering", **settings) as first,
        Embedder(str(several), adapter="retrieval", **settings) as second,
    ):
        assert abs(first.embed_documents([TEXT]) - second.embed_documents([TEXT])).max() > 1e-3


def test_an_adapter_in_a_subfolder_of_the_model(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    write_adapter(folder / "checkpoint-500")
    plain, *_ = embed(folder)
    assert abs(embed(folder, adapter="checkpoint-500")[0] - plain).max() > 1e-3


def test_a_missing_adapter_is_an_error_that_lists_the_others(several, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"no adapter `x`: .* adapters clustering, retrieval"):
        Embedder(str(several), adapter="x")
    with pytest.raises(ModelLoadError, match=r"holds no `adapter_config\.json`, so it is not a Lo"):
        Embedder(str(several), adapter=str(TINY))


def test_a_folder_of_an_adapter_stands_for_its_base_with_the_adapter(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    vector, fingerprint, digest = embed(folder)
    expected, _, same = embed(TINY, adapter=str(folder))
    np.testing.assert_array_equal(vector, expected)
    assert digest == same != embed(TINY)[2]
    assert digest in fingerprint
    moved = write_adapter(tmp_path / "moved", base=str(shutil.copytree(TINY, tmp_path / "base")))
    assert embed(moved)[2] == digest
    with pytest.raises(ConfigError, match="is an adapter itself: pass its base model"):
        Embedder(str(folder), adapter=str(folder))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("org/missing", r"is a LoRA adapter of `org/missing`, which was not found; pass a folder"),
        (None, r"does not name the base model: pass that as the model, and this folder as `adap"),
    ],
)
def test_an_adapter_without_its_base_is_an_error(tmp_path, monkeypatch, base, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = write_adapter(tmp_path / "adapter", base=base)
    with pytest.raises(ModelLoadError, match=message):
        Embedder(str(folder))


def test_the_files_of_an_adapter_replace_those_of_its_base(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    prompts = {"query": "query: ", "document": "passage: "}
    for name in ("modules.json", "1_Pooling", "tokenizer.json"):
        copy = shutil.copytree if (TINY / name).is_dir() else shutil.copy
        copy(TINY / name, folder / name)
    pooling = folder / "1_Pooling" / "config.json"
    modes = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), **modes}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    found = resolve(str(folder), "embed")
    assert (found.decoder_config().pooling, found.prompts.document) == ("mean", "passage: ")
    assert (found.folder, found.tokenizer_folder) == (TINY, folder)
    before = embed(folder)[2]
    with pytest.raises(ConfigError, match=r"the adapter's file replaces .* use `engine=\"torch\"`"):
        Embedder(str(folder), engine="sentence-transformers")
    pooling.write_text(
        json.dumps(json.loads(pooling.read_text()) | {"include_prompt": True, "a": 1})
    )
    assert embed(folder)[2] != before


def test_an_adapter_beside_weights_is_refused_unless_it_is_named(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    for path in write_adapter(tmp_path / "adapter").iterdir():
        shutil.copy(path, folder)
    with pytest.raises(ModelLoadError, match=r"beside the weights of .* pass the folder as `adap"):
        Embedder(str(folder))
    assert abs(embed(folder, adapter=str(folder))[0] - embed(TINY)[0]).max() > 1e-3


# ------------------------------------------------------------------------- engines and fields


def test_engines_that_cannot_merge_refuse(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"the vllm engine cannot run .*`adapter_config\.json`"):
        Embedder("tiny", adapter=str(folder), engine="vllm")
    options = {"endpoint": "http://localhost:1"}
    with pytest.raises(ConfigError, match=r"`adapter` is 'x', but with .* the server decides it"):
        Embedder("model", adapter="x", engine="remote", engine_options=options)


def test_every_field_of_peft_is_known(tmp_path):
    """A field that a new version of PEFT adds must be implemented, excused or refused."""
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    refused = {
        "alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config",
        "layer_replication", "lora_bias", "megatron_config", "monteclora_config",
        "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
        "velora_config",
    }  # fmt: skip
    assert fields == adapters._IMPLEMENTED | adapters._IRRELEVANT | refused
    for number, field in enumerate(sorted(refused)):
        folder = write_adapter(tmp_path / str(number), **{field: [1]})
        with pytest.raises(ModelLoadError, match=rf"`{field}` in `adapter_config\.json` is \[1\]"):
            Embedder(str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("a_field_of_the_future", True),
    ],
)
def test_what_changes_the_weights_otherwise_is_refused(tmp_path, field, value):
    folder = write_adapter(tmp_path / "adapter", **{field: value})
    for engine in ("auto", "torch", "transformers", "sentence-transformers"):
        with pytest.raises(ModelLoadError, match=rf"`{field}` in `adapter_config\.json` is"):
            Embedder(str(folder), engine=engine)


@pytest.mark.parametrize("engine", ["torch", "transformers"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model.model.layers.7.mlp.down_proj.lora_A.weight": (2, 768),
          "base_model.model.layers.7.mlp.down_proj.lora_B.weight": (256, 2)},
         r"changes 1 weights that its base .*layers\.7\.mlp.* it belongs to another model"),
        ({"base_model.model.layers.0.mlp.down_proj.lora_B.weight": (300, 2)},
         r"`layers\.0\.mlp\.down_proj\.weight` has shape \(300, 768\)"),
        ({"base_model.model.layers.0.mlp.up_proj.lora_A.weight": (2, 256)}, "half of an update"),
        ({"base_model.model.norm.weight": (9,)}, r"`norm\.weight` has shape \(9,\)"),
        ({"base_model.model.layers.0.mlp.down_proj.lora_C.weight": (2, 2)}, "not supported"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_model_is_refused(tmp_path, change, message, engine):
    folder = write_adapter(tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    added = {name: torch.zeros(size) for name, size in change.items()}
    save_file({**load_file(path), **added}, path)
    with pytest.raises(ModelLoadError, match=message):
        Embedder(str(folder), engine=engine)


def test_a_rank_that_differs_from_the_configuration_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "adapter", r=4)
    with pytest.raises(ModelLoadError, match="has rank 2, and the configuration asks for 4"):
        Embedder(str(folder))


def test_an_adapter_without_weights_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"holds `adapter_config\.json` and no `adapter_model"):
        Embedder(str(folder))
