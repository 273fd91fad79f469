import asyncio
import logging
import threading

import pytest

from langchain_quernstone import QuernstoneEmbeddings, QuernstoneReranker
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from quernstone import Embedder, Reranker
from quernstone.encoding import unknown
from quernstone.encoding.unknown import MOST, UnknownTexts
from quernstone.model import session_of

CHINESE = "石磨是一种手推的磨，用来把谷物磨成面粉。"
RUSSIAN = "Ручная мельница мелет зерно."
MIXED = "The package manager installs 软件包 and removes them."


@pytest.fixture(autouse=True)
def first_time(monkeypatch):
    """Forget that this process has warned."""
    monkeypatch.setattr(unknown, "_warned", threading.Event())


@pytest.fixture(scope="module")
def embedder():
    with Embedder("tiny") as model:
        yield model


@pytest.fixture(scope="module")
def reranker():
    with Reranker("tiny") as model:
        yield model


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "quernstone")
    return lambda: [each for each in caplog.messages if each.startswith("`tiny` knows English")]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        pytest.param("A quern is a hand mill.", 0.0, 0.0, id="english"),
        pytest.param("Übergrößen für Mühlräder — „schön“, déjà vu", 0.0, 0.1, id="latin"),
        pytest.param("→ the angle α is 90° … ✓", 0.0, 0.3, id="symbols"),
        pytest.param(MIXED, 0.1, 0.4, id="mixed"),
        pytest.param(CHINESE, 0.8, 1.0, id="chinese"),
        pytest.param("これは石臼です。穀物を挽きます。", 0.6, 1.0, id="japanese"),
        pytest.param("맷돌은 곡물을 간다.", 0.6, 1.0, id="korean"),
        pytest.param(RUSSIAN, 0.8, 1.0, id="russian"),
        pytest.param("", 0.0, 0.0, id="empty"),
    ],
)
def test_share_of_unknown_tokens(embedder, text, low, high):
    unknown_texts = UnknownTexts(session_of(embedder).tokenizer, "embed")
    assert low <= unknown_texts.share(text) <= high
    assert not low < MOST < high


def test_the_first_unknown_text_of_the_process_is_reported_and_no_other(
    embedder, reranker, warnings
):
    embedder.embed_documents(["A quern is a hand mill.", MIXED])
    assert warnings() == []
    embedder.embed_documents(["A quern is a hand mill.", MIXED, CHINESE, RUSSIAN])
    [message] = warnings()
    assert "of input 2 are unknown" in message
    assert "`Qwen/Qwen3-Embedding-0.6B`" in message
    embedder.embed_query(RUSSIAN)
    reranker.rerank(CHINESE, [CHINESE])
    assert len(warnings()) == 1


@pytest.mark.parametrize(
    "embed",
    [
        pytest.param(lambda model: model.embed_query(CHINESE), id="query"),
        pytest.param(lambda model: list(model.stream([CHINESE])), id="stream"),
        pytest.param(lambda model: asyncio.run(model.aembed_query(CHINESE)), id="async"),
    ],
)
def test_every_way_to_embed_warns(embedder, embed, warnings):
    embed(embedder)
    assert len(warnings()) == 1


@pytest.mark.parametrize(
    ("query", "document"),
    [(CHINESE, "A quern is a hand mill."), ("grinding grain", CHINESE)],
    ids=["query", "document"],
)
def test_the_reranker_reads_query_and_document(reranker, query, document, warnings):
    reranker.rerank("grinding grain", ["A quern is a hand mill."], instruction=CHINESE)
    assert warnings() == []
    reranker.rerank(query, [document])
    [message] = warnings()
    assert "`Qwen/Qwen3-Reranker-0.6B`" in message


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(
            lambda: QuernstoneEmbeddings(model="tiny").embed_query(CHINESE), id="langchain"
        ),
        pytest.param(
            lambda: QuernstoneReranker(model="tiny").reranker.score([(CHINESE, "")]),
            id="langchain-reranker",
        ),
        pytest.param(
            lambda: QuernstoneEmbedding(model_name="tiny").get_text_embedding(CHINESE),
            id="llamaindex",
        ),
    ],
)
def test_the_adapters_warn(use, warnings):
    use()
    assert len(warnings()) == 1
