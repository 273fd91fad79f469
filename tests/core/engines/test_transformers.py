"""The transformers engine takes the last token, so it refuses what has no result there."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel

from quernstone import ConfigError, Embedder, Reranker


@pytest.fixture
def without_modules(minilm, tmp_path):
    """Copies a BERT without what sentence-transformers says of it; or another model."""

    def make(kind=None):
        folder = tmp_path / (kind or "bert")
        shutil.copytree(minilm(), folder)
        for path in (folder / "modules.json", folder / "1_Pooling/config.json"):
            path.unlink()
        if kind:
            words = len((folder / "vocab.txt").read_text().splitlines())
            config = AutoConfig.for_model(
                kind,
                vocab_size=words,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=1,
                num_attention_heads=4,
            )
            AutoModel.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_an_encoder_that_does_not_say_how_it_pools_is_refused(without_modules, engine):
    folder = without_modules()
    words = "a BertModel, attends in both directions, and none of its files says how it pools"
    with pytest.raises(ConfigError, match=words):
        Embedder(folder, engine=engine)
    with Embedder(folder, engine="sentence-transformers") as embedder:
        assert embedder.embed_documents(["grain"]).shape == (1, 48)


def test_an_encoder_predicts_no_answer(without_modules):
    with pytest.raises(ConfigError, match="its last token predicts no answer"):
        Reranker(without_modules(), engine="transformers")


def test_a_head_elsewhere_is_refused(cross_encoder):
    words = "reads scores at the last token.* a BertForSequenceClassification, has none there"
    with pytest.raises(ConfigError, match=words):
        Reranker(Path(cross_encoder()), engine="transformers")


@pytest.mark.parametrize("kind", ["gpt_neox", "olmo"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_decoders_run(without_modules, kind, dtype):
    with Embedder(without_modules(kind), dtype=dtype) as embedder:
        assert embedder.info.engine == "transformers"
        assert embedder.embed_documents(["grain"]).shape == (1, 48)
