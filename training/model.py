"""A small Qwen3 for training: names and arithmetic of the real one, and a shared prefix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

States = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Keys and values of sequences that other rows continue, padded on the right to one length."""

    states: States
    lengths: Tensor
    """Real length of each sequence, Shape: (sequences,)."""
    below: Tensor
    """Input of the last layer at each sequence's last token. Shape: (sequences, hidden)."""

    def of(self, owners: Tensor) -> Prefix:
        """The prefix of every row, `owners` naming each row's sequence."""
        # `index_select`, as the backward pass of `[owners]` is two hundred times slower.
        states = [(k.index_select(0, owners), v.index_select(0, owners)) for k, v in self.states]
        return Prefix(states=states, lengths=self.lengths[owners], below=self.below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The numbers of a tiny Qwen3; `as_json` is the config.json that transformers reads."""

    vocab_size: int
    num_hidden_layers: int = 3
    hidden_size: int = 256
    intermediate_size: int = 768
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048

    def as_json(self, *, end: int) -> dict[str, Any]:
        """Fields of config.json; `end` is the id of `<|endoftext|>`."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": end,
            "eos_token_id": end,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "max_window_layers": self.num_hidden_layers,
            "model_type": "qwen3",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the tokens stand: rotary tables, Shape: (rows or 1, 1, length, head_dim), and mask."""

    cos: Tensor
    sin: Tensor
    mask: Tensor
    """Mask added to the scores. Shape: (rows or 1, 1, 1, length, keys)."""

    def only(self, ends: Tensor) -> Places:
        """The places of each row's one token at `ends`."""
        rows = torch.arange(len(ends)) if len(self.cos) > 1 else torch.zeros_like(ends)
        return Places(
            cos=self.cos[rows, :, ends].unsqueeze(2),
            sin=self.sin[rows, :, ends].unsqueeze(2),
            mask=self.mask[rows, :, :, ends].unsqueeze(3),
        )


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query causal attention with a norm per head, after an optional shared prefix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.head_dim = c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = Norm(c.head_dim, c.rms_norm_eps)
        self.k_norm = Norm(c.head_dim, c.rms_norm_eps)

    def forward(
        self, x: Tensor, at: Places, prefix: tuple[Tensor, Tensor] | None, ends: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The attended values, and the keys and values with the prefix's in front."""

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        asking = at if ends is None else at.only(ends)
        q = rotate(self.q_norm(heads(self.q_proj(pick(x, ends)))), asking)
        k = rotate(self.k_norm(heads(self.k_proj(x))), at)
        v = heads(self.v_proj(x))
        if prefix is not None:
            k = torch.cat((prefix[0], k), dim=2)
            v = torch.cat((prefix[1], v), dim=2)
        # Plain products: on short rows several times faster backward than the fused kernel.
        grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
        scores = (grouped @ k.transpose(-1, -2)).unflatten(2, (-1, q.shape[2]))
        weights = (scores.float() * self.head_dim**-0.5 + asking.mask).softmax(dim=-1).to(v.dtype)
        out = (weights.flatten(2, 3) @ v).unflatten(2, (-1, q.shape[2])).flatten(1, 2)
        return self.o_proj(out.transpose(1, 2).flatten(2)), (k, v)


class Mlp(nn.Module):
    """Gated feed-forward."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """SwiGLU."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self, x: Tensor, at: Places, prefix: tuple[Tensor, Tensor] | None, ends: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The next hidden states (of the tokens at `ends`, if given), and the keys and values."""
        attended, states = self.self_attn(self.input_layernorm(x), at, prefix, ends)
        x = pick(x, ends) + attended
        return x + self.mlp(self.post_attention_layernorm(x)), states


class TinyQwen3(nn.Module):
    """Decoder without a head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        for name, parameter in self.named_parameters():
            if name.endswith("_proj.weight"):
                scale = (
                    1 / (2 * config.num_hidden_layers) ** 0.5
                    if "o_proj" in name or "down_proj" in name
                    else 1.0
                )
                nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)

    def forward(
        self, ids: Tensor, ends: Tensor, prefix: Prefix | None = None, table: Tensor | None = None
    ) -> tuple[Tensor, Tensor, States]:
        """Hidden states of the tokens at `ends`, what the last layer reads there, and states.

        Rows are padded on the right. With `prefix` (one sequence a row) they continue it, and its
        keys and values come first in the returned states. With `table`, `ids` count its rows
        instead of the word table's. The last layer computes only what is asked of it: a third of
        the work of three layers is saved. Hidden states are not normed, Shape: (rows, hidden).
        """
        length = ids.shape[1]
        past = 0 if prefix is None else prefix.states[0][0].shape[2]
        starts = torch.zeros(1, dtype=torch.long) if prefix is None else prefix.lengths
        half = self.config.head_dim // 2
        frequencies = self.config.rope_theta ** (-torch.arange(half) / half)
        angles = (starts[:, None] + torch.arange(length))[:, None, :, None] * frequencies
        cos, sin = angles.cos().repeat(1, 1, 1, 2), angles.sin().repeat(1, 1, 1, 2)
        keys = torch.arange(past + length)
        mask = torch.full((length, past + length), -torch.inf).triu(past + 1)
        padding = (keys < past) & (keys >= starts[:, None])
        mask = mask.masked_fill(padding[:, None, :], -torch.inf)[:, None, None]
        at = Places(cos=cos, sin=sin, mask=mask)
        x = functional.embedding(ids, self.embed_tokens.weight if table is None else table)
        states: States = []
        below = x
        for index, layer in enumerate(self.layers):
            final = index + 1 == len(self.layers)
            before = None if prefix is None else prefix.states[index]
            if final:
                below = pick(x, ends)[:, 0]
            x, state = layer(x, at, before, ends if final else None)
            states.append(state)
        return x[:, 0], below, states

    def read(self, rows: list[list[int]], prefix: Prefix | None = None) -> Prefix:
        """The prefix that `rows` make, each after the one sequence of `prefix`."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        before = None if prefix is None else prefix.of(torch.zeros(len(rows), dtype=torch.long))
        _, below, states = self(ids, lengths - 1, before)
        total = lengths if before is None else lengths + before.lengths
        return Prefix(states=states, lengths=total, below=below)

    def last(
        self,
        rows: list[list[int]],
        prefix: Prefix | None = None,
        owners: Tensor | None = None,
        chunk_tokens: int = 3072,
    ) -> tuple[Tensor, Tensor]:
        """Normed hidden state of every row's last token, and what the last layer reads there.

        Row i continues the sequence `owners[i]` of `prefix` (the first when not given). Rows of
        similar length run together, `chunk_tokens` at a time. All of them read the word table in
        one look-up of its used rows: its backward pass writes the whole table. Both results have
        Shape: (len(rows), hidden).
        """
        used, places = torch.tensor([token for row in rows for token in row]).unique(
            return_inverse=True
        )
        pieces = places.split([len(row) for row in rows])
        table = self.embed_tokens(used)
        owners = torch.zeros(len(rows), dtype=torch.long) if owners is None else owners
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        parts, at = [], 0
        while at < len(order):
            chosen = order[at : at + max(1, chunk_tokens // len(rows[order[at]]))]
            at += len(chosen)
            ids = nn.utils.rnn.pad_sequence([pieces[i] for i in chosen], batch_first=True)
            ends = torch.tensor([len(rows[i]) - 1 for i in chosen])
            before = None if prefix is None else prefix.of(owners[torch.tensor(chosen)])
            hidden, below, _ = self(ids, ends, before, table)
            parts.append(torch.stack((hidden, below.to(hidden.dtype))))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        hidden, below = torch.cat(parts, dim=1).index_select(1, back).float()
        return self.norm(hidden), below


def pick(x: Tensor, ends: Tensor | None) -> Tensor:
    """All of `x`, or each row's one token at `ends`, Shape: (rows, 1, hidden)."""
    if ends is None:
        return x
    return x.flatten(0, 1).index_select(0, torch.arange(len(x)) * x.shape[1] + ends)[:, None]


def rotate(x: Tensor, at: Places) -> Tensor:
    """Rotary position embedding in the half-split layout."""
    left, right = x.chunk(2, dim=-1)
    return (x * at.cos + torch.cat((-right, left), dim=-1) * at.sin).to(x.dtype)


def save(model: TinyQwen3, folder: Path, *, end: int, key_prefix: str) -> None:
    """Write config.json and model.safetensors in bfloat16.

    The keys of the official embedding checkpoints have no `model.` in front, the rerankers' do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(model.config.as_json(end=end), indent=2) + "\n", encoding="utf-8"
    )
    tensors = {
        key_prefix + name: tensor.detach().bfloat16().contiguous()
        for name, tensor in model.state_dict().items()
    }
    (folder / "model.safetensors").write_bytes(to_bytes(tensors, metadata={"format": "pt"}))


def load(folder: Path) -> TinyQwen3:
    """Read back what `save` wrote, in float32."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = Config(**{name: fields[name] for name in Config.__dataclass_fields__})
    model = TinyQwen3(config)
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict(
        {name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()}
    )
    return model
