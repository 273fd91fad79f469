"""The steps of a GPU, against the CPU's own and written down naively, compiled and not."""

import importlib.util
import logging
import shutil

import pytest
import torch
import torch.nn.functional as F

from quernstone.checkpoints.checkpoint import resolve
from quernstone.qwen3 import elementwise
from quernstone.qwen3.decoder import RMSNorm
from quernstone.qwen3.elementwise import Elementwise, choose_elementwise, compile_steps

CONFIG = resolve("tiny", "embed", None).decoder_config()
CPU = torch.device("cpu")
EPS = CONFIG.rms_norm_eps
HEADS, KV_HEADS, DIM = CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.head_dim


@pytest.fixture(
    scope="module", params=["as they are", pytest.param("compiled", marks=pytest.mark.slow)]
)
def steps(request):
    if request.param == "as they are":
        return Elementwise(EPS)
    if shutil.which("g++") is None:
        pytest.skip("torch compiles for a CPU with g++, which is not here")
    return Elementwise(EPS, torch.bfloat16)


def heads(tokens, dtype=torch.bfloat16):
    """Heads of queries and keys as a layer has them, a view of one product; weights; rotation."""
    random = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, DIM, generator=random).to(dtype)
    weight = torch.randn(HEADS + KV_HEADS, DIM, generator=random).to(dtype)
    angles = torch.randn(tokens, 1, DIM // 2, generator=random)
    return qkv[:, :-KV_HEADS], weight, torch.polar(torch.ones_like(angles), angles)


@pytest.mark.parametrize("tokens", [1, 2, 7, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rotated_heads_are_those_of_a_cpu(steps, tokens, dtype):
    x, weight, rope = heads(tokens, dtype)
    tolerance = {"atol": 0, "rtol": 2**-7} if dtype == torch.bfloat16 else {}
    for part in (x, x[:, :HEADS], x[:, HEADS:].contiguous()):
        part_weight = weight[: part.shape[1]]
        made = steps.norm_and_rotate(part, part_weight, torch.view_as_real(rope))
        assert made.dtype == dtype
        torch.testing.assert_close(made, RMSNorm(part_weight, EPS)(part, rope), **tolerance)


def test_the_norm_is_that_of_a_cpu():
    x, weight = torch.randn(5, 256), torch.randn(256)
    made = Elementwise(EPS).norm(x, weight)
    torch.testing.assert_close(made, RMSNorm(weight, EPS)(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 300])
def test_silu_of_one_half_times_the_other(steps, tokens):
    x = torch.randn(tokens, 96, dtype=torch.bfloat16)
    expected = F.silu(x[:, :48].double()) * x[:, 48:].double()
    made = steps.silu_and_multiply(x)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=2**-6)


@pytest.mark.parametrize("tokens", [1, 2, 300])
def test_rounding_keeps_three_bits_of_every_number(steps, tokens):
    x = torch.randn(tokens, 96, dtype=torch.bfloat16) * torch.logspace(-3, 3, tokens)[:, None]
    x = x.to(torch.bfloat16)
    x[0, 0] = 0
    rounded, scale = steps.round_to_fp8(x)
    assert rounded.dtype == torch.float8_e4m3fn
    assert (scale.dtype, scale.shape) == (torch.float32, (tokens, 1))
    assert scale.is_contiguous()
    back = rounded.float() * scale
    # three bits behind the first, and below 2**-6 of the scale as far apart as above
    error = (back - x.float()).abs()
    assert (error <= torch.maximum(x.float().abs() * 2**-4, scale * 2**-10)).all()
    torch.testing.assert_close(back.abs().amax(1), x.float().abs().amax(1))


def test_a_row_of_zeros_stays_one(steps):
    rounded, scale = steps.round_to_fp8(torch.zeros(3, 32, dtype=torch.bfloat16))
    assert torch.equal(rounded.float() * scale, torch.zeros(3, 32))


def test_other_dtypes_are_not_compiled(monkeypatch):
    """Rows that overflow are rare; nobody waits for a compiler then."""
    monkeypatch.setattr(torch, "compile", lambda step, dynamic: pytest.fail)
    x = torch.randn(3, 8)
    torch.testing.assert_close(
        Elementwise(EPS, torch.bfloat16).silu_and_multiply(x), F.silu(x[:, :4]) * x[:, 4:]
    )


def test_all_that_a_model_needs_is_compiled_when_it_is_loaded(monkeypatch):
    shapes = []

    def compile_(step, dynamic):
        assert dynamic

        def run(*inputs):
            shapes.append((step.__name__, len(inputs[0]), inputs[0].is_contiguous()))
            return step(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    compile_steps(Elementwise(EPS, torch.bfloat16), CONFIG, CPU, torch.bfloat16, fp8=True)
    assert shapes == [
        (name, tokens, contiguous)
        for tokens in (2048, 1)
        for name, contiguous in [
            ("norm_and_rotate", True),
            ("norm_and_rotate", tokens == 1),  # the view of one token is no other
            ("_silu_and_multiply", True),
            ("round_to_fp8", True),
        ]
    ]


def test_a_cpu_has_its_own_steps():
    assert choose_elementwise(CONFIG, CPU, torch.bfloat16, fp8=False) is None


@pytest.mark.parametrize(
    ("triton", "why"), [(False, "Triton is not installed"), (True, "RuntimeError: no gcc")]
)
def test_what_cannot_be_compiled_runs_and_is_told(monkeypatch, caplog, triton, why):
    find = importlib.util.find_spec

    def find_spec(name, *package):
        if name == "triton":
            return find("logging") if triton else None
        return find(name, *package)

    def no_compiler(*args, **kwargs):
        raise RuntimeError("no gcc")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(elementwise, "compile_steps", no_compiler)
    with caplog.at_level(logging.WARNING, "quernstone"):
        steps = choose_elementwise(CONFIG, torch.device("cuda"), torch.bfloat16, fp8=False)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert torch.equal(steps.silu_and_multiply(x), F.silu(x[:, :4]) * x[:, 4:])
    [message] = caplog.messages
    assert "not compiled" in message
    assert why in message
