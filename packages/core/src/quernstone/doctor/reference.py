"""A reference: the same checkpoint in float32 on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines import load_engine
from quernstone.errors import ConfigError
from quernstone.types import Encoded, EngineConfig, Float32Array, Task, TokenArray


class Reference:
    """A Qwen3 checkpoint in float32 on the torch engine, which runs any token ids."""

    def __init__(self, name: str, task: Task, adapter: str | None = None) -> None:
        """Load the checkpoint.

        Raises:
            ConfigError: It is not a Qwen3 model.
            ModelLoadError: The model does not exist or is incomplete.
        """
        self.checkpoint = resolve(name, task, adapter=adapter)
        if not self.checkpoint.is_qwen3:
            raise ConfigError(f"the reference `{name}` is not a Qwen3 model")
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
