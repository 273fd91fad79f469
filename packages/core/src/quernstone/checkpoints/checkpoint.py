"""Find a checkpoint and read its small files, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quernstone.checkpoints.adapters import (
    Adapter,
    base_of,
    check_chosen,
    find_adapter,
    is_adapter,
    read_adapter,
)
from quernstone.checkpoints.differences import Difference, find_differences, is_causal
from quernstone.checkpoints.families import (
    Family,
    find_family,
    has_bias,
    read_rope,
    read_window,
    runs_code,
)
from quernstone.checkpoints.files import (
    MODULES,
    Source,
    check_files,
    content_digest,
    join_digests,
    read_json,
)
from quernstone.checkpoints.hubs import locate
from quernstone.checkpoints.modules import DenseConfig, Modules, Pooling, read_module_files
from quernstone.checkpoints.reranking import RerankerFiles, is_cross_encoder, read_labels
from quernstone.checkpoints.texts import read_frame, read_prompts
from quernstone.encoding.prompts import ENDOFTEXT, Prompts
from quernstone.errors import ConfigError, ModelLoadError
from quernstone.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The fields of a decoder's `config.json` that the forward pass needs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Mapping[str, Any]
    """See `read_rope`; with `rope_theta`."""
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    window: int | None
    """The attention window: most tokens that a token attends to, itself included; or None."""
    tie_word_embeddings: bool
    causal: bool
    """False if every token attends to the complete sequence."""
    pooling: Pooling
    """The pooling: which token states become the embedding."""
    labels: int = 0
    """Labels of the classification head; 0 for a language model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model in a local folder, and the contents of its small files."""

    name: str
    """The name that the user gave."""
    folder: Path
    """Holds `config.json` and the weights."""
    module_folder: Path
    """Holds the prompts and modules for sentence-transformers: `folder`, or an adapter's."""
    tokenizer_folder: Path
    """Holds the tokenizer: `folder`, or an adapter's."""
    adapter: Adapter | None
    """The LoRA adapter to merge into the weights."""
    revision: str
    """The commit of a hub snapshot, or `digest` for any other folder and with an adapter."""
    digest: str
    """Hash of the files, see `content_digest`, and of the adapter."""
    architecture: str
    """The first entry of `architectures`, for example `Qwen3ForCausalLM`."""
    raw_config: dict[str, Any]
    instruction: str
    """The instruction for queries that is stored with the model, else Qwen3's model card's; empty
    for other families."""
    prompts: Prompts
    """The prompts stored with the model, else Qwen3-Embedding's."""
    first_token: str
    """The token before an embedded text; empty for none."""
    final_token: str
    """The token after an embedded text, whose state is the embedding; empty for none."""
    task: Task
    """The task of the model."""
    modules: Modules
    """Pooling and dense layers, from the files of sentence-transformers."""
    differences: tuple[Difference, ...]
    """The fields in which a model differs from the official Qwen3 checkpoints."""

    @property
    def family(self) -> Family | None:
        """The decoder of the torch engine that computes this model; None if there is none."""
        return find_family(self.raw_config)

    @property
    def is_qwen3(self) -> bool:
        """True for Qwen3, whose prompts and final token are the default."""
        return self.raw_config.get("model_type") == "qwen3"

    @property
    def is_sentence_transformers(self) -> bool:
        """True if the folder lists modules for sentence-transformers."""
        return (self.module_folder / MODULES).is_file()

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
        reranks = is_cross_encoder(self.module_folder)
        if (self.is_sentence_transformers and not reranks) or "embed" in name:
            return "embed"
        if reranks or "rerank" in name or self.architecture.endswith("ForSequenceClassification"):
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
        With a window of attention, a prefix may be out of reach.
        """
        family, raw = self.family, self.raw_config
        windowed = family is not None and read_window(raw, family) is not None
        return is_causal(raw) and self._pooling == "lasttoken" and not windowed

    @property
    def _pooling(self) -> Pooling:
        return self.modules.own_pooling if self.task == "embed" else "lasttoken"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a reranker's classification head; none for a language model."""
        return read_labels(self.raw_config) if self.task == "rerank" else ()

    @property
    def reranker_files(self) -> RerankerFiles:
        """The files that define the prompt and the answers of a reranker."""
        return RerankerFiles(
            config=self.raw_config,
            module_folder=self.module_folder,
            tokenizer_folder=self.tokenizer_folder,
        )

    @property
    def ignored_token(self) -> int | None:
        """A token that a classification head skips at the end of a sequence: the padding."""
        return self.raw_config.get("pad_token_id") if self.labels else None

    @property
    def dense_layers(self) -> tuple[DenseConfig, ...]:
        """The dense layers after pooling; none for a reranker."""
        return self.modules.dense if self.task == "embed" else ()

    def decoder_config(self) -> ModelConfig:
        """Read the configuration for the torch engine.

        Raises:
            ModelLoadError: A field is missing or invalid, or no family computes the model.
        """
        raw, family = self.raw_config, self.family
        if family is None:
            raise ModelLoadError(f"the torch engine has no decoder for a {self.architecture}")
        heads = self._number("num_attention_heads")
        defaults = {
            "head_dim": self.hidden_size // heads,
            "num_key_value_heads": heads,
        }

        def number(key: str) -> int:
            missing = raw.get(key) is None and key in family.optional
            return defaults[key] if missing else self._number(key)

        rope = read_rope(raw)
        if "rope_theta" not in rope:
            rope["rope_theta"] = 10000 if "rope_theta" in family.optional else None
        if not isinstance(rope["rope_theta"], (int, float)) or rope["rope_theta"] <= 0:
            path = self.folder / "config.json"
            msg = f"`{path}`: `rope_theta` is {rope['rope_theta']!r}, expected a positive number"
            raise ModelLoadError(msg)
        if raw.get("sliding_window") is not None and family.windowed:
            self._number("sliding_window")  # a check
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self._number("intermediate_size"),
            num_hidden_layers=self._number("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=number("num_key_value_heads"),
            head_dim=number("head_dim"),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope=rope,
            qk_norm=family.qk_norm,
            qkv_bias=has_bias(raw, family.qkv_bias),
            o_bias=has_bias(raw, family.o_bias),
            mlp_bias=has_bias(raw, family.mlp_bias),
            window=read_window(raw, family),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            causal=is_causal(raw),
            pooling=self._pooling,
            labels=len(self.labels),
        )


def resolve(
    name: str,
    task: Task,
    revision: str | None = None,
    adapter: str | None = None,
    cache_folder: str | None = None,
) -> Checkpoint:
    """Find a model's folder, downloading it if necessary, and read its small files.

    Args:
        name: `tiny`, a local folder, a hub id such as `Qwen/Qwen3-Embedding-0.6B`, or
            `modelscope:` and an id. A folder that holds only an adapter stands for its base model
            with the adapter.
        task: Which of the two bundled models `tiny` means.
        revision: Branch, tag or commit of a hub id.
        adapter: A LoRA adapter: its name in the model's folder, a folder, or a hub id. An empty
            string is the base model of one that has several.
        cache_folder: Where the files of hub ids are kept; None: the hub's usual cache.

    Raises:
        ConfigError: The model has several adapters and none is chosen.
        ModelLoadError: The model or the adapter does not exist, or one of their files is missing
            or damaged.
        MissingExtraError: The name starts with `modelscope:` and the package is not installed.
    """
    source = locate(name, task, revision, cache_folder)
    merged = None
    if is_adapter(source.folder):
        if adapter:
            msg = f"`{name}` is an adapter itself: pass its base model with `adapter`"
            raise ConfigError(msg)
        merged = read_adapter(source.folder)
        source = _locate_base(merged, name, task, cache_folder)
    check_files(source)
    folder = source.folder
    if merged is None:
        check_chosen(adapter, name, folder)
        merged = find_adapter(adapter, name, folder, task, cache_folder) if adapter else None
    return _read(name, task, source, merged)


def _locate_base(adapter: Adapter, name: str, task: Task, cache_folder: str | None) -> Source:
    base, revision = base_of(adapter)
    try:
        return locate(base, task, revision, cache_folder)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"`{name}` is a LoRA adapter of `{base}`, which was not found; pass a folder of that "
            f"model, and this one as `adapter`. {error}"
        ) from error


def _read(name: str, task: Task, source: Source, adapter: Adapter | None) -> Checkpoint:
    """Read the small files of a model."""
    folder = source.folder
    module_folder = adapter.folder if adapter and adapter.has_modules else folder
    tokenizer_folder = adapter.folder if adapter and adapter.has_tokenizer else folder
    raw = read_json(folder / "config.json")
    prompts, instruction = read_prompts(module_folder, raw)
    first_token, final_token = read_frame(tokenizer_folder, raw)
    modules = read_module_files(module_folder)
    family = find_family(raw)
    if family is not None and not runs_code(modules.types, family):
        modules = Modules((), None, ())  # the family pools and normalizes like Qwen3-Embedding
    differences = find_differences(
        raw,
        task,
        modules,
        adapter,
        folder=folder,
        module_folder=module_folder,
        tokenizer_folder=tokenizer_folder,
    )
    is_qwens = raw.get("model_type") == "qwen3" and not differences
    is_qwens = is_qwens and (task == "rerank" or (prompts, final_token) == (Prompts(), ENDOFTEXT))
    digest = content_digest(folder, modules=not is_qwens)
    revision = source.commit or digest
    if adapter:
        revision = digest = join_digests(digest, adapter.digest)
    return Checkpoint(
        name=name,
        folder=folder,
        module_folder=module_folder,
        tokenizer_folder=tokenizer_folder,
        adapter=adapter,
        revision=revision,
        digest=digest,
        architecture=str((raw.get("architectures") or ["unknown"])[0]),
        raw_config=raw,
        instruction=instruction,
        prompts=prompts,
        first_token=first_token,
        final_token=final_token,
        task=task,
        modules=modules,
        differences=differences,
    )
