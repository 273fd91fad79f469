"""Where models come from: a clear error for every way in which a folder is not complete."""

import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest

from quernstone import Embedder, MissingExtraError, ModelLoadError, Reranker
from quernstone.checkpoints.checkpoint import resolve
from quernstone.checkpoints.files import check_files, content_digest
from quernstone.checkpoints.hubs import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:0437e45c94563b09e13cb7a64478fc406947a93cb34a7e05870fc8dcd48e23fd\n"
    b"size 1191586416\n"
)


@pytest.fixture
def checkpoints(checkpoints):
    """Makes checkpoints that are quick to copy and to open."""
    return partial(checkpoints, small_vocabulary=True)


@pytest.fixture
def copy(checkpoints, tmp_path):
    def make(layout="embedding-0.6b"):
        return shutil.copytree(checkpoints(layout), tmp_path / "model")

    return make


@pytest.fixture
def cached(checkpoints, tmp_path, monkeypatch):
    """Puts a checkpoint into a hub cache, as a snapshot that `main` points at."""
    from huggingface_hub import constants

    def make(layout="embedding-0.6b", name="Qwen/Qwen3-Embedding-0.6B"):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        return shutil.copytree(checkpoints(layout), repository / "snapshots" / COMMIT)

    return make


class Opened:
    """What a pickle runs when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("opened"),)


# ------------------------------------------------------------------------- what is in a folder


def test_a_missing_shard_is_named_with_its_number_and_a_command(copy):
    folder = copy("reranker-4b")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError) as raised:
        resolve(str(folder), "rerank")
    assert str(raised.value) == (
        f"`{folder}/model-00002-of-00002.safetensors` is missing: `model.safetensors.index.json` "
        "names 2 shards, of which 1 is missing (model-00002-of-00002.safetensors); copy it from "
        "where the other files came from; for a model of the hub: "
        f"`hf download ORGANISATION/MODEL --local-dir {folder}`"
    )


def test_shards_without_their_index(copy):
    folder = copy("reranker-4b")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelLoadError, match=r"shards such as .* but no `model\.safetensors\.ind"):
        resolve(str(folder), "rerank")


def test_an_index_that_is_none(copy):
    folder = copy("reranker-4b")
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelLoadError, match="is not an index of safetensors"):
        resolve(str(folder), "rerank")


def test_a_pickle_is_never_opened(copy, tmp_path, monkeypatch):
    folder = copy()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Opened()))
    monkeypatch.chdir(tmp_path)
    for engine in ("torch", "transformers", "sentence-transformers"):
        with pytest.raises(ModelLoadError) as raised:
            Embedder(str(folder), engine=engine)
        message = str(raised.value)
        assert "holds `pytorch_model.bin` and no safetensors" in message
        assert "never pickles" in message
        assert "`AutoModel.from_pretrained(folder).save_pretrained(folder)`" in message
    assert not (tmp_path / "opened").exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "opened").exists()  # it would have shown


def test_the_conversion_that_the_error_names_works(copy, checkpoints):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    folder = copy()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    with (
        Embedder(str(folder), dtype="float32") as converted,
        Embedder(str(checkpoints("embedding-0.6b")), dtype="float32") as original,
    ):
        assert converted.embed_query("a") @ original.embed_query("a") == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_no_file(copy, name):
    folder = copy()
    (folder / name).write_bytes(POINTER)
    with pytest.raises(ModelLoadError) as raised:
        resolve(str(folder), "embed")
    assert f"`{folder}/{name}` is a Git LFS pointer of {len(POINTER)} bytes" in str(raised.value)
    assert f"run `git lfs install && git lfs pull` in `{folder}`" in str(raised.value)


def test_half_a_download_says_how_much_is_there(copy):
    folder = copy()
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(ModelLoadError) as raised:
        resolve(str(folder), "embed")
    assert f"it has {len(whole) - 1000} of {len(whole)} bytes, so a download was cut short" in str(
        raised.value
    )


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 5000, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_at_all(copy, content):
    folder = copy()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ModelLoadError, match=f"its {len(content)} bytes do not start with a complete"
    ):
        resolve(str(folder), "embed")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_small_file_is_named(copy, name):
    folder = copy()
    (folder / name).unlink()
    (folder / "modules.json").unlink()
    with pytest.raises(ModelLoadError, match=f"holds no `{name}`, so it is not a .*hf download"):
        resolve(str(folder), "embed")


def test_weights_of_a_module_of_sentence_transformers_are_looked_at(copy):
    folder = copy()
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(POINTER)
    check_files(locate(str(folder), "embed"))  # no module of the list
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "2_Dense"}]))
    with pytest.raises(ModelLoadError, match=r"2_Dense/model\.safetensors` is a Git LFS pointer"):
        resolve(str(folder), "embed")


def test_a_file_in_the_place_of_a_folder(copy, tmp_path):
    folder = copy()
    with pytest.raises(
        ModelLoadError, match=f"is a file; name the folder that holds it, `{folder}"
    ):
        resolve(f"{folder}/model.safetensors", "embed")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="is a GGUF file; use the checkpoint with safetensors"):
        resolve(f"{tmp_path}/model.gguf", "embed")


def test_a_folder_in_the_home_directory(copy, monkeypatch):
    folder = copy()
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/model", "embed").folder == folder.resolve()


@pytest.mark.parametrize("engine", ["transformers", "sentence-transformers"])
def test_code_that_comes_with_a_model_is_not_run(copy, tmp_path, monkeypatch, engine):
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "code.Model")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("from pathlib import Path\nPath('opened').touch()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match="needs code that comes with the model"):
        Embedder(str(folder), engine=engine, dtype="float32")
    assert not (tmp_path / "opened").exists()


# ------------------------------------------------------------------------------------- digests


def test_a_snapshot_and_a_copy_have_one_digest(cached, copy):
    snapshot, folder = cached(), copy()
    of_hub = resolve("Qwen/Qwen3-Embedding-0.6B", "embed")
    of_folder = resolve(str(folder), "embed")
    assert (of_hub.folder, of_hub.revision) == (snapshot, COMMIT)
    assert of_hub.digest == of_folder.digest == of_folder.revision
    with Embedder(str(folder), dtype="float32") as embedder:
        assert embedder.digest == of_hub.digest


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_digest_changes_with_every_file_that_vectors_depend_on(copy, name):
    folder = copy()
    before = content_digest(folder, modules=False)
    (folder / "README.md").write_text("nothing")
    assert content_digest(folder, modules=False) == before
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert content_digest(folder, modules=False) != before


# ------------------------------------------------------------------------------------ the hub


def test_a_pinned_commit_in_the_cache_asks_nobody(cached, monkeypatch):
    import huggingface_hub

    folder = cached()
    calls = []
    real = huggingface_hub.snapshot_download

    def recorded(*arguments, **options):
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", recorded)
    source = locate("Qwen/Qwen3-Embedding-0.6B", "embed", COMMIT)
    assert (source.folder, source.commit) == (folder, COMMIT)
    assert [call.get("local_files_only") for call in calls] == [True]


def test_a_snapshot_that_lacks_a_shard_says_what_fetches_it(cached):
    folder = cached("reranker-4b", "Qwen/Qwen3-Reranker-4B")
    (folder / "model-00001-of-00002.safetensors").unlink()
    for revision, option in ((None, ""), (COMMIT, f" --revision {COMMIT}")):
        with pytest.raises(ModelLoadError) as raised:
            Reranker("Qwen/Qwen3-Reranker-4B", revision=revision)
        assert str(raised.value).endswith(f"; run `hf download Qwen/Qwen3-Reranker-4B{option}`")


def test_only_data_is_asked_for(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(name, *, allow_patterns, local_files_only=False, **options):
        assert allow_patterns == ["*.safetensors", "*.json", "*.txt"]
        raise LocalEntryNotFoundError("nothing") if local_files_only else OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(ModelLoadError, match=r"from the hub at https://\S+: no network"):
        locate("org/model", "embed")


def test_offline_the_error_names_every_way_on():
    with pytest.raises(ModelLoadError) as raised:
        resolve("quernstone-tests/none", "embed", "v1")
    message = str(raised.value)
    assert "`hf download quernstone-tests/none --revision v1` fills the cache" in message
    assert "pass the path of a downloaded folder, or `tiny`" in message
    assert "`HF_ENDPOINT`" in message
    assert "`modelscope:quernstone-tests/none`" in message


def test_a_cache_folder_replaces_that_of_the_hub(cached, monkeypatch, tmp_path):
    from huggingface_hub import constants

    cached()
    cache = str(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    name = "Qwen/Qwen3-Embedding-0.6B"
    with pytest.raises(ModelLoadError):
        Embedder(name)
    Embedder(name, cache_folder=cache, dtype="float32").close()
    missing = str(tmp_path / "none")
    with pytest.raises(ModelLoadError, match=f"hf download {name} --cache-dir {missing}"):
        Embedder(name, cache_folder=missing)


# -------------------------------------------------------------------------------- ModelScope


@pytest.fixture
def modelscope(monkeypatch):
    """Stands for ModelScope's own `snapshot_download`: records calls, returns `folder`."""
    module = pytest.importorskip("modelscope.hub.snapshot_download")

    class Recorded:
        folder = ""
        errors = ()

        def __init__(self):
            self.calls = []

        def __call__(self, *arguments, **options):
            self.calls.append((arguments, options))
            for error in self.errors:
                self.errors = self.errors[1:]
                raise error
            return str(self.folder)

    recorded = Recorded()
    monkeypatch.setattr(module, "snapshot_download", recorded)
    return recorded


def test_modelscope_is_asked_for_the_model_and_nothing_but_data(modelscope, checkpoints):
    modelscope.folder = checkpoints("embedding-0.6b")
    with Embedder(
        "modelscope:Qwen/Qwen3-Embedding-0.6B", revision="v1", dtype="float32"
    ) as embedder:
        assert embedder.model == "modelscope:Qwen/Qwen3-Embedding-0.6B"
        assert embedder.revision == embedder.digest  # a branch's folder is no commit
    ((arguments, options),) = modelscope.calls
    assert arguments == ("Qwen/Qwen3-Embedding-0.6B",)
    assert options == {
        "revision": "v1",
        "allow_patterns": ["*.safetensors", "*.json", "*.txt"],
        "local_files_only": True,  # HF_HUB_OFFLINE is set
    }


def test_modelscope_out_of_reach_falls_back_on_its_cache(modelscope, checkpoints, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    modelscope.folder = checkpoints("embedding-0.6b")
    modelscope.errors = (ConnectionError("no route"),)
    source = locate("modelscope:Qwen/Qwen3-Embedding-0.6B", "embed")
    assert source.folder == modelscope.folder
    assert [options["local_files_only"] for _, options in modelscope.calls] == [False, True]


def test_modelscope_offline_says_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("modelscope")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError) as raised:
        locate("modelscope:Qwen/Qwen3-Embedding-0.6B", "embed")
    message = str(raised.value)
    assert "could not be fetched from ModelScope" in message
    assert "`modelscope download Qwen/Qwen3-Embedding-0.6B` fills the cache" in message


def test_modelscope_without_its_package_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(MissingExtraError, match=r'pip install "quernstone\[modelscope\]"'):
        locate("modelscope:Qwen/Qwen3-Embedding-0.6B", "embed")
