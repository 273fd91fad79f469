"""The sentence-transformers engine, with the library's modules, backends and options.

Qwen3-Embedding and Qwen3-Reranker get token ids of Quernstone's prompts. The library alone would
add a second prompt, render rerankers differently, and truncate the template. Other models get
texts, and use their own prompts and tokenizer.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import PreTrainedTokenizerBase

from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.encoding.prompts import query_frame
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.options import Options
from quernstone.engines.padding import NO_SHARING, pad_left, padded_batches, whole_ids
from quernstone.engines.placement import choose_device, choose_dtype, memory_errors
from quernstone.errors import ConfigError, InputTooLongError, ModelLoadError, NonFiniteError
from quernstone.qwen3.lora import merge_into
from quernstone.types import (
    Encoded,
    EngineConfig,
    EngineInfo,
    Float32Array,
    Input,
    TextInput,
    TokenArray,
)

logger = logging.getLogger("quernstone")

_BATCH_TOKENS = 4096

# Names of the prompt for documents. `SentenceTransformer.encode_document` looks for the same names,
# but always finds the empty `document` that it adds itself.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")

# Options that have another name here, or are never allowed.
_REFUSED_OPTIONS = {
    "device": "use `device`",
    "truncate_dim": "use `dimensions`",
    "max_length": "use `max_length`",
    "revision": "use `revision`",
    "trust_remote_code": "code that comes with a model is never run",
}
_UNSAFE_OPTIONS = {"trust_remote_code", "use_safetensors"}


class SentenceTransformersEngine:
    """Engine that runs a `SentenceTransformer` or a `CrossEncoder`."""

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenizer | None
    ) -> None:
        device = choose_device(config.device)
        self._reranks = config.task == "rerank"
        self._model = _load(config, checkpoint, device)
        self._pad_id = tokenization.pad_id if tokenization else None
        self._truncate = config.truncate
        options = cast("Mapping[str, object]", config.options or {})
        self.survives_fork = options.get("backend", "torch") == "torch"
        if config.max_length is not None:
            own = self._model.max_seq_length or config.max_length
            # A tokenizer without a limit reports 1e30.
            self._model.max_seq_length = min(config.max_length, int(own))
        if self._reranks and tokenization:
            rows = config.head_rows or tokenization.no_and_yes()
            self.width = len(rows)
            self._labels = _prepare_head(self._model, checkpoint, rows)
        elif self._reranks:
            self.width, labels = 1, self._model.num_labels
            if labels != 1:
                msg = f"`{checkpoint.folder}` has {labels} labels; a reranker has one score"
                raise ModelLoadError(msg)
        else:
            self.width = self._model.get_embedding_dimension() or len(self._model.encode("a"))
        backbone = self._model.transformers_model
        self.info = EngineInfo(
            engine="sentence-transformers",
            device=str(self._model.device),
            dtype=str(self._model.dtype or torch.float32).removeprefix("torch."),
            attention=str(getattr(getattr(backbone, "config", None), "_attn_implementation", "-")),
            max_batch_tokens=config.max_batch_tokens or _BATCH_TOKENS,
            max_length=None if tokenization else self._model.max_seq_length,
            prefix_sharing=NO_SHARING,
        )

    def run(self, batch: Sequence[Input], *, precise: bool = False) -> Float32Array:
        """See `Engine.run`. `precise` runs on a copy of the model in float32."""
        model = self._in_float32() if precise else self._model
        out = np.empty((len(batch), self.width), dtype=np.float32)
        with torch.inference_mode(), memory_errors(sum(map(len, batch))):
            if self._pad_id is None:
                texts = cast("Sequence[TextInput]", batch)
                for rows, prompt in self._groups(texts):
                    self._check_length(texts, rows, prompt)
                    out[rows] = self._run_texts(model, [texts[row] for row in rows], prompt)
            else:
                whole = [whole_ids(sequence) for sequence in cast("Sequence[Encoded]", batch)]
                for rows in padded_batches([*map(len, whole)], self.info.max_batch_tokens):
                    out[rows] = self._run_ids(model, [whole[row] for row in rows], self._pad_id)
        return out

    def close(self) -> None:
        """See `Engine.close`."""
        del self._model
        if self.info.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _run_ids(self, model: Any, sequences: Sequence[TokenArray], pad_id: int) -> Float32Array:
        """Run the library's modules on token ids of Quernstone's prompts."""
        features: dict[str, Any] = {
            **pad_left(sequences, pad_id, model.device),
            # If its tokenizer has a chat template, the model only supports messages.
            "modality": "text" if "text" in model[0].modality_config else "message",
        }
        if not self._reranks:
            return _rows(model(features)["sentence_embedding"])[:, : self.width]
        if self._labels:
            return _rows(model(features)["scores"])[:, self._labels]
        logits = _rows(model({**features, "logits_to_keep": 1})["scores"]).reshape(-1, 1)
        return (
            logits if self.width == 1 else np.concatenate((np.zeros_like(logits), logits), axis=1)
        )

    def _run_texts(self, model: Any, texts: Sequence[TextInput], prompt: str) -> Float32Array:
        """Run the library's public methods on texts, with our choice of prompt and batch."""
        size = len(texts)
        if self._reranks:
            pairs = [(each.query or "", each.text) for each in texts]
            scores = model.predict(
                pairs, batch_size=size, activation_fn=torch.nn.Sigmoid(), convert_to_tensor=True
            )
            return _rows(scores).reshape(size, 1)
        encode = model.encode_document if texts[0].instruction is None else model.encode_query
        plain = [each.text for each in texts]
        return _rows(encode(plain, prompt=prompt, batch_size=size, convert_to_tensor=True))

    def _groups(self, texts: Sequence[TextInput]) -> Iterable[tuple[list[int], str]]:
        """Yield batches of indices of texts with one prompt, and the prompt."""
        by_kind: dict[str | None, list[int]] = {}
        for row, each in enumerate(texts):
            by_kind.setdefault(each.instruction, []).append(row)
        for instruction, rows in by_kind.items():
            lengths = [len(texts[row]) for row in rows]
            for places in padded_batches(lengths, self.info.max_batch_tokens):
                yield [rows[place] for place in places], self._prompt(instruction)

    def _prompt(self, instruction: str | None) -> str:
        """Return the prompt of an input: the model's own, unless there is an instruction."""
        if self._reranks:
            return ""
        prompts: Mapping[str, str] = self._model.prompts
        if instruction is None:
            stored = (prompts.get(name) for name in _DOCUMENT_PROMPTS)
            return next(filter(None, stored), "")
        return query_frame(instruction) or prompts.get("query", "")

    def _in_float32(self) -> Any:
        if self._model.get_backend() != "torch":
            detail = f"and the {self._model.get_backend()} backend has no float32 to try"
            raise NonFiniteError(0, detail)
        # Converted as a copy, because converting back would round the rotary frequencies.
        return copy.deepcopy(self._model).float()

    def _check_length(self, texts: Sequence[TextInput], rows: Sequence[int], prompt: str) -> None:
        """Log how many texts the library will truncate, or refuse them."""
        tokenizer, limit = self._model.tokenizer, self._model.max_seq_length
        if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return  # static embeddings, for example, have no limit
        cut = 0
        for row in rows:
            pair = [texts[row].query or ""] if self._reranks else []
            parts = [*pair, prompt + texts[row].text]
            if self._truncate and sum(len(part.encode()) for part in parts) <= limit // 2:
                continue  # skip tokenizing twice: half-byte tokens are rare
            tokens = len(tokenizer(*parts, truncation=False, verbose=False)["input_ids"])
            if tokens > limit:
                if not self._truncate:
                    raise InputTooLongError(row, tokens, limit)
                cut += 1
        if cut:
            logger.warning(
                "%d of %d inputs were longer than max_length=%d tokens, and sentence-transformers "
                "cut them",
                cut,
                len(rows),
                limit,
            )


def _prepare_head(model: Any, checkpoint: Checkpoint, rows: Sequence[int]) -> list[int]:
    """Make the library return these rows of the head; return those of a classification head."""
    if checkpoint.labels:
        # It skips padding at the end of a sequence; ours is at the start.
        model.transformers_model.config.pad_token_id = -1
        return list(rows)
    score = model[-1]
    score.true_token_id, score.false_token_id = rows[-1], rows[0] if len(rows) == 2 else None
    return []


def _load(config: EngineConfig, checkpoint: Checkpoint, device: torch.device) -> Any:
    options = dict(cast("Options | None", config.options) or {})
    for name, instead in _REFUSED_OPTIONS.items():
        if name in options:
            raise ConfigError(f"`engine_options` must not contain {name!r}: {instead}")
    for name, value in options.items():
        unsafe = _UNSAFE_OPTIONS.intersection(value if isinstance(value, Mapping) else ())
        if unsafe:
            raise ConfigError(
                f"`{name}` in `engine_options` must not contain {min(unsafe)!r}: "
                "code and pickles that come with a model are never run"
            )
    given = options.pop("model_kwargs", None) or {}
    if not isinstance(given, Mapping):
        msg = f"`model_kwargs` in `engine_options` is {type(given).__name__}, expected a mapping"
        raise ConfigError(msg)
    if {"dtype", "torch_dtype"} & given.keys():
        msg = "`model_kwargs` in `engine_options` must not contain a dtype: use `dtype`"
        raise ConfigError(msg)
    own: dict[str, object] = {}
    backend = options.get("backend", "torch")
    if backend == "torch":
        own = {"dtype": choose_dtype(config.dtype, device), "use_safetensors": True}
    elif config.dtype != "auto":
        msg = f"`dtype` is {config.dtype!r}, but the files of the {backend} backend decide it"
        raise ConfigError(msg)
    library: Any = CrossEncoder if config.task == "rerank" else SentenceTransformer
    model = library(
        str(checkpoint.folder),
        device=str(device),
        local_files_only=True,
        model_kwargs={**own, **given},
        **options,
    )
    if checkpoint.adapter:
        if backend != "torch":
            msg = f"an adapter cannot be merged into the files of the {backend} backend"
            raise ConfigError(msg)
        merge_into(model.transformers_model, checkpoint.adapter)
    return model.eval()


def _rows(tensor: torch.Tensor) -> Float32Array:
    rows: Float32Array = tensor.float().cpu().numpy()
    return rows
