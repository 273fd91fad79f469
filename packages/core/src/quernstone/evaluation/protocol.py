r"""Evaluation protocols: Qwen's official rules, and those of mteb.

Both prefix some texts with `Instruct: {instruction}\nQuery:` and leave others unchanged. They
differ in the instruction, in the texts that get it, and in the maximum length.
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
    "mteb": 32768,  # mteb sets no limit; this is that of the checkpoints
}
RERANK_MAX_LENGTH = 8192
"""Used by both Qwen's `qwen3_reranker_model.py` and mteb's `Qwen3RerankerWrapper`."""

_TEMPLATES: dict[ProtocolName, RerankTemplate] = {"official": "eval", "mteb": "card"}

# `qwen3_embedding_model.py` uses it for all STS and pair classification tasks, even if the table
# has another instruction.
_SIMILARITY_TYPES = ("STS", "PairClassification")
_SIMILARITY = "Retrieve semantically similar text"
# The fallback for retrieval queries in the same file, with its grammar.
_RETRIEVAL = "Retrieval relevant passage for the given query."


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A set of rules and its instructions."""

    name: ProtocolName
    instructions: Instructions
    """Take precedence over those of mteb's metadata."""
    bare: bool = False
    """Ignore the instructions of tasks, to measure what they contribute."""

    @property
    def max_length(self) -> int:
        """Maximum tokens per text, including the instruction; the model may allow fewer."""
        return _MAX_LENGTHS[self.name]

    @property
    def template(self) -> RerankTemplate:
        """Template of reranked pairs."""
        return _TEMPLATES[self.name]

    def embedding_instruction(self, task: TaskMetadata, prompt_type: PromptType | None) -> str:
        """Return the instruction for a text; an empty string leaves the text unchanged.

        Args:
            task: The task that the text belongs to.
            prompt_type: Query or document; None in tasks that have neither.
        """
        if self.bare:
            return ""
        side = None if prompt_type is None else str(prompt_type.value)
        if self.name == "official":
            return self._official(task, side)
        return self._mteb(task, side)

    def reranking_instruction(self, task: TaskMetadata) -> str:
        """Return the instruction for a task's pairs, if its queries have none of their own."""
        if self.bare or self.name == "mteb":
            # mteb's wrapper only supports instructions of queries
            return EVAL_INSTRUCTION
        return self._of_task(task) or EVAL_INSTRUCTION

    def _official(self, task: TaskMetadata, side: str | None) -> str:
        found = self.instructions.get(task.name)
        symmetric = found is not None and found.document is not None
        # "InstructionRetrieval" matches as well. Both types of reranking do not, so their documents
        # get the instruction.
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
        """Return the task's own instruction from the table, else from mteb's metadata."""
        if task.name in self.instructions:
            return self.instructions[task.name].query
        prompt = task.prompt
        if isinstance(prompt, dict):
            return str(prompt.get("query", ""))
        return prompt or ""


def _default(task: TaskMetadata) -> str:
    """Return mteb's instruction for the type of a task."""
    return get_abstask_prompt(task.name)
