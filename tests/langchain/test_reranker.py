"""What `QuernstoneReranker` and `QuernstoneCrossEncoder` promise beyond the contract suites."""

import inspect
import pickle
from typing import ClassVar

import numpy as np
import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import (
    CrossEncoderReranker,
    DocumentCompressorPipeline,
)
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field, ValidationError
from tests.support.adapters import write_adapter

from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
)
from quernstone import ConfigError, InputError, PairTemplate, RankedDocument, Reranker

QUERY = "grinding grain by hand"
TEXTS = ["a compiler for C", "a hand mill\nfor  grain", "製粉機 🌾", "a compiler for C", ""]


class ScriptedReranker:
    """Scores a document by the number that it is."""

    calls: ClassVar[list] = []

    def __init__(self, **settings):
        self.settings = settings

    def rerank(self, query, documents, top_n=None, *, progress=False):
        self.calls.append((query, documents))
        ranked = [RankedDocument(i, float(text)) for i, text in enumerate(documents)]
        return sorted(ranked, key=lambda r: (-r.score, r.index))[:top_n]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr("langchain_quernstone.reranker.Reranker", ScriptedReranker)
    monkeypatch.setattr(ScriptedReranker, "calls", [])


def documents(*texts):
    return [Document(text, id=str(number)) for number, text in enumerate(texts)]


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
@pytest.mark.parametrize("settings", [{}, {"template": "eval"}, {"instruction": "Find the tool"}])
async def test_scores_are_those_of_the_core_bit_for_bit(engine, settings):
    reranker = QuernstoneReranker(model="tiny", engine=engine, top_n=None, **settings)
    encoder = QuernstoneCrossEncoder(model="tiny", engine=engine, **settings)
    with Reranker("tiny", engine=engine, **settings) as core:
        expected = core.rerank(QUERY, TEXTS)
        for results in (
            reranker.compress_documents(documents(*TEXTS), QUERY),
            await reranker.acompress_documents(documents(*TEXTS), QUERY),
        ):
            found = [(int(d.id), d.metadata["relevance_score"]) for d in results]
            assert found == [(ranked.index, ranked.score) for ranked in expected]
        pairs = [(QUERY, text) for text in TEXTS]
        assert encoder.score(pairs) == core.score(pairs).tolist()
        assert await encoder.ascore(pairs) == core.score(pairs).tolist()
    assert await encoder.ascore([]) == []


@pytest.mark.parametrize("adapter", [QuernstoneReranker, QuernstoneCrossEncoder])
def test_every_setting_of_the_core_is_a_field(adapter):
    core = inspect.signature(Reranker).parameters
    fields = {name: field.default for name, field in adapter.model_fields.items()}
    ours = {"top_n", "score_threshold"} if adapter is QuernstoneReranker else set()
    assert set(fields) - ours - {"show_progress"} == set(core)
    assert {name: fields[name] for name in core} == {
        name: parameter.default for name, parameter in core.items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_n": 0},
        {"top_n": -1},
        {"score_threshold": 1.5},
        {"score_threshold": -0.1},
        {"template": "mine"},
        {"modle": "tiny"},
        {"cohere_api_key": "x"},
    ],
)
def test_wrong_settings_are_refused_at_once(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QuernstoneReranker(model="tiny", **wrong)


@pytest.mark.usefixtures("scripted")
def test_ties_keep_the_order_of_the_input():
    given = documents("0.5", "0.9", "0.5", "0.9", "0.5")
    results = QuernstoneReranker(top_n=4).compress_documents(given, QUERY)
    assert [d.id for d in results] == ["1", "3", "0", "2"]


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"score_threshold": 0.5}, ["3", "2", "1"]),
        ({"score_threshold": 0.51}, ["3", "2"]),
        ({"score_threshold": 0.5, "top_n": 1}, ["3"]),
        ({"score_threshold": 1.0}, []),
        ({"score_threshold": 0.0}, ["3", "2", "1", "0"]),
        ({}, ["3", "2", "1", "0"]),
    ],
)
def test_score_threshold(settings, expected):
    given = documents("0.0", "0.5", "0.75", "0.875")
    reranker = QuernstoneReranker(**{"top_n": None, **settings})
    assert [d.id for d in reranker.compress_documents(given, QUERY)] == expected


@pytest.mark.usefixtures("scripted")
def test_model_reads_query_and_text_as_they_are():
    QuernstoneReranker().compress_documents([Document("\n 0.5  ")], " a\nquery ")
    assert ScriptedReranker.calls == [(" a\nquery ", ["\n 0.5  "])]


def test_three_documents_are_kept_by_default():
    assert len(QuernstoneReranker(model="tiny").compress_documents(documents(*TEXTS), QUERY)) == 3


def test_ten_thousand_documents():
    many = documents(*(f"{number % 1000}" for number in range(10_000)))
    reranker = QuernstoneReranker(model="tiny", top_n=None)
    results = reranker.compress_documents(many, "7")
    scores = [document.metadata["relevance_score"] for document in results]
    assert sorted(int(document.id) for document in results) == list(range(10_000))
    assert scores == sorted(scores, reverse=True)


def test_the_wrong_document_is_named():
    reranker = QuernstoneReranker(model="tiny")
    with pytest.raises(InputError, match="input 1: expected a `Document`, got `str`"):
        reranker.compress_documents([Document("fine"), "text"], QUERY)
    with pytest.raises(InputError, match="input 0"):
        reranker.compress_documents([Document("fine")], None)


def test_subclasses_of_documents_stay_themselves():
    class Page(Document):
        number: int = 0

    [page] = QuernstoneReranker(model="tiny").compress_documents([Page("text", number=7)], QUERY)
    assert isinstance(page, Page)
    assert page.number == 7


async def test_composes_with_pipes():
    store = InMemoryVectorStore(QuernstoneEmbeddings(model="tiny"))
    store.add_documents(documents(*TEXTS))
    reranker = QuernstoneReranker(model="tiny", top_n=2)
    retrieve = {"query": RunnablePassthrough(), "documents": store.as_retriever()}
    chain = retrieve | reranker.as_runnable() | RunnableLambda(lambda found: [d.id for d in found])
    ids = chain.invoke(QUERY)
    assert len(ids) == 2
    assert await chain.ainvoke(QUERY) == ids
    assert chain.batch([QUERY, QUERY]) == [ids, ids]
    assert reranker.as_runnable().get_name() == "QuernstoneReranker"


async def test_in_the_retrievers_of_langchain_classic():
    store = InMemoryVectorStore(QuernstoneEmbeddings(model="tiny"))
    store.add_documents(documents(*TEXTS))
    reranker = QuernstoneReranker(model="tiny", top_n=2)
    by_pipeline = DocumentCompressorPipeline(transformers=[reranker])
    by_scores = CrossEncoderReranker(model=QuernstoneCrossEncoder(model="tiny"), top_n=2)
    found = []
    for compressor in (reranker, by_pipeline, by_scores):
        retriever = ContextualCompressionRetriever(
            base_retriever=store.as_retriever(), base_compressor=compressor
        )
        results = retriever.invoke(QUERY)
        assert [d.id for d in await retriever.ainvoke(QUERY)] == [d.id for d in results]
        found.append([d.id for d in results])
    assert found[0] == found[1] == found[2]


def test_settings_may_change_after_use():
    reranker = QuernstoneReranker(model="tiny", top_n=1)
    reranker.compress_documents(documents(*TEXTS), QUERY)
    other = reranker.model_copy(update={"instruction": "Find rain", "top_n": 4})
    with Reranker("tiny", instruction="Find rain") as core:
        expected = [ranked.score for ranked in core.rerank(QUERY, TEXTS, top_n=4)]
    results = other.compress_documents(documents(*TEXTS), QUERY)
    assert [document.metadata["relevance_score"] for document in results] == expected
    assert len(reranker.compress_documents(documents(*TEXTS), QUERY)) == 1


def test_pickle_holds_no_weights():
    for adapter in (QuernstoneReranker(model="tiny"), QuernstoneCrossEncoder(model="tiny")):
        if isinstance(adapter, QuernstoneCrossEncoder):
            expected = adapter.score([(QUERY, TEXTS[1])])
            assert pickle.loads(pickle.dumps(adapter)).score([(QUERY, TEXTS[1])]) == expected
        assert len(pickle.dumps(adapter)) < 2000
        assert pickle.loads(pickle.dumps(adapter)) == adapter


def test_repr_shows_what_was_set():
    reranker = QuernstoneReranker(model="tiny", top_n=5)
    assert repr(reranker) == "QuernstoneReranker(model='tiny', top_n=5)"
    assert repr(QuernstoneCrossEncoder(model="tiny")) == "QuernstoneCrossEncoder(model='tiny')"


def test_pairs_of_different_queries_keep_their_places():
    pairs = [(query, text) for text in TEXTS for query in (QUERY, "weather", "")]
    encoder = QuernstoneCrossEncoder(model="tiny")
    alone = [encoder.score([pair])[0] for pair in pairs]
    assert np.allclose(encoder.score(pairs), alone, atol=0.02)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([("q", "d"), ("q",)], "input 1: expected .* pair, got a tuple of 1"),
        ([("q", "d"), "qd"], "input 1: expected .* pair, got a str"),
        ([("q", "d"), ("q", None)], "input 1"),
        ("qd", "`pairs` is str"),
    ],
)
def test_the_wrong_pair_is_named(wrong, reason):
    with pytest.raises(InputError, match=reason):
        QuernstoneCrossEncoder(model="tiny").score(wrong)


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_the_runnable_has_schemas_and_is_a_tool():
    step = QuernstoneReranker(model="tiny", top_n=1).as_runnable()
    schema = step.get_input_jsonschema()["$defs"]["RerankInput"]
    assert set(schema["properties"]) == set(schema["required"]) == {"query", "documents"}
    assert schema["properties"]["documents"]["type"] == "array"
    assert step.get_output_jsonschema()["type"] == "array"
    tool = step.as_tool(name="rerank", description="Order documents.")
    assert set(tool.args) == {"query", "documents"}
    [best] = tool.invoke(
        {"query": "edit text", "documents": [Document("a compiler"), Document("a text editor")]}
    )
    assert type(best) is Document


async def test_the_runnable_pickles():
    step = QuernstoneReranker(model="tiny", top_n=1).as_runnable()
    given = {"query": "edit text", "documents": iter([Document("a compiler"), Document("b")])}
    expected = step.invoke({**given, "documents": [Document("a compiler"), Document("b")]})
    twin = pickle.loads(pickle.dumps(step))
    assert twin.invoke(given) == expected
    assert await twin.ainvoke({**given, "documents": [Document("a compiler"), Document("b")]})


def test_results_are_plain_documents():
    class DocumentWithState(Document):
        """As `EmbeddingsFilter` of langchain-classic passes on."""

        state: dict = Field(default_factory=dict)

        def to_document(self):
            return Document(page_content=self.page_content, metadata=self.metadata)

    held = DocumentWithState(
        page_content="a quern", id="d", metadata={"a": 1}, state={"embedded_doc": [0.5] * 9}
    )
    [result] = QuernstoneReranker(model="tiny").compress_documents([held], "mill")
    assert type(result) is Document
    assert (result.id, result.page_content, result.metadata["a"]) == ("d", "a quern", 1)
    assert "embedded_doc" not in repr(result)


PAIR = PairTemplate(prefix="{query}: ", suffix="<|im_end|>", positive="true", temperature=5.0)


@pytest.mark.parametrize("template", ["eval", PAIR], ids=["named", "own"])
async def test_templates_and_adapters_reach_the_core(tmp_path, template):
    adapter = str(write_adapter(tmp_path / "adapter"))
    settings = {"template": template, "adapter": adapter, "dtype": "float32"}
    with Reranker("tiny", **settings) as core, Reranker("tiny", template=template) as base:
        expected = core.rerank(QUERY, TEXTS)
        assert max(abs(core.score([(QUERY, t) for t in TEXTS])
                       - base.score([(QUERY, t) for t in TEXTS]))) > 1e-4  # fmt: skip
    reranker = QuernstoneReranker(model="tiny", top_n=None, **settings)
    assert reranker.template == template
    found = reranker.compress_documents(documents(*TEXTS), QUERY)
    ranked = [(each.index, each.score) for each in expected]
    assert [(int(d.id), d.metadata["relevance_score"]) for d in found] == ranked
    encoder = QuernstoneCrossEncoder(model="tiny", **settings)
    scores = encoder.score([(QUERY, text) for text in TEXTS])
    assert scores == [score for _, score in sorted(ranked)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"question": "q", "documents": []}, "has the keys 'question', 'documents'; pass"),
        ({}, "has type dict; pass"),
        ("q", "has type str; pass a mapping with the keys 'query' and 'documents'"),
    ],
)
async def test_the_runnable_names_what_its_input_lacks(given, reason):
    step = QuernstoneReranker(model="tiny").as_runnable()
    with pytest.raises(ConfigError, match=reason):
        step.invoke(given)
    with pytest.raises(ConfigError, match=reason):
        await step.ainvoke(given)


async def test_pairs_in_an_array():
    encoder = QuernstoneCrossEncoder(model="tiny")
    pairs = [(QUERY, text) for text in TEXTS]
    expected = encoder.score(pairs)
    assert encoder.score(np.array(pairs)) == expected
    assert await encoder.ascore(np.array(pairs)) == expected
    assert encoder.score(np.empty((0, 2), dtype=str)) == []
