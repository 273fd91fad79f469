"""The public models of docs/models.md: their engines, and equality on random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.public_models import (
    BEGIN,
    END,
    MODELS,
    config_of,
    engine_of,
    replaced,
    write_folder,
)
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from quernstone import Embedder, Reranker
from quernstone.model import session_of

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
TEXTS = ["a quern is a hand mill", "grain", "it rains " * 20]
_SLOW_WIDTH = 4096
"""Models of this hidden size and larger take a second."""


def test_the_table_of_public_models_is_up_to_date():
    page = PAGE.read_text()
    assert page == replaced(page), "`make models` updates the table"
    rows = page[page.index(BEGIN) : page.index(END)].count("\n| `")
    assert rows == len(MODELS) == len({model.name for model in MODELS}) >= 30


def on_torch():
    """Yield one model of each shape that the torch engine runs, and all that its files say."""
    seen = {}
    for model in MODELS:
        if engine_of(model) == "`torch`":
            seen.setdefault(model.key, model)
    for model in seen.values():
        large = config_of(model)["hidden_size"] >= _SLOW_WIDTH
        yield pytest.param(model, id=model.name, marks=[pytest.mark.slow] if large else [])


def random_model(folder, model):
    write_folder(folder, model)
    fields = config_of(model)
    kind = model.base.partition("-")[0].lower()
    fields = {k: v for k, v in fields.items() if k not in ("model_type", "auto_map")}
    config = AutoConfig.for_model(kind, **fields)  # code of its own is never run
    torch.manual_seed(0)
    loader = AutoModelForCausalLM if model.task == "rerank" else AutoModel
    built = loader.from_config(config)
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):  # zeros in a new model
            torch.nn.init.normal_(parameter, std=0.5)
    tensors = {name: value.contiguous() for name, value in built.state_dict().items()}
    tensors.pop("lm_head.weight", None)  # tied
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return built.eval()


@pytest.mark.parametrize("model", on_torch())
def test_a_random_model_of_the_shape_equals_transformers(tmp_path, model):
    theirs = random_model(tmp_path / "model", model)
    settings = {"dtype": "float32", "device": "cpu"}
    if model.task == "rerank":
        compare_scores(tmp_path / "model", theirs, settings, model)
    else:
        compare_vectors(tmp_path / "model", theirs, settings, model)


def compare_vectors(folder, theirs, settings, model):
    with Embedder(str(folder), **settings) as embedder:
        assert embedder.info.engine == "torch"
        if model.prompts:
            assert embedder.format_query("a") == model.prompts["query"] + "a"
            assert embedder.format_document("a") == model.prompts.get("document", "") + "a"
        encoder = session_of(embedder).encoder
        queries = encoder.encode_queries(TEXTS, instruction=embedder.instruction)
        documents = encoder.encode_documents(TEXTS)
        rows = np.concatenate([embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS)])
    for row, sequence in zip(rows, (*queries.sequences, *documents.sequences), strict=True):
        with torch.inference_mode():
            states = theirs(input_ids=whole(sequence), use_cache=False).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states[-1], dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=2e-6)


def compare_scores(folder, theirs, settings, model):
    with Reranker(str(folder), **settings) as reranker:
        assert reranker.info.engine == "torch"
        scores = reranker.score([("grain", text) for text in TEXTS])
        session = session_of(reranker)
        triples = [("grain", text, reranker.instruction) for text in TEXTS]
        assert (reranker.template == "card") is not model.scores_logit
        batch = session.encoder.encode_pairs(triples, reranker.template)
        yes, no = (session.tokenizer.token_id(word) for word in ("yes", "no"))
    for score, sequence in zip(scores, batch.sequences, strict=True):
        with torch.inference_mode():
            logits = theirs(input_ids=whole(sequence), use_cache=False).logits[0, -1]
        expected = logits[yes] if model.scores_logit else torch.sigmoid(logits[yes] - logits[no])
        np.testing.assert_allclose(score, expected.item(), atol=2e-6)


def whole(sequence):
    prefix = [] if sequence.prefix is None else sequence.prefix.ids.tolist()
    return torch.tensor([[*prefix, *sequence.ids.tolist()]])
