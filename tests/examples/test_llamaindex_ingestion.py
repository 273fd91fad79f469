import pytest

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
QUESTION = "edit a photo"


@pytest.fixture
def example():
    import llamaindex_ingestion

    return llamaindex_ingestion


def test_unchanged_documents_are_not_embedded_again(example):
    pipeline = example.build_pipeline()
    assert len(pipeline.run(documents=example.documents())) == 16
    assert pipeline.run(documents=example.documents()) == []
    changed = example.documents()
    changed[0].set_content("An editor for raster images.")
    assert len(pipeline.run(documents=changed)) == 1
    assert pipeline.vector_store.client.count("packages").count == 16


async def test_query_engine_answers_from_reranked_nodes(example):
    pipeline = example.build_pipeline()
    pipeline.run(documents=example.documents())
    engine = example.build_query_engine(pipeline)
    response = engine.query(QUESTION)
    scores = [node.score for node in response.source_nodes]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert response.source_nodes[0].text in str(response)
    assert response.source_nodes[0].metadata["package"] == "gimp"


def test_main(example, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["llamaindex_ingestion.py", "watch", "a", "film"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["embedded: 16", "embedded again: 0"]
    assert len(lines) == 5
