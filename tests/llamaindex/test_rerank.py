"""What `QuernstoneRerank` promises beyond the contract suite."""

import inspect
import logging
import pickle
from typing import ClassVar

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, TextNode
from pydantic import ValidationError
from tests.support.adapters import write_adapter

from llama_index.postprocessor.quernstone import NodesWithoutTextWarning, QuernstoneRerank
from quernstone import InputError, PairTemplate, RankedDocument, Reranker

QUERY = "grinding grain by hand"
TEXTS = ["a compiler for C", "a hand mill\nfor  grain", "製粉機 🌾", "a compiler for C"]


class ScriptedReranker:
    """Scores a document by the number that it ends with."""

    calls: ClassVar[list] = []

    def __init__(self, **settings):
        self.settings = settings

    def rerank(self, query, documents, top_n=None, *, progress=False):
        self.calls.append((query, documents))
        ranked = [RankedDocument(i, float(text.split()[-1])) for i, text in enumerate(documents)]
        return sorted(ranked, key=lambda r: (-r.score, r.index))[:top_n]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr("llama_index.postprocessor.quernstone.base.Reranker", ScriptedReranker)
    monkeypatch.setattr(ScriptedReranker, "calls", [])


def retrieved(*texts, **metadata):
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(number), metadata=metadata), score=0.25)
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
@pytest.mark.parametrize("settings", [{}, {"template": "eval"}, {"instruction": "Find the tool"}])
async def test_scores_are_those_of_the_core_bit_for_bit(engine, settings):
    rerank = QuernstoneRerank(model="tiny", engine=engine, top_n=9, **settings)
    with Reranker("tiny", engine=engine, **settings) as core:
        expected = [(str(r.index), r.score) for r in core.rerank(QUERY, TEXTS)]
    nodes = retrieved(*TEXTS)
    for results in (
        rerank.postprocess_nodes(nodes, query_str=QUERY),
        await rerank.apostprocess_nodes(nodes, query_str=QUERY),
    ):
        assert [(result.node_id, result.score) for result in results] == expected


def test_every_setting_of_the_core_is_a_field():
    core = inspect.signature(Reranker).parameters
    fields = QuernstoneRerank.model_fields
    ours = {
        "top_n",
        "score_threshold",
        "keep_retrieval_score",
        "metadata_mode",
        "show_progress",
    }
    assert set(fields) - set(BaseNodePostprocessor.model_fields) - ours == set(core)
    for name, parameter in core.items():
        assert fields[name].default == parameter.default
    assert QuernstoneRerank()._settings().keys() == core.keys()


@pytest.mark.parametrize(
    "wrong", [{"top_n": 0}, {"top_n": -1}, {"top_n": True}, {"template": "mine"}, {"topn": 3}]
)
def test_wrong_settings_are_refused_at_once(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QuernstoneRerank(**{"model": "tiny", **wrong})


@pytest.mark.usefixtures("scripted")
def test_ties_keep_the_order_of_the_input():
    nodes = retrieved("0.5", "0.9", "0.5", "0.9", "0.5")
    results = QuernstoneRerank(top_n=4).postprocess_nodes(nodes, query_str=QUERY)
    assert [result.node_id for result in results] == ["1", "3", "0", "2"]


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("mode", "read"),
    [
        (MetadataMode.EMBED, "title: T\n\ntext 0.5"),
        (MetadataMode.NONE, "text 0.5"),
        ("none", "text 0.5"),
        (MetadataMode.ALL, "title: T\nsecret: S\n\ntext 0.5"),
    ],
)
def test_metadata_mode(mode, read):
    [node] = retrieved("text 0.5", title="T", secret="S")
    node.node.excluded_embed_metadata_keys = ["secret"]
    QuernstoneRerank(metadata_mode=mode).postprocess_nodes([node], query_str=" a\nquery ")
    assert ScriptedReranker.calls == [(" a\nquery ", [read])]


@pytest.mark.usefixtures("scripted")
def test_kept_retrieval_score_is_for_people_not_for_models():
    nodes = retrieved("text 0.5", title="T")
    rerank = QuernstoneRerank(keep_retrieval_score=True)
    [result] = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert result.node.metadata == {"title": "T", "retrieval_score": 0.25}
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert result.node.get_content(mode) == nodes[0].node.get_content(mode)
    assert nodes[0].node.metadata == {"title": "T"}
    [unscored] = rerank.postprocess_nodes([NodeWithScore(node=TextNode(text="0.5"))], query_str="q")
    assert unscored.node.metadata == {"retrieval_score": None}


@pytest.mark.usefixtures("scripted")
def test_odd_metadata_survives():
    marker = object()
    nodes = retrieved("0.5", odd=None, nested={"a": [1]}, number=float("inf"), thing=marker)
    rerank = QuernstoneRerank(keep_retrieval_score=True, metadata_mode="none")
    [result] = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert result.node.metadata["thing"] is marker
    assert result.node.metadata["nested"] == {"a": [1]}


def test_ten_thousand_nodes():
    nodes = retrieved(*(f"{number % 1000}" for number in range(10_000)))
    rerank = QuernstoneRerank(model="tiny", top_n=20_000)
    results = rerank.postprocess_nodes(nodes, query_str="7")
    scores = [result.score for result in results]
    assert sorted(int(result.node_id) for result in results) == list(range(10_000))
    assert scores == sorted(scores, reverse=True)


def test_the_wrong_node_is_named():
    rerank = QuernstoneRerank(model="tiny")
    good = retrieved("text")
    with pytest.raises(InputError, match="input 1: expected a `NodeWithScore`, got `TextNode`"):
        rerank.postprocess_nodes([*good, TextNode(text="bare")], query_str=QUERY)
    with pytest.raises(ValueError, match=r"reranking needs a query: .* not `str`"):
        rerank.postprocess_nodes(good, QUERY)


def test_pickle_holds_no_weights_and_warns_of_nothing(caplog):
    rerank = QuernstoneRerank(model="tiny", top_n=1)
    rerank.postprocess_nodes(retrieved(*TEXTS), query_str=QUERY)
    with caplog.at_level(logging.WARNING):
        data = pickle.dumps(rerank)
    assert len(data) < 3000
    assert not [record for record in caplog.records if "_core" in record.message]
    assert pickle.loads(data).to_dict() == rerank.to_dict()


async def test_nodes_without_text_are_named_and_left_out():
    nodes = [
        NodeWithScore(node=node)
        for node in (
            ImageNode(id_="photo", image_url="https://example.com/a.png", metadata={"a": 1}),
            TextNode(id_="one", text="a compiler", metadata={"a": 1}),
            TextNode(id_="blank", text=" \n"),
            TextNode(id_="two", text="a text editor"),
        )
    ]
    rerank = QuernstoneRerank(model="tiny", top_n=None)
    message = r"2 of 4 nodes have no text .*: ImageNode 'photo', TextNode 'blank'$"
    with pytest.warns(NodesWithoutTextWarning, match=message):
        results = rerank.postprocess_nodes(nodes, query_str="edit text")
    assert {result.node_id for result in results} == {"one", "two"}
    with pytest.warns(NodesWithoutTextWarning, match=message):
        assert await rerank.apostprocess_nodes(nodes, query_str="edit text") == results
    nodes[3].node.text = "a lone surrogate \ud800"
    with pytest.warns(NodesWithoutTextWarning), pytest.raises(InputError, match="input 3"):
        rerank.postprocess_nodes(nodes, query_str="edit text")
    with pytest.warns(NodesWithoutTextWarning):
        assert rerank.postprocess_nodes(nodes[:1], query_str="edit text") == []


def test_no_callback_manager():
    nodes = [NodeWithScore(node=TextNode(text="a compiler"))]
    rerank = QuernstoneRerank(model="tiny", callback_manager=None)
    assert len(rerank.postprocess_nodes(nodes, query_str="compile")) == 1


PAIR = PairTemplate(prefix="{query}: ", suffix="<|im_end|>", positive="true", temperature=5.0)


@pytest.mark.parametrize("template", ["eval", PAIR], ids=["named", "own"])
async def test_templates_and_adapters_reach_the_core(tmp_path, template):
    adapter = str(write_adapter(tmp_path / "adapter"))
    settings = {"template": template, "adapter": adapter, "dtype": "float32"}
    with Reranker("tiny", **settings) as core, Reranker("tiny", template=template) as base:
        expected = core.rerank(QUERY, TEXTS)
        assert max(abs(core.score([(QUERY, t) for t in TEXTS])
                       - base.score([(QUERY, t) for t in TEXTS]))) > 1e-4  # fmt: skip
    rerank = QuernstoneRerank(model="tiny", top_n=9, **settings)
    assert rerank.template == template
    found = rerank.postprocess_nodes(retrieved(*TEXTS), query_str=QUERY)
    assert [(int(each.node.id_), each.score) for each in found] == [
        (each.index, each.score) for each in expected
    ]
