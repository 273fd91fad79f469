import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.support.model_server import ModelServer
from tokenizers import Tokenizer

import quernstone
from quernstone.doctor import diagnose
from quernstone.engines.remote import transport
from quernstone.engines.remote.options import KEY_VARIABLE

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"


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
    """Makes texts with these words overflow float16, inside of the first layer.

    A channel of its MLP that nothing reads gets 300 times 300 for them, and little for others, so
    that nothing changes in a dtype that can hold it.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    at = "model." if any(name.startswith("model.") for name in tensors) else ""
    for word in words:
        number = tokenizer.encode(word, add_special_tokens=False).ids[0]
        tensors[f"{at}embed_tokens.weight"][number] = 0
        tensors[f"{at}embed_tokens.weight"][number, 0] = 100
    layer = f"{at}layers.0."
    norm = tensors[f"{layer}post_attention_layernorm.weight"]
    for part in ("gate", "up"):
        weight = tensors[f"{layer}mlp.{part}_proj.weight"]
        weight[0] = 0
        weight[0, 0] = 320 / (len(norm) ** 0.5 * norm[0])
    tensors[f"{layer}mlp.down_proj.weight"][:, 0] = 0
    save_file(tensors, path, metadata={"format": "pt"})
