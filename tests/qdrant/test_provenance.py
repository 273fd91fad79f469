"""What a collection records about the model that computed its vectors."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.adapters import write_adapter

import quernstone
from quernstone import Embedder
from quernstone_qdrant import ProvenanceError, QdrantLoader, QdrantSearcher
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.targets import as_target

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"


@pytest.fixture
def variant(tmp_path):
    """A copy of the tiny model with changed fields in one of its files."""

    def make(name, file, **fields):
        folder = shutil.copytree(TINY, tmp_path / name)
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return str(folder)

    return make


PROMPTS = {"query": "query: ", "document": "passage: "}


def test_the_prompts_of_the_model_are_recorded(variant):
    name = variant("own", "config_sentence_transformers.json", prompts=PROMPTS)
    with Embedder(name) as embedder:
        recorded = Provenance.of(embedder, "texts")
    assert (recorded.query_prompt, recorded.document_prompt) == (
        "query: {query}",
        "passage: {text}",
    )
    prompts = recorded.metadata()["quernstone"]["prompts"]
    assert prompts == {"query": "query: {query}", "document": "passage: {text}"}


def test_the_adapter_is_recorded_and_another_one_refused(client, tmp_path):
    first, second = (write_adapter(tmp_path / str(n), seed=n) for n in range(2))
    with Embedder("tiny", adapter=str(first)) as embedder:
        recorded = Provenance.of(embedder, "texts")
        assert recorded.metadata()["quernstone"]["adapter"] == str(first)
        QdrantLoader(client, "texts", embedder).load([{"id": "1", "text": "a quern grinds grain"}])
        assert Provenance.read(as_target(client, "texts").state()).adapter == str(first)
    copied = shutil.copytree(first, tmp_path / "copy")
    with Embedder("tiny", adapter=str(copied)) as embedder:
        assert QdrantSearcher(client, "texts", embedder).search("grain")
    for other in ({"adapter": str(second)}, {}):
        with (
            Embedder("tiny", **other) as embedder,
            pytest.raises(ProvenanceError, match="was created with adapter"),
        ):
            QdrantSearcher(client, "texts", embedder).search("grain")


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config_sentence_transformers.json", {"prompts": PROMPTS}),
        (
            "1_Pooling/config.json",
            {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True},
        ),
        ("config.json", {"use_bidirectional_attention": True}),
    ],
)
def test_a_collection_of_another_prompt_or_pooling_is_refused(client, variant, file, fields):
    with Embedder("tiny") as tiny:
        QdrantLoader(client, "texts", tiny).load([{"id": "1", "text": "a quern grinds grain"}])
    with Embedder(variant("other", file, **fields)) as other:
        with pytest.raises(ProvenanceError, match="was created with"):
            QdrantLoader(client, "texts", other).load([{"id": "1", "text": "a mill"}])
        with pytest.raises(ProvenanceError, match="was created with"):
            QdrantSearcher(client, "texts", other).search("grain")
