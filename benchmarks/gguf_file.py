"""Write a checkpoint as a GGUF file, the only format that llama.cpp reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_BF16 = gguf.GGMLQuantizationType.BF16


def write_gguf(checkpoint: Path, dtype: str) -> Path:
    """Convert a checkpoint whose tensors are in bfloat16.

    The file has no vocabulary: its user passes token ids.

    Args:
        checkpoint: Folder with `config.json` and safetensors files.
        dtype: Dtype of the matrices, `bfloat16` or `float32`. The weights of norms are in float32,
            the only dtype that llama.cpp multiplies with.

    Returns:
        The file, next to the folder. An existing one is not overwritten.
    """
    path = checkpoint.with_name(f"{checkpoint.name}-{dtype}.gguf")
    if path.exists():
        return path
    config = json.loads((checkpoint / "config.json").read_text())
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    _add_shape(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, bits in _tensors(checkpoint):
        # embedding checkpoints store tensors without the prefix that the map expects
        full = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        known = names.get_name(full, try_suffixes=(".weight",))
        if known is None:
            raise ValueError(f"{checkpoint}: GGUF has no name for the tensor {name}")
        if dtype == "bfloat16" and bits.ndim == 2:
            writer.add_tensor(known, bits, raw_dtype=_BF16)
        else:
            writer.add_tensor(known, gguf.dequantize(bits, _BF16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.rename(path)


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])


def _tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and bytes; NumPy has no bfloat16. Shape: (*all but the last, 2 * the last)."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
        content = np.memmap(file, np.uint8, "r", offset=8 + size)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{file}: the tensor {name} is in {entry['dtype']}, not BF16")
            begin, end = entry["data_offsets"]
            yield name, content[begin:end].reshape(*entry["shape"][:-1], -1)
