"""The transformers engine: the reference in the tests, and the engine for other decoders.

It gets the same token ids as the torch engine, so the two differ only in arithmetic.
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
from quernstone.errors import ConfigError, ModelLoadError
from quernstone.qwen3.lora import merge_into
from quernstone.types import Encoded, EngineConfig, EngineInfo, Float32Array, TokenArray

_BATCH_TOKENS = 4096


class TransformersEngine:
    """Engine for decoders that transformers can load and that pool their last token."""

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
        self._check_last_token(checkpoint)
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

    def _check_last_token(self, checkpoint: Checkpoint) -> None:
        """Refuse a model whose result is not at the last token.

        Raises:
            ConfigError: The model is an encoder such as BERT whose files do not specify last-token
                pooling, or a classifier whose scores are not at the last token.
        """
        advice = 'use `engine="sentence-transformers"`'
        if self._classifies and not hasattr(self._model, "score"):
            raise ConfigError(
                f"the transformers engine reads scores at the last token, and "
                f"`{checkpoint.name}`, a {checkpoint.architecture}, has none there; {advice}"
            )
        declared = checkpoint.family is not None or checkpoint.modules.pooling is not None
        if declared or self._classifies or self._is_causal():
            return
        subject = f"`{checkpoint.name}`, a {checkpoint.architecture}, attends in both directions"
        if self._head_rows:
            raise ConfigError(
                f"{subject}, so its last token predicts no answer; rerank with a decoder, or with "
                "a model that has a classification head"
            )
        raise ConfigError(
            f"{subject}, and none of its files says how it pools; the transformers engine would "
            f"take the last token; {advice}, which takes the mean, if the model's card says so"
        )

    def _is_causal(self) -> bool:
        """Return True if a token's state does not depend on the token after it."""
        ids = torch.tensor([[1, 2], [1, 3]], device=self._device)
        with torch.inference_mode():
            first, other = self._model.base_model(ids).last_hidden_state[:, 0].float()
        tolerance = 1e-5 if self._model.dtype == torch.float32 else 1e-2
        return float((first - other).norm()) <= tolerance * float(first.norm())

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
