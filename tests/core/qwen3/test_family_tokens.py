"""The first and final tokens of other families than Qwen3."""

import json
import logging

import numpy as np
import pytest
import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from tests.core.qwen3.test_families import TEXTS, change, random_model
from tokenizers import models, normalizers, trainers

from quernstone import ConfigError, Embedder
from quernstone.checkpoints.checkpoint import resolve
from quernstone.engines import choose_engine


def llama_tokenizer(folder, before, after, **config):
    """Write a tokenizer like Llama's and Mistral's; return the size of its vocabulary."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    ids = {token: {"id": token, "ids": [place], "tokens": [token]} for place, token in
           enumerate(special[:3])}  # fmt: skip
    special_tokens = [{"SpecialToken": {"id": token, "type_id": 0}} for token in (before, after)]
    single = [special_tokens[0]] * bool(before) + [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [special_tokens[1]] * bool(after)
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": ids,
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


@pytest.mark.parametrize("prompts", [{}, {"query": "query: ", "passage": "passage: "}])
@pytest.mark.parametrize(
    ("before", "after", "config"),
    [
        ("<s>", "", {"add_bos_token": True}),
        ("<s>", "</s>", {"add_bos_token": True, "add_eos_token": True}),
        ("", "</s>", {}),
        ("<s>", "", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
    ],
)
def test_first_and_final_tokens_are_those_of_the_tokenizer(
    tmp_path, before, after, config, prompts
):
    folder = random_model(tmp_path / "model", "llama", vocab_size=400)
    assert llama_tokenizer(folder, before, after, **config) <= 400
    change(folder / "config_sentence_transformers.json", prompts=prompts)
    theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    for limit in (512, 20):  # cuts the longest texts
        theirs.max_seq_length = limit
        texts = TEXTS if before or prompts else [*TEXTS[:2], *TEXTS[3:]]
        with Embedder(str(folder), dtype="float32", device="cpu", max_length=limit) as embedder:
            assert embedder.info.engine == "torch"
            documents, queries = embedder.embed_documents(texts), embedder.embed_queries(texts)
        expected = theirs.encode(texts, prompt=prompts.get("passage", ""))
        np.testing.assert_allclose(documents, expected, atol=2e-6)
        np.testing.assert_allclose(
            queries, theirs.encode(texts, prompt=prompts.get("query", "")), atol=2e-6
        )


@pytest.mark.parametrize(
    ("before", "after", "config", "field"),
    [
        ("", "", {}, "post_processor"),
        ("<s>", "", {"add_eos_token": True}, "add_eos_token"),
        ("", "</s>", {"add_bos_token": True}, "add_bos_token"),
        ("<s>", "", {"add_prefix_space": True}, "add_prefix_space"),
    ],
)
def test_other_tokens_are_left_to_sentence_transformers(tmp_path, before, after, config, field):
    folder = random_model(tmp_path / "model", "llama", vocab_size=400)
    llama_tokenizer(folder, before, after, **config)
    checkpoint = resolve(str(folder), "embed")
    assert choose_engine("auto", checkpoint) == "sentence-transformers"
    with pytest.raises(ConfigError, match=f"`{field}` in `tokenizer"):
        choose_engine("torch", checkpoint)


def test_a_limit_without_room_for_the_tokens_is_refused(tmp_path):
    folder = random_model(tmp_path / "model", "llama", vocab_size=400)
    llama_tokenizer(folder, "<s>", "</s>")
    with pytest.raises(ConfigError, match="`max_length` is 1, which is less than the 2 tokens"):
        Embedder(str(folder), max_length=1)


def test_the_choice_is_logged(tmp_path, caplog):
    folder = random_model(tmp_path / "model", "qwen2")
    caplog.set_level(logging.INFO, "quernstone")
    choose_engine("auto", resolve(str(folder), "embed"))
    assert "torch supports all fields in the files of this Qwen2 model" in caplog.text
