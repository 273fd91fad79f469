"""The initial weights of the tiny reranker, computed from the tiny embedding model."""

from dataclasses import replace

import torch
import torch.nn.functional as functional
from torch import Tensor

from common import SEED
from model import Attention, Config, Layer, TinyQwen3

LAYERS = 5
MATCHING_LAYER = 1  # a new layer, inserted between those of the embedding model
# Rotary dimensions that turn slowly.
STILL = torch.cat((torch.arange(10, 32), torch.arange(42, 64)))
VECTOR = torch.arange(96)  # how the input of the last layer is divided; see `start_from`
MARK = torch.arange(96, 156)
ANSWER = 159
COPY = torch.arange(160, 256)


def start_from(embedding: TinyQwen3, end: int) -> TinyQwen3:
    """Return the embedding model's layers, one that matches equal words, and one that compares.

    The last layer starts as arithmetic. It expects the input that `targets` describes: the query's
    vector at the token before the document, the document's vector at `</think>`, each with a mark.
    By the mark its heads find the query's vector and copy it beside the document's. Its gated units
    multiply the two, because silu(a) * b - silu(-a) * b = a * b. Their sum is the one direction in
    which the words `yes` and `no` differ.
    """
    config = replace(embedding.config, num_hidden_layers=LAYERS)
    model = TinyQwen3(config)
    model.embed_tokens.load_state_dict(embedding.embed_tokens.state_dict())
    kept = [index for index in range(LAYERS - 1) if index != MATCHING_LAYER]
    for index, layer in zip(kept, embedding.layers, strict=True):
        model.layers[index].load_state_dict(layer.state_dict())
    with torch.no_grad():
        # The score is read at `</think>`: it starts as the token that the embedding model pools.
        model.embed_tokens.weight[end + 4] = model.embed_tokens.weight[end]
        start_matching(model.layers[MATCHING_LAYER].self_attn, config)
        model.layers[MATCHING_LAYER].mlp.down_proj.weight.mul_(0.3)
        sample = torch.randint(0, end, (64, 24))
        hidden, _, _ = embedding(sample, torch.full((64,), 23))
        start_comparing(model.layers[-1], config, float(hidden.square().mean().sqrt()))
    return model


def start_matching(attention: Attention, config: Config) -> None:
    """Make the heads attend to equal or similar words.

    `q_proj` and `k_proj` start as one projection onto the main directions of the word table.
    """
    attention.q_proj.weight.mul_(0.1)
    attention.k_proj.weight.mul_(0.1)
    for head in range(config.num_attention_heads):
        group = head * config.num_key_value_heads // config.num_attention_heads
        main = torch.arange(group, 2 * len(STILL), config.num_key_value_heads)
        attention.q_proj.weight[head * config.head_dim + STILL, main] = 1.0
        attention.k_proj.weight[group * config.head_dim + STILL, main] = 1.0
    attention.q_norm.weight.fill_(1.7)
    attention.k_norm.weight.fill_(1.7)
    attention.o_proj.weight.mul_(0.3)


def start_comparing(layer: Layer, config: Config, scale: float) -> None:
    """Set up the last layer as `start_from` says; `scale` is the root mean square of its input."""
    attention, mlp = layer.self_attn, layer.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        linear.weight.mul_(0.02)
    for linear in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        linear.weight.mul_(0.1)
    size = config.head_dim
    for head in range(config.num_attention_heads):
        group = head * config.num_key_value_heads // config.num_attention_heads
        marks = MARK[16 * group : 16 * group + len(STILL)]
        attention.q_proj.weight[head * size + STILL, marks] = -1.0
        attention.k_proj.weight[group * size + STILL, marks] = 1.0
    attention.q_norm.weight.fill_(1.7)
    attention.k_norm.weight.fill_(1.7)
    units = torch.arange(len(VECTOR))
    attention.v_proj.weight[units, VECTOR] = 1.0
    mlp.gate_proj.weight[units, VECTOR] = 1.0
    mlp.gate_proj.weight[len(units) + units, VECTOR] = -1.0
    # The two key/value heads hold dimensions 0-63 and 64-95; query heads 0 and 2 read them.
    columns = torch.where(units < size, units, size + units)
    attention.o_proj.weight[COPY, columns] = scale
    for sign, first in ((1.0, 0), (-1.0, len(units))):
        mlp.up_proj.weight[first + units, COPY] = 1.0
        mlp.down_proj.weight[ANSWER, first + units] = sign * 0.06 * scale
    bias = 2 * len(units)
    mark = -mark_signs() / len(MARK) ** 0.5
    for linear in (mlp.gate_proj, mlp.up_proj):
        linear.weight[bias] = 0.0
        linear.weight[bias, MARK] = mark
    mlp.down_proj.weight[ANSWER, bias] = -0.08 * scale


def separate_answers(model: TinyQwen3, yes: int, no: int) -> None:
    """Make the words `yes` and `no` differ in one direction only."""
    with torch.no_grad():
        table = model.embed_tokens.weight
        table[no] = table[yes]
        table[yes, ANSWER] = 2.0
        table[no, ANSWER] = -2.0


def mark_signs() -> Tensor:
    """Return the mark of a query's vector; a document's has the opposite signs."""
    return (
        torch.randint(0, 2, (len(MARK),), generator=torch.Generator().manual_seed(SEED)) * 2.0 - 1
    )


def targets(vectors: Tensor, sign: float) -> Tensor:
    """Return the desired input of the last layer: an embedding vector, a mark, and zeros."""
    wanted = torch.zeros(len(vectors), 256)
    wanted[:, VECTOR] = functional.normalize(vectors[:, VECTOR].float(), dim=-1) * 0.75**0.5
    wanted[:, MARK] = sign * mark_signs() / len(MARK) ** 0.5 * 0.25**0.5
    return wanted
