"""Classification heads, against transformers and sentence-transformers."""

import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tests.support.rerankers import (
    CHAT,
    ENGINES,
    PAIRS,
    PLAIN,
    TINY,
    classifier,
    converted,
    expected_logits,
    write,
)

from quernstone import ConfigError, ModelLoadError, PairTemplate, Reranker
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY, tmp_path / "model")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("pad", [None, 24940])
def test_a_classification_head_equals_transformers(folder, labels, engine, pad):
    classifier(folder, labels, pad_token_id=pad)
    endings = PLAIN, CHAT, PairTemplate(prefix=CHAT.prefix, suffix="<|im_end|><|endoftext|>")
    for template in endings:
        logits = expected_logits(folder, template)
        scores = logits.sigmoid()[:, 0] if labels == 1 else logits.softmax(1)[:, 1]
        with Reranker(
            str(folder), template=template, engine=engine, dtype="float32", device="cpu"
        ) as reranker:
            np.testing.assert_allclose(reranker.score(PAIRS), scores, atol=2e-6)


@pytest.mark.parametrize("rows", [("difference",), ("no", "yes"), ("yes", "no")])
def test_a_conversion_scores_like_its_original(folder, rows):
    converted(folder, *rows)
    with Reranker("tiny", dtype="float32", device="cpu") as original:
        expected = original.score(PAIRS)
    with Reranker(str(folder), template="card", dtype="float32", device="cpu") as reranker:
        assert reranker.info.engine == "torch"
        assert (reranker.template, reranker.instruction) == ("card", DEFAULT_INSTRUCTION)
        np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("files", "score"),
    [
        ({}, "probability"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, "probability"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, "logit"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "logit"),
        ({"problem_type": "regression"}, "probability"),
    ],
)
def test_the_stored_activation_is_obeyed(folder, files, score):
    name = str(converted(folder, "difference", pad_token_id=24940, **files))
    theirs = CrossEncoder(name, device="cpu", model_kwargs={"dtype": torch.float32})
    with Reranker(name, dtype="float32", device="cpu") as reranker:
        assert (reranker.info.engine, reranker.template) == ("torch", PairTemplate(
            prefix="{query}", score=score))  # fmt: skip
        np.testing.assert_allclose(reranker.score(PAIRS), theirs.predict(PAIRS), atol=2e-6)
    with Reranker(name, template="card", dtype="float32", device="cpu") as reranker:
        assert (reranker.template == "card") == (score == "probability")


def test_labels_that_exclude_each_other_or_not(folder):
    converted(folder, "no", "yes", problem_type="multi_label_classification")
    template = PairTemplate(prefix="{query}")
    with Reranker(str(folder), dtype="float32", device="cpu") as reranker:
        np.testing.assert_allclose(
            reranker.score(PAIRS), expected_logits(folder, template).sigmoid()[:, 1], atol=2e-6
        )


def test_labels_are_named_by_a_template(folder):
    converted(folder, "no", "yes")
    write(folder, "config.json", id2label={"0": "B", "1": "A"})
    with pytest.raises(ModelLoadError, match="labels 'B', 'A' do not say which is the positive"):
        Reranker(str(folder))
    for fields in ({"positive": "A", "negative": "B"}, {"positive": "A", "score": "logit"}):
        template = PairTemplate(prefix="{query}", **fields)
        logits = expected_logits(folder, template)
        expected = logits[:, 1] if "score" in fields else logits.softmax(1)[:, 1]
        with Reranker(str(folder), template=template, dtype="float32") as reranker:
            np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=2e-6, rtol=2e-6)
    with pytest.raises(ConfigError, match="no label 'yes', but 'B', 'A'"):
        Reranker(str(folder), template=PairTemplate(prefix="{query}", positive="yes"))


def test_three_labels_are_refused(folder):
    name = str(classifier(folder, 3))
    with pytest.raises(ModelLoadError, match="the model has 3 labels; a reranker has one score"):
        Reranker(name)


def test_the_head_has_to_fit_the_labels(folder):
    converted(folder, "difference")
    write(folder, "config.json", id2label={"0": "no", "1": "yes"})
    with pytest.raises(ModelLoadError, match=r"`score.weight` has shape \(1, 256\)"):
        Reranker(str(folder))


def test_an_activation_of_its_own_is_refused(folder):
    converted(folder, "difference", sentence_transformers={"activation_fn": "torch.nn.Tanh"})
    with pytest.raises(ModelLoadError, match="the stored activation 'Tanh' is not one of"):
        Reranker(str(folder))
    with Reranker(str(folder), template=PLAIN) as reranker:
        assert reranker.template == PLAIN


def test_vllm_refuses_a_classification_head(folder):
    name = str(converted(folder, "difference"))
    with pytest.raises(ConfigError, match=r"the vllm engine cannot run .* classification head"):
        Reranker(name, engine="vllm")
