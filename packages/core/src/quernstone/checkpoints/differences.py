"""Compare the files of a model folder with those of the official Qwen3 checkpoints.

A fine-tune may change more than the weights: the direction of attention, pooling, a dense head, the
prompts. Every field is either supported by Quernstone's engines, or known not to affect results, or
a `Difference`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quernstone.checkpoints import adapters
from quernstone.checkpoints.adapters import Adapter
from quernstone.checkpoints.families import (
    Family,
    find_family,
    has_bias,
    is_known_rope,
    is_scaled_rope,
    read_window,
    runs_code,
)
from quernstone.checkpoints.files import MODULES, PROMPTS, read_json
from quernstone.checkpoints.modules import ACTIVATIONS, Modules
from quernstone.checkpoints.texts import DOCUMENT_PROMPTS, read_prompts, read_special_tokens
from quernstone.types import Task

EngineNames = tuple[Literal["torch", "transformers", "sentence-transformers", "vllm"], ...]

ALL: EngineNames = ("torch", "transformers", "sentence-transformers", "vllm")
"""The engines that run local checkpoints."""

_LIBRARIES: EngineNames = ("transformers", "sentence-transformers", "vllm")
_OURS: EngineNames = ("torch",)
_SENTENCE_TRANSFORMERS: EngineNames = ("sentence-transformers",)
_CLASSIFIES: EngineNames = ("torch", "transformers", "sentence-transformers")
_POOLS: EngineNames = ("torch", "sentence-transformers")
_MERGE: EngineNames = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a model's files that differs from the official Qwen3 checkpoints."""

    file: str
    field: str
    value: object
    meaning: str
    engines: EngineNames
    """The engines that support the field; none if it needs code that comes with the model."""

    def __str__(self) -> str:
        return f"`{self.field}` in `{self.file}` is {self.value!r}: {self.meaning}"


_IMPLEMENTED = {
    "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
    "rope_theta", "tie_word_embeddings", "vocab_size",
}  # fmt: skip

# Fields of `config.json` that do not affect the final hidden state. The settings for generation are
# among them: transformers used to write them into every file.
_IRRELEVANT = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled",
    "_name_or_path", "attention_dropout", "attn_implementation", "bos_token_id",
    "chunk_size_feed_forward", "do_sample", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "initializer_range", "keys_to_ignore_at_inference", "max_length",
    "max_window_layers", "model_max_length", "output_attentions", "output_hidden_states",
    "pad_token_id", "prefix", "pretraining_tp", "repetition_penalty", "return_dict",
    "sliding_window", "task_names", "task_specific_params", "temperature", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "use_cache", "use_return_dict",
}  # fmt: skip

_FORWARD: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_act": (lambda value: value == "silu", "it has another activation"),
    "layer_types": (
        lambda value: not value or set(value) == {"full_attention"},
        "some of its layers have another kind of attention",
    ),
    "quantization_config": (operator.not_, "its weights are quantized"),
    "use_sliding_window": (operator.not_, "its attention has a window"),
}
"""Field of `config.json` -> (is its value Qwen's?, meaning of another one). The libraries implement
all values."""

_CODE = "it needs code that comes with the model, which is never run"
_BIDIRECTIONAL: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "is_causal": (lambda value: value is not False, "its attention is bidirectional"),
    "use_bidirectional_attention": (operator.not_, "its attention is bidirectional"),
}
"""Like `_FORWARD`, for fields that not every version of the libraries supports."""

_ROPE = ("rope_scaling", "rope_parameters")

# Fields of rerankers, which `reranking` reads. `num_labels` has other meanings in embedders.
_RERANKING = {
    "id2label", "label2id", "problem_type", "sbert_ce_default_activation_function",
    "sentence_transformers",
}  # fmt: skip

# Names of sentence-transformers' modules that the torch engine supports, in their order.
_MODULES = re.compile("Transformer Pooling( Dense)*( Normalize)?")
_LIBRARY_MODULES = "sentence_transformers."

# Fields of `tokenizer_config.json` that change the tokens of a text, unless they are false. In
# other families than Qwen3, the first two repeat what `tokenizer.json` says.
_TOKEN_FIELDS = ("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case")

# The added tokens of the official tokenizers look like `<|fim_pad|>`, `</tool_call>`, `</s>`,
# `<|reserved_special_token_0|>` or `[INST]`.
_CONTROL_TOKEN = re.compile(r"<\|?/?[a-z0-9_]+\|?>|\[/?[A-Z_]+\]")

_TOKENS = "its tokens are not those of Qwen3-Embedding"


def find_differences(
    config: Mapping[str, Any],
    task: Task,
    modules: Modules,
    adapter: Adapter | None,
    *,
    folder: Path,
    module_folder: Path,
    tokenizer_folder: Path,
) -> tuple[Difference, ...]:
    """Return all differences of a model from Qwen's checkpoints, for one task.

    Nothing is compared for models that the torch engine does not compute.

    Args:
        config: The contents of its `config.json`.
        task: The use of the model. Modules, prompts and the tokenizer's final token matter for
            embedding only.
        modules: Its modules.
        adapter: The adapter to merge.
        folder: As for `Checkpoint`, like the other folders.
        module_folder: Holds the prompts.
        tokenizer_folder: Holds the tokenizer.

    Raises:
        ModelLoadError: A file is damaged.
    """
    found = [*_adapter(adapter, folder)]
    family = find_family(config)
    if family is None:
        return tuple(found)
    found += [*_code(config, family, task), *_by_rules(config, _BIDIRECTIONAL, _OURS)]
    found += [*_by_rules(config, _FORWARD, _LIBRARIES), *_rope(config), *_biases(config, family)]
    found += [*_window(config, family), *_unknown(config, family, task)]
    found += _architecture(config, family, task)
    if task == "embed":
        prompts, instruction = read_prompts(module_folder, config)
        found += [*_modules(modules, module_folder), *_prompts(module_folder)]
        is_qwen3 = config.get("model_type") == "qwen3"
        starts = instruction != ""
        if not is_qwen3:
            starts = bool(prompts.document and prompts.before_query(""))
        found += _tokens(tokenizer_folder, starts=starts, is_qwen3=is_qwen3)
    else:
        found += _modules_of_reranker(modules, module_folder)
    return tuple(found)


def known_fields(family: Family) -> set[str]:
    """Return the fields of `config.json` that are compared, or do not affect results."""
    known = {*_IMPLEMENTED, *_IRRELEVANT, *_FORWARD, *_BIDIRECTIONAL, "architectures", "auto_map"}
    return known | {*_RERANKING, *_ROPE, *family.bias_fields, *family.irrelevant}


def is_causal(config: Mapping[str, Any]) -> bool:
    """Return False if a decoder's `config.json` asks for bidirectional attention."""
    family = find_family(config)
    bidirectional = family is not None and family.bidirectional
    return not bidirectional and not any(_by_rules(config, _BIDIRECTIONAL, ()))


def _code(config: Mapping[str, Any], family: Family, task: Task) -> Iterator[Difference]:
    stored = config.get("auto_map") or {}
    if runs_code(map(str, stored.values()), family):
        yield Difference("config.json", "auto_map", stored, _CODE, ())
    if family.code:
        kind = config.get("model_type")
        meaning, engines = "the torch engine computes what its code does, which is never run", _OURS
        if task == "rerank":
            meaning, engines = "it is a model for embedding", ()
        yield Difference("config.json", "model_type", kind, meaning, engines)


def _by_rules(
    config: Mapping[str, Any],
    rules: Mapping[str, tuple[Callable[[Any], bool], str]],
    engines: EngineNames,
) -> Iterator[Difference]:
    for field, (is_qwens, meaning) in rules.items():
        if field in config and not is_qwens(config[field]):
            yield Difference("config.json", field, config[field], meaning, engines)


def _rope(config: Mapping[str, Any]) -> Iterator[Difference]:
    if is_scaled_rope(config):
        engines = ALL if is_known_rope(config) else _LIBRARIES
        field = next((name for name in _ROPE if config.get(name)), "rope_theta")
        yield Difference("config.json", field, config.get(field), "its RoPE is scaled", engines)


def _biases(config: Mapping[str, Any], family: Family) -> Iterator[Difference]:
    for field in sorted(family.bias_fields):
        if has_bias(config, field):
            yield Difference("config.json", field, True, "its projections have biases", ALL)


def _window(config: Mapping[str, Any], family: Family) -> Iterator[Difference]:
    window = read_window(config, family)
    if window is not None:
        meaning = "its attention has a window"
        if not is_causal(config):
            meaning = "no engine computes a bidirectional window; remove it if texts are shorter"
        engines = ALL if is_causal(config) else ()
        yield Difference("config.json", "sliding_window", window, meaning, engines)


def _unknown(config: Mapping[str, Any], family: Family, task: Task) -> Iterator[Difference]:
    known = known_fields(family) | ({"num_labels"} if task == "rerank" else set())
    for field, value in config.items():
        if field not in known and value:
            meaning = (
                "it is unknown how it affects the model; if it does not, remove it from the file"
            )
            yield Difference("config.json", field, value, meaning, ())


def _architecture(config: Mapping[str, Any], family: Family, task: Task) -> Iterator[Difference]:
    name = next(iter(config.get("architectures") or family.architectures))
    if name in family.architectures:
        return
    classifies = task == "rerank" and name == f"{family.name}ForSequenceClassification"
    meaning = "it scores by a classification head" if classifies else "its architecture is another"
    engines = _CLASSIFIES if classifies else ()
    yield Difference("config.json", "architectures", name, meaning, engines)


def _adapter(adapter: Adapter | None, folder: Path) -> Iterator[Difference]:
    name = adapters.CONFIG
    if adapter is None:
        if (folder / name).is_file():
            meaning = (
                "the folder has an adapter beside the weights of a model, which may or may not "
                "contain it; pass the folder as `adapter` as well to merge it, or remove the file"
            )
            kind = read_json(folder / name).get("peft_type")
            yield Difference(name, "peft_type", kind, meaning, ())
        return
    yield Difference(name, "peft_type", adapter.config.get("peft_type"), "it is an adapter", _MERGE)
    for field, value, meaning in adapters.unsupported_fields(adapter.config):
        yield Difference(name, field, value, meaning, ())
    own: dict[str, tuple[bool, EngineNames]] = {
        MODULES: (adapter.has_modules, _OURS),
        "tokenizer.json": (adapter.has_tokenizer, ("torch", "transformers")),
    }
    for file, (exists, engines) in own.items():
        if exists:
            meaning = "the adapter's file replaces that of its base model"
            yield Difference(file, "adapter", str(adapter.folder), meaning, engines)


def _modules_of_reranker(modules: Modules, folder: Path) -> Iterator[Difference]:
    types = list(modules.types)
    names = [name.rpartition(".")[2] for name in types]
    if any(not name.startswith(_LIBRARY_MODULES) for name in types):
        yield Difference(MODULES, "type", types, _CODE, ())
    elif names not in ([], ["Transformer"], ["Transformer", "LogitScore"]):
        meaning = "it has other modules than a decoder and the score of its answers"
        yield Difference(MODULES, "type", types, meaning, _SENTENCE_TRANSFORMERS)
    yield from _lowercase(folder)


def _lowercase(folder: Path) -> Iterator[Difference]:
    path = folder / "sentence_bert_config.json"
    if path.is_file() and read_json(path).get("do_lower_case"):
        yield Difference(path.name, "do_lower_case", True, _TOKENS, _SENTENCE_TRANSFORMERS)


def _modules(modules: Modules, folder: Path) -> Iterator[Difference]:
    types = list(modules.types)
    foreign = [name for name in types if not name.startswith(_LIBRARY_MODULES)]
    if foreign:
        yield Difference(MODULES, "type", foreign[0], _CODE, ())
        return
    names = " ".join(name.rpartition(".")[2] for name in types)
    unknown = [layer.activation for layer in modules.dense if layer.activation not in ACTIVATIONS]
    if names and (unknown or not _MODULES.fullmatch(names)):
        meaning = "it has other modules than a decoder, pooling, dense layers and normalization"
        yield Difference(MODULES, "type", types, meaning, _SENTENCE_TRANSFORMERS)
    elif modules.dense:
        yield Difference(MODULES, "type", types, "it has dense layers", _POOLS)
    if not modules.normalizes:
        yield Difference(MODULES, "type", types, "its vectors are not normalized", ALL)
    pooling = modules.pooling
    if pooling not in (None, "lasttoken"):
        file, meaning = "1_Pooling/config.json", "it does not pool the last token"
        engines = _POOLS if pooling in ("mean", "cls") else _SENTENCE_TRANSFORMERS
        yield Difference(file, "pooling_mode", pooling, meaning, engines)
    yield from _lowercase(folder)


def _prompts(folder: Path) -> Iterator[Difference]:
    path = folder / PROMPTS
    stored = read_json(path) if path.is_file() else {}
    names = {name for name, prompt in (stored.get("prompts") or {}).items() if prompt is not None}
    # The default is for texts that are neither queries nor documents, if both have a prompt.
    named = "query" in names and any(name in names for name in DOCUMENT_PROMPTS)
    for field in ("truncate_dim", *(() if named else ("default_prompt_name",))):
        if stored.get(field):
            meaning = "sentence-transformers applies it to every text"
            yield Difference(PROMPTS, field, stored[field], meaning, _SENTENCE_TRANSFORMERS)


def _tokens(folder: Path, *, starts: bool, is_qwen3: bool) -> Iterator[Difference]:
    """Yield the differences in the tokenizer; `starts` is True if every text has a prompt."""
    path = folder / "tokenizer_config.json"
    stored = read_json(path) if path.is_file() else {}
    before, after, added = read_special_tokens(folder)
    repeated: tuple[str, ...] = ()
    if not is_qwen3:
        repeated = (*_TOKEN_FIELDS[: bool(before)], *_TOKEN_FIELDS[1 : 1 + bool(after)])
    for field in _TOKEN_FIELDS:
        if stored.get(field) and field not in repeated:
            yield Difference(path.name, field, True, _TOKENS, _SENTENCE_TRANSFORMERS)
    words = tuple(token for token in added if not _CONTROL_TOKEN.fullmatch(token))
    if not (folder / "tokenizer.json").is_file():
        meaning = "the model has none: its tokenizer has another format"
        yield Difference("tokenizer.json", "model", None, meaning, _SENTENCE_TRANSFORMERS)
        return
    if is_qwen3:  # the first revisions append nothing: see `read_frame`
        framed = not before and (bool(after) or starts)
    else:
        framed = len(before) <= 1 and bool(before or after or starts)
    if not framed or len(after) > 1 or any(token in words for token in (*before, *after)):
        value, meaning = (*before, "...", *after), "it does not append one final token"
        file = "tokenizer.json"
        yield Difference(file, "post_processor", value, meaning, _SENTENCE_TRANSFORMERS)
    elif words:
        yield Difference("tokenizer.json", "added_tokens", words, _TOKENS, _SENTENCE_TRANSFORMERS)
