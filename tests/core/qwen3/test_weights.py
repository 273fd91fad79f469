"""Checkpoints that are wrong are refused, by name, before anything is computed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quernstone import ConfigError, Embedder, MissingExtraError, ModelLoadError, Reranker, engines
from quernstone.checkpoints.checkpoint import resolve


@pytest.fixture
def copy(checkpoints, tmp_path):
    def make(layout="embedding-0.6b", *, small_vocabulary=True):
        folder = checkpoints(layout, small_vocabulary=small_vocabulary)
        return shutil.copytree(folder, tmp_path / "model")

    return make


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_missing_tensor_is_named(copy):
    folder = copy()
    change_weights(folder, lambda t: t.pop("layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelLoadError, match=r"missing `layers\.1\.mlp\.up_proj\.weight`"):
        Embedder(str(folder))


def test_an_unexpected_tensor_is_named(copy):
    folder = copy()
    change_weights(folder, lambda t: t.update({"layers.0.self_attn.q_proj.bias": torch.ones(9)}))
    with pytest.raises(ModelLoadError, match=r"unexpected `layers\.0\.self_attn\.q_proj\.bias`"):
        Embedder(str(folder))


def test_a_wrong_shape_names_both(copy):
    folder = copy()
    change_weights(folder, lambda t: t.update({"norm.weight": torch.ones(64)}))
    with pytest.raises(ModelLoadError, match=r"`norm\.weight` has shape \(64,\).*\(128,\)"):
        Embedder(str(folder))


def test_too_few_layers_in_the_config_is_found_out(copy):
    folder = copy()
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(ModelLoadError, match=r"unexpected `layers\.1\..* and \d+ more"):
        Embedder(str(folder))


def test_a_missing_shard_is_named(copy):
    folder = copy("reranker-4b")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model-00002-of-00002\.safetensors` is missing"):
        Reranker(str(folder))


def test_damaged_weights_are_named(copy):
    folder = copy()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors` cannot be read"):
        Embedder(str(folder))


def test_an_untied_reranker_needs_its_head(copy):
    folder = copy("reranker-0.6b")
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(ModelLoadError, match=r"missing `lm_head\.weight`"):
        Reranker(str(folder))


def test_a_stored_head_that_is_tied_is_no_error(copy):
    folder = copy()
    change_weights(folder, lambda t: t.update({"lm_head.weight": torch.ones(24945, 128)}))
    with Embedder(str(folder)) as embedder:
        assert embedder.embed_query("a").shape == (128,)


def test_a_folder_that_is_no_model(tmp_path, copy):
    with pytest.raises(ModelLoadError, match=r"holds no `config\.json`, so it is not a model"):
        Embedder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"holds no `tokenizer\.json`"):
        Embedder(str(tmp_path))
    folder = copy()
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="is not valid JSON"):
        Embedder(str(folder))


def test_a_name_that_is_nothing():
    with pytest.raises(ModelLoadError, match="neither an existing folder, nor `tiny`, nor a hub"):
        Embedder("no/such/folder/at all")


def test_a_hub_id_offline_says_what_to_do():
    with pytest.raises(ModelLoadError, match="Offline, pass the path of a downloaded folder"):
        Embedder("quernstone-tests/does-not-exist")


def test_the_wrong_tokenizer_for_the_vocabulary(copy, checkpoints):
    folder = copy("embedding-4b", small_vocabulary=False)
    shutil.copy(checkpoints("embedding-0.6b") / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(ModelLoadError, match="is the wrong tokenizer for this model"):
        Embedder(str(folder))


def hide(module, monkeypatch):
    find = engines.importlib.util.find_spec
    monkeypatch.setattr(
        engines.importlib.util, "find_spec", lambda m: None if m == module else find(m)
    )


def test_another_architecture_goes_to_a_library(copy, monkeypatch):
    folder = copy()
    change_config(folder, model_type="gemma", architectures=["GemmaForCausalLM"])
    checkpoint = resolve(str(folder), "embed")
    assert engines.choose_engine("auto", checkpoint) == "sentence-transformers"
    assert engines.choose_engine("auto", checkpoint, "rerank") == "transformers"
    with monkeypatch.context() as without:
        hide("sentence_transformers", without)
        assert engines.choose_engine("auto", checkpoint) == "transformers"
    (folder / "modules.json").unlink()
    assert engines.choose_engine("auto", checkpoint) == "transformers"
    change_config(folder, architectures=["GemmaForSequenceClassification"])
    classifier = resolve(str(folder), "rerank")
    assert engines.choose_engine("auto", classifier, "rerank") == "sentence-transformers"
    with pytest.raises(ConfigError, match="the torch engine runs Qwen3, Qwen2, Llama, Mistral"):
        engines.choose_engine("torch", checkpoint)


def test_another_pooling_is_a_library_s_affair(copy):
    folder = copy()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    checkpoint = resolve(str(folder), "embed")
    assert engines.choose_engine("auto", checkpoint) == "sentence-transformers"
    for engine in ("torch", "transformers", "vllm"):
        with pytest.raises(ConfigError, match=f"the {engine} engine cannot run .*: `pooling_mode`"):
            Embedder(str(folder), engine=engine)


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [
        ("transformers", "transformers", "transformers"),
        ("sentence-transformers", "sentence_transformers", "sentence-transformers"),
        ("sentence-transformers", "torch", "sentence-transformers"),
        ("vllm", "vllm", "vllm"),
    ],
)
def test_a_missing_package_prints_its_extra(engine, module, extra, checkpoints, monkeypatch):
    hide(module, monkeypatch)
    message = rf'`{module}` is not installed; run `pip install "quernstone\[{extra}\]"`'
    with pytest.raises(MissingExtraError, match=message):
        Embedder(str(checkpoints("embedding-0.6b", small_vocabulary=True)), engine=engine)


def test_the_instruction_stored_with_the_model_is_used(copy):
    folder = copy()
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"query": "Instruct: Find code\nQuery:"}}))
    assert resolve(str(folder), "embed").instruction == "Find code"
    path.write_text(json.dumps({"prompts": {"query": "query: "}}))
    assert resolve(str(folder), "embed").instruction == ""
    path.unlink()
    assert resolve(str(folder), "embed").instruction.startswith("Given a web search query")


def test_copies_of_a_folder_have_one_revision_and_changed_weights_another(copy, checkpoints):
    folder = copy()
    before = resolve(str(folder), "embed").revision
    original = checkpoints("embedding-0.6b", small_vocabulary=True)
    assert before == resolve(str(original), "embed").revision
    change_weights(folder, lambda t: t["norm.weight"].add_(1))
    assert resolve(str(folder), "embed").revision != before


def test_a_hub_id_is_found_in_the_cache_by_name_and_revision(checkpoints, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--Qwen--Qwen3-Embedding-0.6B"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    original = checkpoints("embedding-0.6b", small_vocabulary=True)
    shutil.copytree(original, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with Embedder("Qwen/Qwen3-Embedding-0.6B", dtype="float32") as embedder:
        assert embedder.model == "Qwen/Qwen3-Embedding-0.6B"
        assert commit in embedder.fingerprint
        assert embedder.embed_query("a").shape == (128,)
    assert resolve("Qwen/Qwen3-Embedding-0.6B", "embed", commit).revision == commit
    with pytest.raises(ModelLoadError, match="could not be fetched from the hub"):
        resolve("Qwen/Qwen3-Embedding-0.6B", "embed", "some-other-branch")
