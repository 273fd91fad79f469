import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

QUESTION = "edit a photo"


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        import langchain_retrieval

        return langchain_retrieval.build_retriever

    @property
    def retriever_query_example(self):
        return QUESTION


@pytest.fixture
def example():
    import langchain_retrieval

    return langchain_retrieval


async def test_chain_answers_from_the_best_document(example):
    retriever = example.build_retriever()
    best, *_ = retriever.invoke(QUESTION)
    chain = example.build_chain(retriever)
    answer = f"{best.metadata['package']}: {best.page_content}"
    assert chain.invoke(QUESTION) == answer
    assert await chain.ainvoke(QUESTION) == answer


async def test_pipe_is_the_retriever(example):
    found = example.build_retriever().invoke(QUESTION)
    pipe = example.build_pipe(example.build_store())
    for results in (pipe.invoke(QUESTION), await pipe.ainvoke(QUESTION)):
        assert [d.metadata["package"] for d in results] == [d.metadata["package"] for d in found]
        scores = [d.metadata["relevance_score"] for d in results]
        assert scores == sorted(scores, reverse=True)


def test_main(example, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["langchain_retrieval.py", "watch", "a", "film"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("answer: ")


def test_the_image_editor_edits_photos(example):
    best, *_ = example.build_retriever().invoke(QUESTION)
    assert best.metadata["package"] == "gimp"
