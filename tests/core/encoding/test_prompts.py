"""The texts, byte by byte, against the model cards and the official evaluation."""

from quernstone.encoding import prompts


def test_a_query_has_no_space_behind_the_colon():
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    assert prompts.query_frame(instruction) + "What is the capital of China?" == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:What is the capital of China?"
    )


def test_an_empty_instruction_leaves_the_query_bare():
    assert prompts.query_frame("") == ""


def test_card_rendering():
    assert prompts.render_pair("Q", "D", "I") == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
        ' and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: I\n<Query>: Q\n<Document>: D<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_eval_rendering_has_double_newlines_and_ends_the_turn_twice():
    assert prompts.render_pair("Q", "D", "I", "eval") == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
        ' and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: I\n\n<Query>: Q\n\n<Document>: D<|im_end|>\n"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_each_template_has_its_own_default_instruction():
    assert prompts.RERANK_INSTRUCTIONS == {
        "card": "Given a web search query, retrieve relevant passages that answer the query",
        "eval": "Given the user query, retrieval the relevant passages",
    }
