"""The transformers engine: the reference of our tests, and the engine for other decoders.

It gets the same token ids as the torch engine, so the two differ in arithmetic only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.padding import NO_SHARING, pad_left, padded_batches, whole_ids
from quernstone.engines.placement import choose_device, choose_dtype, memory_errors
from quernstone.errors import ModelLoadError
from quernstone.qwen3.lora import merge_into
from quernstone.types import Encoded, EngineConfig, EngineInfo, Float32Array, TokenArray

_BATCH_TOKENS = 4096


class TransformersEngine:
    """Runs any decoder that transformers can load and that pools its last token."""

    survives_fork = True

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenizer
    ) -> None:
        device = choose_device(config.device)
        dtype = choose_dtype(config.dtype, device)
        reranks = config.task == "rerank"
        self._classifies = bool(checkpoint.labels)
        loader: Any = AutoModelForCausalLM if reranks else AutoModel
        if self._classifies:
            loader = AutoModelForSequenceClassification
        try:
            self._model = loader.from_pretrained(
                checkpoint.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            msg = f"transformers cannot load `{checkpoint.folder}`: {error}"
            raise ModelLoadError(msg) from error
        if checkpoint.adapter:
            merge_into(self._model, checkpoint.adapter)
        self._model.eval().to(device)
        self._device, self._pad_id = device, tokenization.pad_id
        self._head_rows = list(config.head_rows or tokenization.no_and_yes()) if reranks else []
        self.width = len(self._head_rows) or checkpoint.hidden_size
        self.info = EngineInfo(
            engine="transformers",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            attention=str(self._model.config._attn_implementation),
            max_batch_tokens=config.max_batch_tokens or _BATCH_TOKENS,
            prefix_sharing=NO_SHARING,
        )

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """See `Engine.run`. `precise` runs on a copy of the model in float32."""
        whole = [whole_ids(sequence) for sequence in batch]
        # Converted as a copy, because converting back would round the rotary frequencies.
        model = copy.deepcopy(self._model).float() if precise else self._model
        with torch.inference_mode(), memory_errors(sum(map(len, whole))):
            out = np.empty((len(whole), self.width), dtype=np.float32)
            for rows in padded_batches([*map(len, whole)], self.info.max_batch_tokens):
                out[rows] = self._forward(model, [whole[row] for row in rows])
        return out

    def close(self) -> None:
        """See `Engine.close`."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, model: Any, sequences: Sequence[TokenArray]) -> Float32Array:
        inputs = pad_left(sequences, self._pad_id, self._device)
        if self._classifies:  # the library's own choice of a token needs `pad_token_id`
            states = model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1]
            rows = model.score(states)[:, self._head_rows]
        elif not self._head_rows:
            rows = model(**inputs, use_cache=False).last_hidden_state[:, -1]
        else:
            out = model(**inputs, use_cache=False, logits_to_keep=1)
            rows = out.logits[:, -1, self._head_rows]
        result: Float32Array = rows.float().cpu().numpy()
        return result
