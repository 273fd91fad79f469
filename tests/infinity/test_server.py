"""The remote engine with a real infinity server, from an environment of its own.

`make test-infinity` installs that and runs this; without it the tests are skipped.
"""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from tests.support.checkpoints import random_checkpoint
from transformers import BertConfig, BertForSequenceClassification

from quernstone import ConfigError, Embedder, InputError, Reranker

ROOT = Path(__file__).parents[2]
PROGRAM = Path(os.environ.get("INFINITY_VENV", ROOT / ".venv-infinity")) / "bin" / "infinity_emb"
STARTED_WITHIN = 240
WORDS = "the quick brown fox jumps over lazy dog query passage mill grain grinds it rains".split()
TEXTS = [
    "A quern is a hand mill.",
    "It rains.",
    "",
    "面粉是由谷物磨成的。",
    "grain, flour " * 90 + ".",
]

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason="infinity is not installed; see `make install-infinity`"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("infinity")


@pytest.fixture(scope="module")
def embedding(folder):
    made = {"dtype": torch.float32, "layers": 2, "width": 4}
    return str(random_checkpoint(folder / "embedding", "embedding-0.6b", **made))


@pytest.fixture(scope="module")
def cross_encoder(folder):
    """A small BERT that scores pairs; infinity cannot run a Qwen3 reranker."""
    path = folder / "cross-encoder"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.4,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    from transformers import BertTokenizerFast

    fast = BertTokenizerFast(str(path / "vocab.txt"))
    fast.backend_tokenizer.save(str(path / "tokenizer.json"))
    return str(path)


@pytest.fixture(scope="module")
def endpoint(folder, embedding, cross_encoder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, "v2", "--host", "127.0.0.1", "--port", str(port)]
    for model, name in ((embedding, "embedding"), (cross_encoder, "cross-encoder")):
        command += ["--model-id", model, "--served-model-name", name]
        command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32"]
        command += ["--no-bettertransformer", "--no-model-warmup"]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < end and process.poll() is None:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        else:
            pytest.fail(f"infinity did not start:\n{log.read_text()[-4000:]}")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def remote(endpoint):
    options = {"endpoint": endpoint, "dialect": "infinity"}
    with Embedder("embedding", engine="remote", engine_options=options) as made:
        yield made


@pytest.fixture
def ours(embedding):
    with Embedder(embedding, device="cpu", dtype="float32") as made:
        yield made


def least_cosine(one, two):
    return float(np.sum(one * two, axis=1).min())


def test_embeddings_are_those_of_our_engine(remote, ours):
    assert least_cosine(remote.embed_documents(TEXTS), ours.embed_documents(TEXTS)) > 0.99999
    queries = remote.embed_queries(TEXTS, "Find mills")
    assert least_cosine(queries, ours.embed_queries(TEXTS, "Find mills")) > 0.99999
    many = [f"{number} sacks" for number in range(200)]
    assert least_cosine(remote.embed_documents(many), ours.embed_documents(many)) > 0.99999


def test_it_strips_white_space_as_the_page_says(remote, ours):
    padded = remote.embed_documents([" mill \n"])
    assert least_cosine(padded, ours.embed_documents(["mill"])) > 0.99999
    assert least_cosine(padded, ours.embed_documents([" mill \n"])) < 0.999


def test_a_text_that_it_refuses_is_named(remote):
    with pytest.raises(InputError, match="at most 122880 characters") as caught:
        remote.embed_documents(["a", "b", "x" * 122_881, "c"])
    assert caught.value.index == 2


def test_a_cross_encoder_scores_as_it_does_here(endpoint, cross_encoder):
    documents = [" ".join(WORDS[start : start + 5]) for start in range(10)]
    options = {"endpoint": endpoint, "dialect": "infinity", "template": "server"}
    with (
        Reranker("cross-encoder", engine="remote", engine_options=options) as remote,
        Reranker(cross_encoder, engine="sentence-transformers", dtype="float32") as here,
    ):
        found = remote.rerank("mill grain", documents)
        wanted = here.rerank("mill grain", documents)
        assert [one.index for one in found] == [one.index for one in wanted]
        assert [one.score for one in found] == pytest.approx([o.score for o in wanted], abs=1e-4)
        with pytest.raises(ConfigError, match="no field for an instruction"):
            remote.rerank("mill", documents, instruction="Find mills")
