"""Settings of all adapters: the names and values that users of other classes try."""

import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from langchain_core.documents import Document
from langchain_huggingface import HuggingFaceEmbeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from pydantic import ValidationError
from sentence_transformers import CrossEncoder, SentenceTransformer

from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
)
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank
from quernstone import ConfigError, Embedder, Reranker

EMBEDDINGS = [QuernstoneEmbeddings, QuernstoneEmbedding]
RERANKERS = [QuernstoneReranker, QuernstoneRerank]
ADAPTERS = [*EMBEDDINGS, *RERANKERS, QuernstoneCrossEncoder]

# The arguments of the constructors, by class; of the installed ones as their signatures say.
EMBEDDING_PEERS = {
    "HuggingFaceEmbeddings": set(HuggingFaceEmbeddings.model_fields),
    "HuggingFaceEmbedding": set(inspect.signature(HuggingFaceEmbedding).parameters),
    "HuggingFaceBgeEmbeddings": {"query_instruction", "embed_instruction", "encode_kwargs"},
    "HuggingFaceEndpointEmbeddings": {"repo_id", "huggingfacehub_api_token", "client"},
    "NVIDIAEmbeddings": {
        "base_url", "model", "truncate", "dimensions", "max_batch_size", "model_type", "api_key",
        "nvidia_api_key", "nvidia_base_url", "verify_ssl", "default_headers",
        "usage_telemetry_enabled",
    },
    "OpenAIEmbeddings": {
        "client", "async_client", "model", "dimensions", "deployment", "openai_api_version",
        "api_version", "openai_api_base", "base_url", "openai_api_type", "openai_proxy",
        "embedding_ctx_length", "openai_api_key", "api_key", "openai_organization", "organization",
        "allowed_special", "disallowed_special", "chunk_size", "max_retries", "request_timeout",
        "timeout", "headers", "tiktoken_enabled", "tiktoken_model_name", "show_progress_bar",
        "model_kwargs", "skip_empty", "default_headers", "default_query", "retry_min_seconds",
        "retry_max_seconds", "http_client", "http_async_client", "check_embedding_ctx_length",
    },
    "OpenAIEmbedding": {
        "mode", "model", "embed_batch_size", "dimensions", "additional_kwargs", "api_key",
        "api_base", "api_version", "max_retries", "timeout", "reuse_client", "http_client",
        "default_headers", "async_http_client",
    },
    "CohereEmbeddings": {"truncate", "embedding_types", "user_agent", "cohere_api_key"},
    "TextEmbeddingsInference": {"truncate_text", "auth_token", "endpoint", "text_instruction"},
    "SentenceTransformer": {
        *inspect.signature(SentenceTransformer).parameters, "batch_size", "normalize_embeddings",
    },
}  # fmt: skip
RERANKING_PEERS = {
    "CohereRerank": {"client", "top_n", "model", "cohere_api_key", "base_url", "user_agent"},
    "NVIDIARerank": {"base_url", "model", "top_n", "truncate", "max_batch_size", "api_key"},
    "VoyageAIRerank": {"voyage_api_key", "top_k", "truncation", "model"},
    "SentenceTransformerRerank": {
        "model", "top_n", "device", "keep_retrieval_score", "trust_remote_code", "cache_folder",
        "cross_encoder_kwargs",
    },
    "FlagEmbeddingReranker": {"model", "top_n", "use_fp16"},
    "FlashrankRerank": {"client", "top_n", "score_threshold", "model", "prefix_metadata"},
    "HuggingFaceCrossEncoder": {"model_name", "model_kwargs"},
    "CrossEncoder": {
        *inspect.signature(CrossEncoder).parameters, "automodel_args", "tokenizer_args",
        "max_seq_length",
    },
}  # fmt: skip
# `**model_kwargs` of HuggingFaceEmbedding, and what LlamaIndex's base classes have themselves.
FRAMEWORK = {"callback_manager", "keep_retrieval_score"}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_every_name_of_a_peer_is_a_setting_or_has_advice(adapter):
    """Pydantic's "Extra inputs are not permitted" is of no help to a user who switches."""
    peers = EMBEDDING_PEERS if adapter in EMBEDDINGS else RERANKING_PEERS
    if adapter is QuernstoneCrossEncoder:
        peers = {name: peers[name] for name in ("HuggingFaceCrossEncoder", "CrossEncoder")}
    for name in sorted(set().union(*peers.values()) - FRAMEWORK):
        if name in adapter.model_fields or name in ("model", "model_name"):
            continue
        with pytest.raises(ValidationError) as caught:
            adapter(**{name: "sk-secret"})
        message = str(caught.value)
        assert f"`{name}` is not needed: " in message or f"`{name}` is unknown here: use" in message
        assert "sk-secret" not in message


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_advice_names_settings_that_exist(adapter):
    from quernstone.frameworks.names import ADVICE, settings_of

    fields = adapter.model_fields
    model = "model_name" if adapter is QuernstoneEmbedding else "model"
    for name in ADVICE.keys() - fields.keys():
        advice = error_of(lambda name=name: settings_of({name: 1}, fields, model=model))
        if "unknown here: use `" in advice:
            target = advice.split("use `")[1].split("`")[0].split("=")[0]
            assert target in {*fields, "model"}, name


TABLES = {
    "langchain.md": {
        "HuggingFaceEmbeddings": set(HuggingFaceEmbeddings.model_fields),
        "NVIDIAEmbeddings": {
            "base_url", "model", "truncate", "dimensions", "max_batch_size", "default_headers",
            "usage_telemetry_enabled",
        },
        "CohereRerank": {"top_n", "model", "base_url", "rank_fields", "max_tokens_per_doc"},
        "CrossEncoderReranker": {"top_n", "model"},
    },
    "llamaindex.md": {
        "HuggingFaceEmbedding": set(inspect.signature(HuggingFaceEmbedding).parameters),
        "SentenceTransformerRerank": {
            *inspect.signature(SentenceTransformerRerank).parameters,
            "cache_folder", "cross_encoder_kwargs",  # of the package of its own
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("page", TABLES)
def test_no_feature_of_a_peer_is_missing_in_the_tables(page):
    """Every setting of a compared class is named in the comparison."""
    docs = Path(__file__).parents[3] / "docs" / page
    compared = docs.read_text(encoding="utf-8").split("## Compared with the stock classes")[1]
    compared = compared.split("\n## ")[0]
    for peer, settings in TABLES[page].items():
        assert f"`{peer}`" in compared
        words = set(re.findall(r"\w+", compared))
        of_the_framework = {*BaseEmbedding.model_fields, "tokenizer"}
        assert not settings - of_the_framework - words, peer


def error_of(call):
    """Return the message of the ValueError that a call raises; empty if it raises none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def test_several_names_are_one_error_and_misspellings_get_a_suggestion():
    with pytest.raises(ValidationError) as caught:
        QuernstoneEmbeddings(query_instruction="q", normalize=True)
    assert "`query_instruction` is unknown here: use `instruction`" in str(caught.value)
    assert "`normalize` is not needed: vectors always have unit length" in str(caught.value)
    with pytest.raises(ValidationError, match="`instruktion` is unknown; did you mean `instruct"):
        QuernstoneRerank(instruktion="q")


def shown(adapter):
    """Return the settings, except those of LlamaIndex's base classes."""
    return {name: getattr(adapter, name) for name in adapter._settings() if name != "model_name"}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_every_spelling_of_the_model(adapter):
    spellings = [
        adapter("tiny"),
        adapter(model="tiny"),
        adapter(model_name="tiny"),
        adapter.model_validate({"model": "tiny"}),
        adapter.model_validate({"model_name": "tiny"}),
    ]
    for one in spellings:
        assert one.model == one.model_name == "tiny"
        assert shown(one) == shown(pickle.loads(pickle.dumps(one))) == shown(spellings[0])
    assert adapter(Path("folder")).model == "folder"
    with pytest.raises(TypeError, match="passed twice"):
        adapter("tiny", model_name="tiny")
    with pytest.raises(ValidationError, match="are the same setting"):
        adapter(model="tiny", model_name="tiny")
    with pytest.raises(ValidationError, match="model"):
        adapter(object())


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_values_with_one_obvious_meaning(adapter):
    given = adapter(
        "tiny",
        device=torch.device("cuda:1"),
        dtype=torch.bfloat16,
        max_length=None,
        truncate="END",
        cache_folder=Path("cache"),
    )
    assert (given.device, given.dtype, given.max_length) == ("cuda:1", "bfloat16", 8192)
    assert (given.truncate, given.cache_folder) == (True, "cache")
    for several in ("cuda:all", "cuda:0,cuda:1"):
        assert adapter("tiny", device=several).device == several
    given = adapter("tiny", device=None, dtype=None, truncate="NONE", show_progress=True)
    assert (given.device, given.dtype, given.truncate) == ("auto", "auto", False)
    assert given.show_progress


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'; use auto, cpu, cuda"),
        ({"device": "cuda:x"}, "unknown device"),
        ({"device": "cuda:0,cpu"}, "several GPUs as cuda:0,cuda:1 or cuda:all"),
        ({"device": 0}, "unknown device 0; use auto, cpu, cuda"),
        ({"dtype": "float64"}, "dtype"),
        ({"device": torch.float32}, "unknown device torch.float32; use auto, cpu, cuda"),
        ({"max_length": 0}, "`max_length` is 0; pass a whole number of at least 1"),
        ({"max_batch_tokens": True}, "`max_batch_tokens` is True; pass a whole number"),
        ({"truncate": "START"}, "cut at the end"),
    ],
    ids=str,
)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_wrong_values_are_refused_at_construction_and_assignment(adapter, wrong, reason):
    with pytest.raises(ValidationError, match=reason):
        adapter("tiny", **wrong)
    used = adapter("tiny")
    with pytest.raises(ValidationError, match=reason):
        setattr(used, *next(iter(wrong.items())))
    assert shown(used) == shown(adapter("tiny"))


NUMBERS = [
    *((adapter, "dimensions") for adapter in EMBEDDINGS),
    *((adapter, "top_n") for adapter in RERANKERS),
    *((adapter, name) for adapter in ADAPTERS for name in ("max_length", "max_batch_tokens")),
]
NOT_WHOLE = [True, False, 0.5, float("nan"), float("inf"), 0, -3, "", "many", "1e3", "2.5", b"3",
             [64], {"n": 64}, object, np.array([1, 2]), np.float32(0.5)]  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "name"), NUMBERS, ids=lambda each: getattr(each, "__name__", each)
)
def test_numbers_of_the_wrong_class_say_what_to_pass(adapter, name):
    for wrong in NOT_WHOLE:
        with pytest.raises(ValidationError) as caught:
            adapter("tiny", **{name: wrong})
        message = str(caught.value)
        assert f"`{name}` is {wrong!r}; pass a whole number of at least 1, such as" in message
        assert "or None for" in message
        with pytest.raises(ValidationError, match="pass a whole number"):
            setattr(adapter("tiny"), name, wrong)
    for given in (64, "64", 64.0, np.int64(64), torch.tensor(64)):
        found = getattr(adapter("tiny", **{name: given}), name)
        assert (found, type(found)) == (64, int)
    default = 8192 if name == "max_length" else None
    assert getattr(adapter("tiny", **{name: None}), name) == default


@pytest.mark.parametrize("adapter", RERANKERS, ids=lambda adapter: adapter.__name__)
@pytest.mark.parametrize("wrong", [True, 1.5, -0.1, "high", float("nan"), [0.5]], ids=repr)
def test_thresholds_of_the_wrong_class_say_what_to_pass(adapter, wrong):
    with pytest.raises(ValidationError, match="pass a probability from 0 to 1, such as"):
        adapter("tiny", score_threshold=wrong)


@pytest.mark.parametrize("adapter", EMBEDDINGS)
@pytest.mark.parametrize(
    ("model", "wrong", "most"),
    [
        ("tiny", 257, 256),
        ("tiny", 31, 256),
        ("Qwen/Qwen3-Embedding-0.6B", 1025, 1024),
        ("modelscope:Qwen/Qwen3-Embedding-4B", 4096, 2560),
        ("Qwen/Qwen3-Embedding-8B", 5000, 4096),
    ],
)
def test_wrong_dimensions_are_refused_without_the_model(adapter, model, wrong, most):
    with pytest.raises(ValidationError, match=f"`dimensions` is {wrong}; this model gives 32 to"):
        adapter(model, dimensions=wrong)
    assert adapter(model, dimensions=most).dimensions == most
    assert adapter(model, dimensions=wrong, engine="remote").dimensions == wrong


@pytest.mark.parametrize("adapter", EMBEDDINGS)
def test_the_dimensions_of_a_folder_are_read_from_its_config(adapter, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 96}')
    with pytest.raises(ValidationError, match="this model gives 32 to 96"):
        adapter(tmp_path, dimensions=97)
    (tmp_path / "modules.json").write_text("[]")  # it may have dense layers
    assert adapter(tmp_path, dimensions=97).dimensions == 97
    assert adapter("org/unknown", dimensions=97).dimensions == 97


def test_the_known_sizes_are_those_of_the_models(checkpoints):
    assert Embedder("tiny").dimensions == 256
    for adapter in EMBEDDINGS:
        assert adapter("tiny").resolved_dimensions == 256
        assert adapter("tiny", dimensions=64).resolved_dimensions == 64


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_warm_up_close_and_usage(adapter):
    used = adapter("tiny", dtype="float32")
    core = Embedder if adapter in EMBEDDINGS else Reranker
    assert used.usage.inputs == 0
    used.close()  # nothing to close
    used.warm_up()
    held = used.embedder if core is Embedder else used.reranker
    assert isinstance(held, core)
    run(used)
    assert used.usage == held.usage
    assert used.usage.inputs == 2
    used.close()
    assert used.usage.inputs == 0
    run(used)  # loads the model again
    assert used.usage.inputs == 2


def run(adapter):
    """Compute two inputs."""
    if isinstance(adapter, QuernstoneEmbeddings):
        adapter.embed_documents(["a", "b"])
    elif isinstance(adapter, QuernstoneEmbedding):
        adapter.get_text_embedding_batch(["a", "b"])
    elif isinstance(adapter, QuernstoneReranker):
        adapter.compress_documents([Document("a"), Document("b")], "q")
    elif isinstance(adapter, QuernstoneRerank):
        adapter.postprocess_nodes([NodeWithScore(node=TextNode(text=t)) for t in "ab"], None, "q")
    else:
        adapter.score([("q", "a"), ("q", "b")])


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_show_progress(adapter, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run(adapter("tiny"))
    assert capsys.readouterr().err == ""
    run(adapter("tiny", show_progress=True))
    assert "2 of 2 (100%)" in capsys.readouterr().err


@pytest.mark.parametrize("top_n", [1, None])
def test_thresholds_of_both_rerankers(top_n):
    texts = ["a hand mill grinds grain", "it rains", "a mill", "C"]
    scores = [r.score for r in Reranker("tiny").rerank("grinding grain", texts)]
    for threshold in (None, 0.0, scores[1], (scores[1] + scores[2]) / 2, 1.0):
        expected = [score for score in scores if score >= (threshold or 0)][:top_n]
        settings = {"top_n": top_n, "score_threshold": threshold}
        documents = QuernstoneReranker("tiny", **settings).compress_documents(
            map(Document, texts), "grinding grain"
        )
        nodes = QuernstoneRerank("tiny", **settings).postprocess_nodes(
            [NodeWithScore(node=TextNode(text=text)) for text in texts], None, "grinding grain"
        )
        assert [d.metadata["relevance_score"] for d in documents] == expected
        assert [node.score for node in nodes] == expected
    for adapter in RERANKERS:
        with pytest.raises(ValidationError, match="score_threshold"):
            adapter("tiny", score_threshold=1.5)


def test_the_cache_folder_reaches_the_core(tmp_path):
    """`tests/core/checkpoints/test_files.py` shows that the core uses it."""
    for adapter in ADAPTERS:
        assert adapter("tiny", cache_folder=tmp_path)._settings()["cache_folder"] == str(tmp_path)
    with pytest.raises(ConfigError, match="`cache_folder` is '/x', but with"):
        Embedder("m", engine="remote", cache_folder="/x", engine_options={"endpoint": "http://h"})
