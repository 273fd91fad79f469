"""Small models that are no Qwen3, made of random weights."""

import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
)

_WORDS = (
    "a the quick brown fox jumps over lazy dog query passage : instruct mill grain yes no".split()
)
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
_VOCABULARY += [chr(code) for code in range(33, 127)]
_VOCABULARY += [f"##{chr(code)}" for code in range(33, 127)]


def _bert(folder, model_class, **settings):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.2,
        **settings,
    )
    model_class(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(_VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


def _write(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory):
    """Makes a sentence-transformers model of the form of all-MiniLM-L6-v2: BERT, mean pooling."""
    root = tmp_path_factory.mktemp("minilm")

    def make(prompts=None):
        folder = root / f"with-{'-'.join(prompts or ['none'])}"
        if folder.exists():
            return str(folder)
        _bert(folder, BertModel)
        paths = ["", "1_Pooling", "2_Normalize"]
        kinds = ["Transformer", "Pooling", "Normalize"]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
        ]
        _write(folder, "modules.json", modules)
        pooling = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}
        _write(folder, "1_Pooling/config.json", pooling)
        (folder / "2_Normalize").mkdir()
        if prompts:
            _write(folder, "config_sentence_transformers.json", {"prompts": prompts})
        return str(folder)

    return make


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory):
    """Makes a cross-encoder of the form of ms-marco-MiniLM, with any number of labels."""
    root = tmp_path_factory.mktemp("cross-encoder")

    def make(labels=1):
        folder = root / f"{labels}-labels"
        if not folder.exists():
            _bert(folder, BertForSequenceClassification, num_labels=labels)
        return str(folder)

    return make
