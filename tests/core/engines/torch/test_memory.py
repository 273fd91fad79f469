"""What a model needs of a GPU's memory, and the tokens per batch that fit into the rest."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from quernstone.checkpoints.checkpoint import resolve
from quernstone.engines.torch.memory import (
    batch_tokens,
    graph_bytes,
    graph_tokens,
    plan_memory,
    token_bytes,
    weight_bytes,
)

CUDA = torch.device("cuda", 1)
CHECKPOINT = resolve("tiny", "embed", None)
CONFIG = CHECKPOINT.decoder_config()
QWEN = replace(CONFIG, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8)
QWEN = replace(QWEN, head_dim=128, vocab_size=151936)
QWEN_4B = replace(QWEN, hidden_size=2560, intermediate_size=9728)
QWEN_8B = replace(QWEN, hidden_size=4096, intermediate_size=12288)
GB = 10**9


@pytest.mark.parametrize(
    ("config", "rounded", "memory"),
    [(QWEN_8B, False, 24), (QWEN_8B, True, 12), (QWEN_4B, True, 8)],
    ids=["8B in bfloat16 on 24 GB", "8B in int8 on 12 GB", "4B in int8 on 8 GB"],
)
def test_which_models_fit_into_which_gpu(config, rounded, memory):
    plan = plan_memory(config, torch.bfloat16, memory * GB, rounded=rounded)
    assert plan.total <= memory * GB
    assert plan.batch_tokens >= 2048
    assert plan.graphs == memory * GB // 16
    # at least a batch of 1,024 tokens is computed by a graph
    assert graph_tokens(config, torch.bfloat16, plan.graphs) >= 1024
    if rounded:
        assert plan.converted == 2 * 2 * config.intermediate_size * config.hidden_size
        half = plan_memory(config, torch.bfloat16, memory * GB, rounded=False)
        assert half.total > memory * GB


def test_weights_are_those_of_a_checkpoint():
    """All matrices of the file, in two bytes; rounded ones in one, with a scale per output."""
    numbers = rounded = scales = 0
    for path in CHECKPOINT.folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                shape = file.get_slice(name).get_shape()
                if len(shape) == 2:
                    numbers += math.prod(shape)
                    if "embed_tokens" not in name:
                        rounded += math.prod(shape)
                        scales += shape[0]
    assert weight_bytes(CONFIG, torch.bfloat16, rounded=False) == 2 * numbers
    expected = 2 * (numbers - rounded) + rounded + 4 * scales
    assert weight_bytes(CONFIG, torch.bfloat16, rounded=True) == expected


def test_the_budget_is_what_fits_into_half_of_the_free_memory(monkeypatch):
    keys = 2 * CONFIG.num_key_value_heads * CONFIG.head_dim * CONFIG.num_hidden_layers

    def budget(free, dtype):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**10))
        return batch_tokens(CUDA, CONFIG, dtype)

    for dtype, size in ((torch.bfloat16, 2), (torch.float32, 4)):
        taken = 4096 * keys * size + graph_bytes(10**10)
        assert budget(taken + 2 * 5000 * token_bytes(CONFIG, dtype), dtype) == 5000
    assert budget(0, torch.bfloat16) == 2048
    assert budget(10**12, torch.bfloat16) == 65536


def test_the_budget_on_a_cpu_is_larger_for_small_models():
    cpu, large = torch.device("cpu"), replace(CONFIG, hidden_size=1024)
    assert batch_tokens(cpu, CONFIG, torch.bfloat16) == 8192
    assert batch_tokens(cpu, large, torch.bfloat16) == 4096
