"""Random checkpoints in the six official layouts: real shapes, names, files and tokenizers.

The weights are noise. Speed does not depend on them, and two engines that agree on noise agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from tests.support.qwen_tokenizer import Kind, write_tokenizer

Layout = Literal[
    "embedding-0.6b", "embedding-4b", "embedding-8b", "reranker-0.6b", "reranker-4b", "reranker-8b"
]


@dataclass(frozen=True, slots=True)
class Shape:
    """The differences between the layouts. Source: the checkpoints' `config.json` files."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    prefix: str
    """Prefix of tensor names: `model.` for rerankers, empty for embedding models."""
    stores_head: bool
    shards: int
    tokenizer: Kind
    max_positions: int = 40960


def _embedding(hidden: int, inner: int, layers: int, heads: int, *, tied: bool) -> Shape:
    return Shape(
        hidden, inner, layers, heads, 8, 128, 151665, tied, "", False, 2, "embedding_large"
    )


def _reranker(hidden: int, inner: int, layers: int, heads: int, *, tied: bool) -> Shape:
    return Shape(hidden, inner, layers, heads, 8, 128, 151669, tied, "model.", not tied, 2, "base")


SHAPES: dict[Layout, Shape] = {
    "embedding-0.6b": replace(
        _embedding(1024, 3072, 28, 16, tied=True),
        vocab=151669,
        shards=1,
        tokenizer="embedding",
        max_positions=32768,
    ),
    "embedding-4b": _embedding(2560, 9728, 36, 32, tied=True),
    "embedding-8b": _embedding(4096, 12288, 36, 32, tied=False),
    "reranker-0.6b": replace(_reranker(1024, 3072, 28, 16, tied=True), shards=1),
    "reranker-4b": _reranker(2560, 9728, 36, 32, tied=True),
    "reranker-8b": _reranker(4096, 12288, 36, 32, tied=False),
}


def random_checkpoint(
    folder: Path,
    layout: Layout,
    *,
    layers: int | None = None,
    width: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> Path:
    """Write a checkpoint of random weights, complete with tokenizer and side files.

    Args:
        folder: Created if it does not exist. A folder that has weights is not changed.
        layout: Which official checkpoint to imitate.
        layers: Depth; None for the official one.
        width: Divides hidden size, intermediate size and the numbers of heads.
        dtype: Of the stored weights.
        seed: Of the random numbers.
        tokenizer: Folder of a checkpoint whose vocabulary to take; None for the official one.

    Returns:
        `folder`
    """
    if (folder / "config.json").exists():
        return folder
    shape = SHAPES[layout]
    shape = replace(
        shape,
        hidden=shape.hidden // width,
        intermediate=shape.intermediate // width,
        layers=layers or shape.layers,
        heads=max(2, shape.heads // width),
        kv_heads=max(1, shape.kv_heads // width),
    )
    config = _config(shape, dtype)
    if tokenizer is None:
        write_tokenizer(folder, shape.tokenizer)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder)
        theirs = json.loads((tokenizer / "config.json").read_text())
        shape = replace(shape, vocab=theirs["vocab_size"])
        for name in ("vocab_size", "bos_token_id", "eos_token_id"):
            config[name] = theirs[name]
    tensors = list(_tensors(shape, dtype, torch.Generator().manual_seed(seed)))
    _write_weights(folder, tensors, shape.shards)
    if layout.startswith("embedding"):
        _write_sentence_transformers_files(folder, shape.hidden)
    # last: its presence says that the folder is complete
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _tensors(
    shape: Shape, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[str, torch.Tensor]]:
    def noise(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * 0.02).to(dtype)

    def norm(size: int) -> torch.Tensor:
        return (1 + 0.1 * torch.randn(size, generator=generator)).to(dtype)

    hidden, inner, dim = shape.hidden, shape.intermediate, shape.head_dim
    at = shape.prefix
    yield at + "embed_tokens.weight", noise(shape.vocab, hidden)
    for layer in range(shape.layers):
        name = f"{at}layers.{layer}."
        yield name + "input_layernorm.weight", norm(hidden)
        yield name + "self_attn.q_proj.weight", noise(shape.heads * dim, hidden)
        yield name + "self_attn.k_proj.weight", noise(shape.kv_heads * dim, hidden)
        yield name + "self_attn.v_proj.weight", noise(shape.kv_heads * dim, hidden)
        yield name + "self_attn.q_norm.weight", norm(dim)
        yield name + "self_attn.k_norm.weight", norm(dim)
        yield name + "self_attn.o_proj.weight", noise(hidden, shape.heads * dim)
        yield name + "post_attention_layernorm.weight", norm(hidden)
        yield name + "mlp.gate_proj.weight", noise(inner, hidden)
        yield name + "mlp.up_proj.weight", noise(inner, hidden)
        yield name + "mlp.down_proj.weight", noise(hidden, inner)
    yield at + "norm.weight", norm(hidden)
    if shape.stores_head:
        yield "lm_head.weight", noise(shape.vocab, hidden)


def _write_weights(folder: Path, tensors: list[tuple[str, torch.Tensor]], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(tensors[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(tensor.nbytes for _, tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_sentence_transformers_files(folder: Path, hidden: int) -> None:
    """As in the official folders; without them sentence-transformers applies a chat template."""
    prompt = (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:"
    )
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    pooling = {
        "word_embedding_dimension": hidden,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    }
    files = {
        "modules.json": [
            {
                "idx": place,
                "name": str(place),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for place, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": {
            "prompts": {"query": prompt, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for path, _ in modules:
        (folder / path).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))


def _config(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "max_window_layers": shape.layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": "4.51.3",  # without it transformers suspects the tokenizer
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }
