"""The sentence-transformers engine: Qwen3 by our prompts, everything else by its own."""

import json
import logging
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from quernstone import (
    ConfigError,
    Embedder,
    InputTooLongError,
    ModelLoadError,
    Reranker,
)
from quernstone.encoding.unknown import UnknownTexts

ENGINE = "sentence-transformers"
TEXTS = ["", "the quick brown fox", "a mill", "汉字 and <|im_end|> more " * 9, "word " * 300]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
PROMPTS = {"query": "query: ", "passage": "passage: "}


# random weights in bfloat16 differ by more than these tests do
embedder_of = partial(Embedder, dtype="float32")
reranker_of = partial(Reranker, dtype="float32")


def cosines(a, b):
    return (a * b).sum(axis=1)


@pytest.mark.slow
def test_qwen3_embeddings_are_ours(checkpoints):
    """The 0.6B shape, three layers of it."""
    folder = str(checkpoints("embedding-0.6b", layers=3, width=1, dtype=torch.bfloat16))
    with (
        Embedder(folder, dtype="float32") as ours,
        Embedder(folder, dtype="float32", engine=ENGINE) as theirs,
    ):
        assert theirs.info.engine == ENGINE
        assert (ours.dimensions, theirs.dimensions) == (1024, 1024)
        for embed in ("embed_documents", "embed_queries"):
            a, b = getattr(ours, embed)(TEXTS), getattr(theirs, embed)(TEXTS)
            assert cosines(a, b).min() >= 0.99999
            np.testing.assert_allclose(a, b, atol=2e-6)
        assert theirs.usage.tokens == ours.usage.tokens


@pytest.mark.parametrize("template", ["card", "eval"])
@pytest.mark.parametrize("chat_template", [False, True])
def test_qwen3_scores_are_ours(checkpoints, template, chat_template, tmp_path):
    folder = checkpoints("reranker-0.6b")
    if chat_template:  # as the official folder has; with it the library takes messages only
        folder = shutil.copytree(folder, tmp_path / "model")
        path = folder / "tokenizer_config.json"
        given = json.loads(path.read_text())
        path.write_text(json.dumps({**given, "chat_template": CHAT_TEMPLATE}))
    pairs = [(query, text) for text in TEXTS for query in ("what is a quern?", "")]
    settings = {"dtype": "float32", "template": template}
    with (
        Reranker(str(folder), **settings) as ours,
        Reranker(str(folder), engine=ENGINE, **settings) as theirs,
    ):
        scores = ours.score(pairs)
        assert np.ptp(scores) > 0.01
        np.testing.assert_allclose(theirs.score(pairs), scores, atol=1e-5)


def test_qwen3_is_cut_by_us(checkpoints, caplog):
    folder = str(checkpoints("embedding-0.6b"))
    settings = {"dtype": "float32", "max_length": 16}
    with (
        Embedder(folder, **settings) as ours,
        Embedder(folder, engine=ENGINE, **settings) as theirs,
    ):
        np.testing.assert_allclose(
            ours.embed_documents(TEXTS), theirs.embed_documents(TEXTS), atol=2e-6
        )
        assert theirs.usage.truncated == ours.usage.truncated == 2
    with (
        Embedder(folder, engine=ENGINE, truncate=False, **settings) as strict,
        pytest.raises(InputTooLongError, match="input 3: the text has 97 tokens, the limit is 15"),
    ):
        strict.embed_documents(TEXTS)


def test_rows_that_overflow_are_recomputed_in_float32(checkpoints, monkeypatch):
    from quernstone.engines.sentence_transformers import SentenceTransformersEngine

    folder = str(checkpoints("embedding-0.6b", dtype=torch.bfloat16))
    run = SentenceTransformersEngine.run

    def overflowing(self, batch, *, precise=False):
        rows = run(self, batch, precise=precise)
        return rows if precise or self.info.dtype == "float32" else np.full_like(rows, np.nan)

    monkeypatch.setattr(SentenceTransformersEngine, "run", overflowing)
    with (
        Embedder(folder, dtype="bfloat16", engine=ENGINE) as half,
        Embedder(folder, dtype="float32", engine=ENGINE) as full,
    ):
        a, b = half.embed_documents(TEXTS[:3]), full.embed_documents(TEXTS[:3])
        np.testing.assert_allclose(a, b, atol=1e-6)


# -------------------------------------------------------------------------- models of other kinds


def test_another_embedding_model_is_the_library_s(minilm):
    folder = minilm()
    reference = SentenceTransformer(folder)
    with embedder_of(folder) as embedder:  # `auto` chooses the engine by the folder
        assert embedder.info.engine == ENGINE
        assert (embedder.dimensions, embedder.max_length, embedder.instruction) == (48, 64, "")
        documents = embedder.embed_documents(TEXTS)
        np.testing.assert_allclose(documents, reference.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(embedder.embed_queries(TEXTS), documents, atol=1e-6)
        assert embedder.usage.inputs == 10
        assert embedder.usage.tokens == embedder.usage.truncated == 0


def test_dimensions_cut_then_normalise(minilm):
    folder = minilm()
    with embedder_of(folder) as whole, embedder_of(folder, dimensions=32) as small:
        cut = whole.embed_documents(TEXTS)[:, :32]
        expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        np.testing.assert_allclose(small.embed_documents(TEXTS), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="`dimensions` is 49; this model gives 32 to 48"):
        embedder_of(folder, dimensions=49)


def test_the_model_s_own_prompts_are_used(minilm):
    folder = minilm(PROMPTS)
    reference = SentenceTransformer(folder)
    with embedder_of(folder) as embedder:
        np.testing.assert_allclose(
            embedder.embed_queries(TEXTS), reference.encode_query(TEXTS), atol=1e-6
        )
        np.testing.assert_allclose(
            embedder.embed_documents(TEXTS),
            reference.encode(TEXTS, prompt_name="passage"),
            atol=1e-6,
        )
        apart = cosines(embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS))
        assert apart.min() < 0.999


def test_an_instruction_replaces_the_query_prompt(minilm):
    folder = minilm(PROMPTS)
    reference = SentenceTransformer(folder)
    expected = reference.encode(["Instruct: the fox\nQuery:a mill"])[0]
    with embedder_of(folder) as plain, embedder_of(folder, instruction="the fox") as instructed:
        np.testing.assert_allclose(instructed.embed_query("a mill"), expected, atol=1e-6)
        np.testing.assert_allclose(plain.embed_query("a mill", "the fox"), expected, atol=1e-6)
        np.testing.assert_array_equal(
            instructed.embed_documents(["a mill"]), plain.embed_documents(["a mill"])
        )


def test_long_texts_are_cut_and_reported(minilm, caplog):
    with embedder_of(minilm()) as embedder, caplog.at_level(logging.WARNING, "quernstone"):
        assert embedder.max_length == 64
        embedder.embed_documents(["a mill", "a " * 62])
        assert caplog.text == ""
        embedder.embed_documents(["a mill", "a " * 63])
        assert "1 of 2 inputs were longer than max_length=64 tokens" in caplog.text
    with embedder_of(minilm(), max_length=16) as short:
        assert short.max_length == 16
        a, b = short.embed_documents(["a " * 14, "a " * 60])
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_long_texts_are_errors_on_request(minilm):
    texts = ["a mill", "a " * 63, "the fox"]
    with embedder_of(minilm(), truncate=False) as strict:
        with pytest.raises(
            InputTooLongError, match="input 1: the text has 65 tokens, the limit is 64"
        ):
            strict.embed_documents(texts)
        assert strict.embed_documents(texts[::2]).shape == (2, 48)


def test_cross_encoders_give_their_sigmoid(cross_encoder):
    folder = cross_encoder()
    pairs = [(query, text) for text in TEXTS for query in ("a mill", "the quick fox")]
    expected = CrossEncoder(folder).predict(pairs, activation_fn=torch.nn.Sigmoid())
    with reranker_of(folder) as reranker:
        assert reranker.info.engine == ENGINE
        assert (reranker.instruction, reranker.max_length) == ("", 64)
        scores = reranker.score(pairs)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert np.ptp(scores) > 0.01
        best = reranker.rerank("a mill", TEXTS)[0]
        assert best.score == pytest.approx(expected[::2].max(), abs=1e-6)
        assert reranker.score([]).shape == (0,)


def test_cross_encoders_take_no_instruction_and_no_template(cross_encoder):
    for wrong in ({"instruction": "Find it"}, {"template": "eval"}):
        with pytest.raises(ConfigError, match="leave out `instruction` and `template`"):
            reranker_of(cross_encoder(), **wrong)
    with (
        reranker_of(cross_encoder()) as reranker,
        pytest.raises(ConfigError, match="leave out `instruction`"),
    ):
        reranker.score([("a", "b")], "Find it")


def test_a_classifier_is_no_reranker(cross_encoder):
    with pytest.raises(ModelLoadError, match="has 3 labels; a reranker has one score"):
        reranker_of(cross_encoder(labels=3))


# ------------------------------------------------------------------------------------- the options


def test_options_reach_the_library(minilm):
    prompts = {"query": "the fox "}
    with (
        embedder_of(minilm(), engine_options={"prompts": prompts}) as one,
        embedder_of(minilm(), engine_options={"prompts": dict(prompts)}) as same,
        embedder_of(minilm()) as other,
    ):
        np.testing.assert_allclose(
            one.embed_query("a mill"), other.embed_documents(["the fox a mill"])[0], atol=1e-6
        )
        assert one._session.backend is same._session.backend
        assert one._session.backend is not other._session.backend
        assert one.fingerprint == same.fingerprint != other.fingerprint
    with embedder_of(
        minilm(), engine_options={"model_kwargs": {"attn_implementation": "eager"}}
    ) as e:
        assert e.info.attention == "eager"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "must not contain 'device': use `device`"),
        ({"truncate_dim": 32}, "must not contain 'truncate_dim': use `dimensions`"),
        ({"trust_remote_code": True}, "code that comes with a model is never run"),
        ({"model_kwargs": [1]}, "`model_kwargs` in `engine_options` is list"),
        ({"model_kwargs": {"torch_dtype": "float16"}}, "must not contain a dtype: use `dtype`"),
        (
            {"model_kwargs": {"use_safetensors": False}},
            "`model_kwargs` .* 'use_safetensors': code and pickles",
        ),
        ({"config_kwargs": {"trust_remote_code": True}}, "`config_kwargs` .* 'trust_remote_code'"),
        ({"backend": "onnx"}, "`dtype` is 'float32', but the files of the onnx backend decide it"),
        ({"no_such_option": 1}, "does not take these `engine_options`: .*no_such_option"),
    ],
)
def test_options_that_cannot_work(options, message, minilm):
    with pytest.raises(ConfigError, match=message):
        embedder_of(minilm(), engine_options=options)


def test_fingerprints_tell_dtypes_and_engines_apart(minilm, checkpoints):
    with embedder_of(minilm()) as full, Embedder(minilm(), dtype="bfloat16") as half:
        assert "engine=sentence-transformers" in full.fingerprint
        assert full.fingerprint != half.fingerprint
        assert half.info.dtype == "bfloat16"
    folder = str(checkpoints("embedding-0.6b"))
    with (
        embedder_of(folder) as ours,
        embedder_of(folder, engine=ENGINE) as theirs,
    ):
        assert ours.fingerprint == theirs.fingerprint  # the same vectors


def test_damaged_weights_are_a_load_error(minilm, tmp_path):
    folder = shutil.copytree(minilm(), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        embedder_of(str(folder))


def test_weights_that_are_pickles_are_not_read(minilm, tmp_path):
    folder = shutil.copytree(minilm(), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin"):
        embedder_of(str(folder))


def test_unknown_texts_are_found_for_the_bundled_model_only(checkpoints, monkeypatch):
    looked_at = []
    monkeypatch.setattr(UnknownTexts, "check", lambda _, texts, offset: looked_at.append(texts))
    for model in ("tiny", str(checkpoints("embedding-0.6b"))):
        with Embedder(model, engine=ENGINE) as embedder:
            embedder.embed_documents([f"read by {model}"])
    assert looked_at == [["read by tiny"]]
