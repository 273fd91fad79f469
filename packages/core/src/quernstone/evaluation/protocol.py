r"""Which text goes to the model: Qwen's evaluation rules, or mteb's.

Both put `Instruct: {instruction}\nQuery:` in front of some texts and nothing in front of others;
they differ in the instruction, in which texts get it, and in how long texts may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mteb.abstasks.abstask import get_abstask_prompt
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from quernstone.encoding.prompts import EVAL_INSTRUCTION
from quernstone.evaluation.instructions import Instructions
from quernstone.types import RerankTemplate

ProtocolName = Literal["official", "mteb"]
PROTOCOLS: tuple[ProtocolName, ...] = ("official", "mteb")

_MAX_LENGTHS: dict[ProtocolName, int] = {
    "official": 8192,  # `qwen3_embedding_model.py` of QwenLM/Qwen3-Embedding
    "mteb": 32768,  # mteb sets none, and the checkpoints' tokenizer and config say this
}
RERANK_MAX_LENGTH = 8192
"""The same in Qwen's `qwen3_reranker_model.py` and in mteb's `Qwen3RerankerWrapper`."""

_TEMPLATES: dict[ProtocolName, RerankTemplate] = {"official": "eval", "mteb": "card"}

# `qwen3_embedding_model.py`: of all STS and pair classification tasks, whatever the table says
_SIMILARITY_TYPES = ("STS", "PairClassification")
_SIMILARITY = "Retrieve semantically similar text"
# the same file, of a retrieval query for which nothing else is found; the grammar is theirs
_RETRIEVAL = "Retrieval relevant passage for the given query."


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One set of rules, and the instructions that they draw on."""

    name: ProtocolName
    instructions: Instructions
    """Instructions that go before those of mteb's metadata."""
    bare: bool = False
    """Embed and rerank without any instruction of the task, to see what instructions are worth."""

    @property
    def max_length(self) -> int:
        """Tokens per embedded text, instruction included; the model's own limit may be lower."""
        return _MAX_LENGTHS[self.name]

    @property
    def template(self) -> RerankTemplate:
        """The rendering of reranked pairs."""
        return _TEMPLATES[self.name]

    def embedding_instruction(self, task: TaskMetadata, prompt_type: PromptType | None) -> str:
        """The instruction in front of a text; empty for a bare text.

        Args:
            task: The task that the text is of.
            prompt_type: Whether it is a query or a document, None in tasks that have neither.
        """
        if self.bare:
            return ""
        side = None if prompt_type is None else str(prompt_type.value)
        if self.name == "official":
            return self._official(task, side)
        return self._mteb(task, side)

    def reranking_instruction(self, task: TaskMetadata) -> str:
        """The instruction of a task's pairs, unless its queries bring their own."""
        if self.bare or self.name == "mteb":
            # mteb's wrapper knows instructions of queries only
            return EVAL_INSTRUCTION
        return self._of_task(task) or EVAL_INSTRUCTION

    def _official(self, task: TaskMetadata, side: str | None) -> str:
        found = self.instructions.get(task.name)
        symmetric = found is not None and found.document is not None
        # also true of "InstructionRetrieval", and false of both types of reranking, whose
        # documents therefore do get the instruction
        if "Retrieval" in task.type and side == "document" and not symmetric:
            return ""
        if task.type in _SIMILARITY_TYPES:
            return _SIMILARITY
        if symmetric and side == "document":
            return str(found.document) if found else ""
        fallback = _RETRIEVAL if "Retrieval" in task.type and side == "query" else ""
        return self._of_task(task) or _default(task) or fallback

    def _mteb(self, task: TaskMetadata, side: str | None) -> str:
        if side == "document":
            return ""
        return self._of_task(task) or _default(task)

    def _of_task(self, task: TaskMetadata) -> str:
        """The task's own instruction: of the table, else of mteb's metadata."""
        if task.name in self.instructions:
            return self.instructions[task.name].query
        prompt = task.prompt
        if isinstance(prompt, dict):
            return str(prompt.get("query", ""))
        return prompt or ""


def _default(task: TaskMetadata) -> str:
    """What mteb says of a task's type."""
    return get_abstask_prompt(task.name)
