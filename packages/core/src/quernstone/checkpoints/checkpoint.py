"""Find a checkpoint and read its small files, before any weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quernstone.checkpoints.differences import Difference, find_differences, is_causal
from quernstone.checkpoints.files import MODULES, check_files, content_digest, read_json
from quernstone.checkpoints.hubs import locate
from quernstone.checkpoints.modules import DenseConfig, Pooling, pooling_of, read_dense
from quernstone.checkpoints.texts import read_final_token, read_prompts
from quernstone.encoding.prompts import ENDOFTEXT, Prompts
from quernstone.errors import ModelLoadError
from quernstone.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The fields of a Qwen3 `config.json` that the forward pass needs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    causal: bool
    """False if every token attends to the complete sequence."""
    pooling: Pooling
    """Which tokens make the embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model in a local folder, and the contents of its small files."""

    name: str
    """The name that the user gave."""
    folder: Path
    revision: str
    """The commit of a hub snapshot, or `digest` for any other folder."""
    digest: str
    """Hash of the files, see `content_digest`."""
    architecture: str
    """The first entry of `architectures`, for example `Qwen3ForCausalLM`."""
    raw_config: dict[str, Any]
    instruction: str
    """The instruction for queries that is stored with the model, else the model card's."""
    prompts: Prompts
    """The prompts stored with the model, else Qwen3-Embedding's."""
    final_token: str
    """The token after an embedded text, whose state is the embedding."""
    task: Task
    """Use of the model."""
    differences: tuple[Difference, ...]
    """Fields by which a decoder differs from the official Qwen3 checkpoints."""

    @property
    def is_qwen3(self) -> bool:
        """True if the torch engine supports this architecture."""
        return self.raw_config.get("model_type") == "qwen3"

    @property
    def is_sentence_transformers(self) -> bool:
        """True if the folder lists modules for sentence-transformers."""
        return (self.folder / MODULES).is_file()

    @property
    def hidden_size(self) -> int:
        """The length of a full embedding."""
        return self._number("hidden_size")

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self._number("vocab_size")

    @property
    def max_positions(self) -> int:
        """The number of tokens of the longest sequence that the model supports."""
        return self._number("max_position_embeddings")

    @property
    def likely_task(self) -> Task:
        """The task of the checkpoint, guessed from its files and its name."""
        name = f"{self.name} {self.folder.name}".lower()
        if self.is_sentence_transformers or "embed" in name:
            return "embed"
        if "rerank" in name or self.architecture.endswith("ForSequenceClassification"):
            return "rerank"
        return "embed"

    def _number(self, key: str) -> int:
        value = self.raw_config.get(key)
        if not isinstance(value, int) or value <= 0:
            path = self.folder / "config.json"
            raise ModelLoadError(f"`{path}`: `{key}` is {value!r}, expected a positive integer")
        return value

    @property
    def can_share_prefixes(self) -> bool:
        """True if the states of a text's first tokens do not depend on the others.

        With another pooling than that of the last token, a result needs the states of all tokens.
        """
        return is_causal(self.raw_config) and self._pooling == "lasttoken"

    @property
    def _pooling(self) -> Pooling:
        return pooling_of(self.folder) if self.task == "embed" else "lasttoken"

    @property
    def dense_layers(self) -> tuple[DenseConfig, ...]:
        """The dense layers after pooling; none for a reranker."""
        return read_dense(self.folder) if self.task == "embed" else ()

    def qwen3_config(self) -> ModelConfig:
        """Read the configuration for the torch engine."""
        raw = self.raw_config
        rope = raw.get("rope_parameters") or raw  # transformers 5 or older
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self._number("intermediate_size"),
            num_hidden_layers=self._number("num_hidden_layers"),
            num_attention_heads=self._number("num_attention_heads"),
            num_key_value_heads=self._number("num_key_value_heads"),
            head_dim=self._number("head_dim"),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or self._number("rope_theta")),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            causal=is_causal(raw),
            pooling=self._pooling,
        )


def resolve(name: str, task: Task, revision: str | None = None) -> Checkpoint:
    """Find a model's folder, downloading it if necessary, and read its small files.

    Args:
        name: `tiny`, a local folder, a hub id such as `Qwen/Qwen3-Embedding-0.6B`, or
            `modelscope:` and an id.
        task: Which of the two bundled models `tiny` means.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelLoadError: The model does not exist, or one of its files is missing or damaged.
        MissingExtraError: The name starts with `modelscope:` and the package is not installed.
    """
    source = locate(name, task, revision)
    check_files(source)
    folder = source.folder
    raw = read_json(folder / "config.json")
    prompts, instruction = read_prompts(folder)
    final_token = read_final_token(folder)
    differences = find_differences(folder, raw, task)
    is_qwens = raw.get("model_type") == "qwen3" and not differences
    is_qwens = is_qwens and (task == "rerank" or (prompts, final_token) == (Prompts(), ENDOFTEXT))
    digest = content_digest(folder, modules=not is_qwens)
    return Checkpoint(
        name=name,
        folder=folder,
        revision=source.commit or digest,
        digest=digest,
        architecture=str((raw.get("architectures") or ["unknown"])[0]),
        raw_config=raw,
        instruction=instruction,
        prompts=prompts,
        final_token=final_token,
        task=task,
        differences=differences,
    )
