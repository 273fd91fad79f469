import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.core.doctor.servers import ModelServer

import quernstone
from quernstone.doctor import diagnose
from quernstone.engines.remote import transport
from quernstone.engines.remote.options import KEY_VARIABLE

TINY = Path(quernstone.__file__).parent / "tiny"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waits of milliseconds, and no key of the machine."""
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def copy(tmp_path):
    """Copies a checkpoint, by default the tiny one of a task, to be changed."""

    def make(task="embed", folder=None):
        source = folder or TINY / {"embed": "embedding", "rerank": "reranker"}[task]
        return Path(shutil.copytree(source, tmp_path / f"{task}ding"))

    return make


@pytest.fixture
def examine():
    """Starts a server with a fault and has it examined by its address."""

    def run(task="embed", *, fault=None, dialect="openai", folder=None, reference=None, **settings):
        folder = folder or TINY / {"embed": "embedding", "rerank": "reranker"}[task]
        options = {"template": "server"} if task == "rerank" else {}
        with ModelServer(folder, task, fault=fault, says=dialect, **settings) as server:
            return diagnose(
                server.name,
                task=task,
                engine="remote",
                engine_options={"endpoint": server.url, "dialect": dialect, **options},
                reference=reference,
            )

    return run


def append(folder, token):
    """Makes the tokenizer file append another token, or nothing."""
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    template = next(
        each
        for each in [spec["post_processor"], *spec["post_processor"].get("processors", [])]
        if each["type"] == "TemplateProcessing"
    )
    number = next(each["id"] for each in spec["added_tokens"] if each["content"] == token)
    template["special_tokens"] = {token: {"id": token, "ids": [number], "tokens": [token]}}
    tail = [{"SpecialToken": {"id": token, "type_id": 0}}]
    for kind in ("single", "pair"):
        template[kind] = [each for each in template[kind] if "Sequence" in each] + tail
    path.write_text(json.dumps(spec))


def append_nothing(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))


def overflow(folder, words):
    """Makes the embeddings of some words too large for float16; bfloat16 and float32 hold them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    for word in words:
        number = tokenizer.encode(word, add_special_tokens=False).ids[0]
        tensors[name][number] *= 2e5 / tensors[name][number].abs().max()
    save_file(tensors, path, metadata={"format": "pt"})
