"""The decoders of transformers that the torch engine supports.

They share one decoder layer, and differ in the norms of heads, in biases, in windows of attention
and in how a missing field of `config.json` is read. A new family is a row of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Bias = bool | str
"""True if projections have biases, or the field of `config.json` that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family, and how its classes in transformers read `config.json`."""

    name: str
    """The start of the names of its classes: `Qwen3` of `Qwen3ForCausalLM`."""
    qk_norm: bool = False
    """True if the queries and keys of each head are normalized."""
    qkv_bias: Bias = False
    o_bias: Bias = False
    mlp_bias: Bias = False
    optional: frozenset[str] = frozenset({"head_dim", "rope_theta"})
    """Fields that may be missing: `head_dim`, `rope_theta`, `num_key_value_heads`."""
    windowed: bool = False
    """True if `sliding_window` limits the attention of every layer."""
    bidirectional: bool = False
    """True if every token attends to the complete sequence, whatever the files say."""
    code: frozenset[str] = frozenset()
    """Classes that come with these models. They are never run; the torch engine replaces them."""
    irrelevant: frozenset[str] = frozenset()
    """More fields of `config.json` that do not affect results."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures whose final states are the embedding."""
        if self.code:
            return tuple(name.partition(".")[2] for name in self.code if name.endswith("Model"))
        return f"{self.name}ForCausalLM", f"{self.name}Model"

    @property
    def bias_fields(self) -> set[str]:
        """The fields of `config.json` that add biases."""
        return {
            bias for bias in (self.qkv_bias, self.o_bias, self.mlp_bias) if isinstance(bias, str)
        }


FAMILIES: Mapping[str, Family] = {
    "qwen3": Family(
        name="Qwen3",
        qk_norm=True,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        optional=frozenset(),
    ),
    "qwen2": Family(name="Qwen2", qkv_bias=True),
    "llama": Family(
        name="Llama",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        optional=frozenset({"head_dim", "rope_theta", "num_key_value_heads"}),
    ),
    "mistral": Family(name="Mistral", windowed=True),
}
"""The families by `model_type`."""

# The code of jina-embeddings-v5 adds prompts to Qwen3 or EuroBERT, pools the last token and
# normalizes; `is_decoder` tells the two apart. Both have a LoRA adapter for each task.
_JINA_V5 = "jina_embeddings_v5"
_JINA_V5_CODE = frozenset(
    {
        f"configuration_{_JINA_V5}.JinaEmbeddingsV5Config",
        f"modeling_{_JINA_V5}.JinaEmbeddingsV5Model",
        "custom_st.Transformer",
    }
)
_JINA_V5_SMALL = replace(
    FAMILIES["qwen3"], code=_JINA_V5_CODE, irrelevant=frozenset({"is_decoder"})
)
_JINA_V5_NANO = Family(
    name="EuroBERT",
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
    bidirectional=True,
    code=_JINA_V5_CODE,
    irrelevant=frozenset({"bos_token", "eos_token", "mask_token", "mask_token_id", "pad_token"}),
)


def find_family(config: Mapping[str, Any]) -> Family | None:
    """Return the decoder that computes a model, from its `config.json`; None if there is none."""
    kind = config.get("model_type")
    if kind == _JINA_V5:
        return _JINA_V5_SMALL if config.get("is_decoder", True) else _JINA_V5_NANO
    return FAMILIES.get(str(kind))


def runs_code(names: Iterable[str], family: Family) -> bool:
    """Return True if one of these classes is not one that the torch engine can compute.

    In a fine-tune, `org/model--` before a name says where the code is.
    """
    return not {name.rpartition("--")[2] for name in names} <= family.code


def has_bias(config: Mapping[str, Any], bias: Bias) -> bool:
    """Return True if a `config.json` adds biases to projections."""
    return bool(config.get(bias)) if isinstance(bias, str) else bias


def read_window(config: Mapping[str, Any], family: Family) -> int | None:
    """Return the number of tokens that a token attends to, itself included.

    None if there is no limit, or none below the longest context.
    """
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings")
    if not family.windowed or not isinstance(window, int):
        return None
    return None if isinstance(longest, int) and window >= longest else window


_SCALINGS: Mapping[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor"}, set()),
    "yarn": (
        {"factor"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}
"""Required and optional fields of each type of RoPE that the torch engine supports."""

_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ORIGINAL = "original_max_position_embeddings"


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE of a `config.json` with its `rope_type`, as transformers 5 reads it.

    `rope_scaling` of older versions replaces `rope_parameters`. Without a base of its own, the
    base is `rope_theta` of the file, if it has one.
    """
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if config.get("rope_theta") is not None:
        rope.setdefault("rope_theta", config["rope_theta"])
    if rope["rope_type"] in ("llama3", "yarn"):
        rope.setdefault(_ORIGINAL, config.get("max_position_embeddings"))
    return rope


def is_known_rope(config: Mapping[str, Any]) -> bool:
    """Return True if the torch engine computes the RoPE of a `config.json`."""
    rope = read_rope(config)
    required, optional = _SCALINGS.get(str(rope["rope_type"]), ({"-"}, set()))
    numbers = {key: value for key, value in rope.items() if key not in ("rope_type", "type")}
    given = {key for key, value in numbers.items() if value is not None}
    scaled = rope["rope_type"] in ("llama3", "yarn")
    known = required | optional | _ALWAYS | ({_ORIGINAL} if scaled else set())
    return (
        rope.get("partial_rotary_factor", 1.0) == 1.0
        and required <= given <= known
        and all(isinstance(numbers[key], (int, float)) for key in given)
    )


def is_scaled_rope(config: Mapping[str, Any]) -> bool:
    """Return True if the RoPE of a `config.json` has more than a base, such as a scaling factor."""
    return read_rope(config)["rope_type"] != "default" or not is_known_rope(config)
