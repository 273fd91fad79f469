"""References: the same checkpoint in float32 on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quernstone.checkpoints.checkpoint import Checkpoint, resolve
from quernstone.embedder import Embedder
from quernstone.encoding.prompts import ENDOFTEXT, Prompts
from quernstone.encoding.templates import AnyTemplate, PairTemplate
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines import choose_engine, load_engine
from quernstone.errors import ConfigError, MissingExtraError
from quernstone.reranker import Reranker
from quernstone.types import Encoded, EngineConfig, Float32Array, Task, TokenArray

_LIBRARIES = ("transformers", "sentence-transformers")


def load_reference(
    name: str, task: Task, adapter: str | None, template: AnyTemplate | None
) -> Reference | LibraryReference:
    """Load a reference: one that also explains differences, if a model is like Qwen's.

    Raises:
        ModelLoadError: The model does not exist, or no engine runs it.
    """
    checkpoint = resolve(name, task, adapter=adapter)
    is_qwens = checkpoint.is_qwen3 and not checkpoint.differences
    if task == "embed":
        is_qwens = is_qwens and checkpoint.prompts == Prompts()
        is_qwens = is_qwens and checkpoint.final_token == ENDOFTEXT
    else:
        is_qwens = is_qwens and not checkpoint.is_sentence_transformers
    if is_qwens and not isinstance(template, PairTemplate):
        return Reference(checkpoint, task)
    return LibraryReference(name, checkpoint, adapter, template)


class LibraryReference:
    """Any other checkpoint in float32, on an engine that another library computes."""

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        adapter: str | None,
        template: AnyTemplate | None,
    ) -> None:
        """Load the checkpoint on the first of transformers, sentence-transformers and torch.

        Raises:
            ModelLoadError: No engine runs it.
        """
        self.checkpoint = checkpoint
        self.engine = next(filter(self._runs, _LIBRARIES), "torch")
        """The name of the engine."""
        settings: Any = {"engine": self.engine, "dtype": "float32", "adapter": adapter}
        self.user: Embedder | Reranker
        if checkpoint.task == "embed":
            self.user = Embedder(name, **settings)
        else:
            self.user = Reranker(name, template=template, **settings)

    @property
    def only_ours(self) -> str:
        """Why no library computes the model; empty if one does."""
        if self.engine != "torch":
            return ""
        return "; ".join(
            str(found)
            for found in self.checkpoint.differences
            if not set(_LIBRARIES).intersection(found.engines)
        )

    def close(self) -> None:
        """Free the model."""
        self.user.close()

    def _runs(self, engine: str) -> bool:
        try:
            choose_engine(engine, self.checkpoint, self.checkpoint.task)
        except (ConfigError, MissingExtraError):
            return False
        return True


class Reference:
    """A checkpoint like Qwen's in float32 on the torch engine, which runs any token ids."""

    def __init__(self, checkpoint: Checkpoint, task: Task) -> None:
        """Load the checkpoint.

        Raises:
            ModelLoadError: It is incomplete or damaged.
        """
        self.checkpoint = checkpoint
        self.tokenizer = Tokenizer(self.checkpoint.tokenizer_folder, self.checkpoint.vocab_size)
        config = EngineConfig(
            task=task, model=str(self.checkpoint.folder), engine="torch", dtype="float32"
        )
        self._engine = load_engine(config, self.checkpoint, self.tokenizer)

    def run(self, sequences: Sequence[TokenArray]) -> Float32Array:
        """Return the engine's rows, neither cut nor normalized."""
        return self._engine.run([Encoded(ids) for ids in sequences])

    def states(self, ids: TokenArray) -> Float32Array:
        """Return the final state of every token: that of the text up to and including it."""
        return self.run([ids[: end + 1] for end in range(len(ids))])

    def plain(self, text: str) -> TokenArray:
        """Tokenize a text: control tokens are parsed, nothing is appended."""
        return self.tokenizer.frame_ids(text)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()
