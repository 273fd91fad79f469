"""The prompts that Qwen3-Embedding and Qwen3-Reranker were trained with, byte for byte.

They are defined only here. Engines that tokenize get these strings, and other engines get their
token ids. Sources: the model cards of Qwen/Qwen3-Embedding-0.6B and
Qwen/Qwen3-Reranker-0.6B, and `evaluation/qwen3_reranker_model.py` of QwenLM/Qwen3-Embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

from quernstone.types import RerankTemplate

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The instruction of both model cards."""

EVAL_INSTRUCTION = "Given the user query, retrieval the relevant passages"
"""The default of the official reranker evaluation, with its grammatical error."""

ENDOFTEXT = "<|endoftext|>"
"""The token whose hidden state is the embedding. It differs from the tokenizer's `eos_token`."""

CONTROL_TOKENS = (ENDOFTEXT, "<|im_start|>", "<|im_end|>", "<think>", "</think>")
"""Tokens that may occur in the fixed text of a prompt, but not in a user's text."""

RERANK_PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_RERANK_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

RERANK_SUFFIXES: dict[RerankTemplate, str] = {
    "card": _RERANK_SUFFIX,
    # The evaluation script renders the chat template, which ends the user's turn, and then appends
    # the suffix, which ends it again. The published scores were measured with this prompt.
    "eval": "<|im_end|>\n" + _RERANK_SUFFIX,
}
_RERANK_SEPARATORS: dict[RerankTemplate, str] = {"card": "\n", "eval": "\n\n"}
RERANK_INSTRUCTIONS: dict[RerankTemplate, str] = {
    "card": DEFAULT_INSTRUCTION,
    "eval": EVAL_INSTRUCTION,
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts before a query and before a document; by default those of Qwen3-Embedding."""

    query: str = "Instruct: {instruction}\nQuery:"
    """It contains `{instruction}`, or else is the same for every query."""
    document: str = ""

    @property
    def takes_instruction(self) -> bool:
        """True if the prompt contains the instruction of a call."""
        return "{instruction}" in self.query

    def before_query(self, instruction: str) -> str:
        """Return the text before a query; empty if it takes an instruction and there is none."""
        if self.takes_instruction:
            return self.query.replace("{instruction}", instruction) if instruction else ""
        return self.query


def query_frame(instruction: str) -> str:
    """Return the text before a query: no space at its end; empty without an instruction."""
    return Prompts().before_query(instruction)


def rerank_stem(instruction: str, template: RerankTemplate) -> str:
    """Return the user's turn up to the query, which all queries of one instruction share."""
    return f"<Instruct>: {instruction}{_RERANK_SEPARATORS[template]}<Query>:"


def rerank_head(query: str, instruction: str, template: RerankTemplate) -> str:
    """Return the user's turn up to the document, which all documents of one query share.

    It ends in `<Document>:`, without the space after it. No Qwen3 token contains both the colon and
    the space, so tokenizing head and body separately gives the same ids as tokenizing them at once.
    """
    separator = _RERANK_SEPARATORS[template]
    return f"{rerank_stem(instruction, template)} {query}{separator}<Document>:"


def rerank_body(document: str) -> str:
    """Return the part of the user's turn that differs between documents."""
    return f" {document}"


def render_pair(
    query: str, document: str, instruction: str, template: RerankTemplate = "card"
) -> str:
    """Return the complete prompt of one (query, document) pair."""
    head = rerank_head(query, instruction, template)
    return RERANK_PREFIX + head + rerank_body(document) + RERANK_SUFFIXES[template]
