import pytest
from langchain_core.decisions import Choice, Noul, NoulCriteria

from quernstone import Reranker

TEXT = "The screen stays black after the update"


@pytest.fixture
def example():
    import langchain_decisions

    return langchain_decisions


async def test_answers_are_p_yes_of_the_reranker(example):
    questions = {name: Noul(instructions=f"Is it {name}?") for name in ("broken", "green")}
    model = example.RerankerDecisions(model="tiny")
    request = {"state": TEXT, "questions": questions}
    with Reranker("tiny", instruction=example.INSTRUCTION) as reranker:
        expected = reranker.score([(one.instructions, TEXT) for one in questions.values()])
    for response in (model.invoke(request), await model.ainvoke(request)):
        found = [response.nouls[name].noul for name in questions]
        assert found == pytest.approx(expected.tolist(), abs=1e-6)
        assert response.model == "tiny"


@pytest.mark.parametrize(
    ("state", "question", "error"),
    [
        ({"a": 1}, Noul(instructions="x"), TypeError),
        (TEXT, Noul(instructions={"a": 1}), TypeError),
        (TEXT, Noul(instructions="x", criteria=NoulCriteria(true="y")), NotImplementedError),
        (TEXT, Choice(instructions="x", criteria={"a": None}), NotImplementedError),
    ],
    ids=["state", "instructions", "criteria", "choice"],
)
def test_what_has_no_answer_is_refused(example, state, question, error):
    with pytest.raises(error):
        example.RerankerDecisions(model="tiny").invoke(
            {"state": state, "questions": {"q": question}}
        )


def test_main(example, capsys):
    example.main(TEXT)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["broken", "praise"]
