"""Answer yes-or-no questions about a text with a local reranker, as a decision model of LangChain.

A reranker is trained to judge whether a document meets a query. P(yes) of a question about a text
is a by-product: measure it on your own questions before you set a threshold.

pip install "langchain-quernstone" "quernstone[torch]" "langchain-core>=1.8"
python examples/langchain_decisions.py "The screen stays black after the update"
"""

import sys

from langchain_core.decisions import (
    BaseDecisionModel,
    ClassifierResponse,
    Noul,
    NoulAnswer,
    Question,
    State,
)

from quernstone import Reranker

INSTRUCTION = "Judge whether the document answers the question with yes"


class RerankerDecisions(BaseDecisionModel):
    """Answers each question of type `Noul` with P(yes) of a reranker."""

    model: str = "Qwen/Qwen3-Reranker-0.6B"

    @property
    def _provider(self) -> str:
        return "quernstone"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        """Score the state as the document of every question.

        Raises:
            TypeError: The state or a question's instructions are not text.
            NotImplementedError: A question is not a `Noul`, or has criteria.
        """
        if not isinstance(state, str):
            raise TypeError(f"the state is a {type(state).__name__}; only text can be judged")
        pairs = [(_text_of(name, question), state) for name, question in questions.items()]
        with Reranker(self.model, instruction=INSTRUCTION) as reranker:
            scores = reranker.score(pairs).tolist()
        answers = {
            name: NoulAnswer(type="noul", noul=score)
            for name, score in zip(questions, scores, strict=True)
        }
        return ClassifierResponse(model=self.model, answers=answers)


def _text_of(name: str, question: Question) -> str:
    if not isinstance(question, Noul) or question.criteria is not None:
        raise NotImplementedError(f"question {name!r}: only `Noul` without criteria has an answer")
    if not isinstance(question.instructions, str):
        raise TypeError(f"question {name!r}: the instructions must be text")
    return question.instructions


def main(text: str, model: str = "tiny") -> None:
    questions = {
        "broken": Noul(instructions="Does something not work?"),
        "praise": Noul(instructions="Is the writer content?"),
    }
    response = RerankerDecisions(model=model).invoke({"state": text, "questions": questions})
    for name, answer in response.nouls.items():
        print(f"{answer.noul:.3f}  {name}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "The screen stays black after the update")
