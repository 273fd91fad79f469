"""The steps of a GPU, against the CPU's own; which of them are kernels, and when they compile."""

import logging
import sys

import pytest
import torch

from quernstone.checkpoints.checkpoint import resolve
from quernstone.kernels import Rounded, ops, rms_norm, round_fp8, silu_mul
from quernstone.qwen3 import elementwise
from quernstone.qwen3.decoder import RMSNorm, Rotation
from quernstone.qwen3.elementwise import Elementwise, choose_elementwise

CONFIG = resolve("tiny", "embed", None).decoder_config()
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EPS = CONFIG.rms_norm_eps
HEADS, KV_HEADS, DIM = CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.head_dim


def heads(tokens, dtype):
    """Heads of queries and keys as a layer has them, a view of one product; weights; rotation."""
    random = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, DIM, generator=random).to(dtype)
    weight = torch.randn(HEADS + KV_HEADS, DIM, generator=random).to(dtype)
    angles = torch.randn(tokens, 1, DIM // 2, generator=random)
    return qkv[:, :-KV_HEADS], weight, torch.polar(torch.ones_like(angles), angles)


@pytest.mark.parametrize("tokens", [1, 2, 7, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rotated_heads_are_those_of_a_cpu(tokens, dtype):
    x, weight, rope = heads(tokens, dtype)
    tolerance = {"atol": 0, "rtol": 2**-7} if dtype == torch.bfloat16 else {}
    for part in (x, x[:, :HEADS], x[:, HEADS:].contiguous()):
        part_weight = weight[: part.shape[1]]
        expected = RMSNorm(part_weight, EPS)(part, rope)
        made = RMSNorm(part_weight, EPS, Elementwise(EPS))(part, rope)
        assert made.data_ptr() == part.data_ptr()  # in place
        torch.testing.assert_close(made, expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_heads_without_a_norm_are_rotated_as_on_a_cpu(dtype):
    x, _, rope = heads(7, dtype)
    tolerance = {"atol": 0, "rtol": 2**-7} if dtype == torch.bfloat16 else {}
    expected = Rotation()(x, rope)
    made = Rotation(Elementwise(EPS))(x, rope)
    assert made.data_ptr() == x.data_ptr()
    torch.testing.assert_close(made, expected, **tolerance)


def test_the_norm_is_that_of_a_cpu():
    x, weight = torch.randn(5, 256), torch.randn(256)
    made = RMSNorm(weight, EPS, Elementwise(EPS))(x)
    torch.testing.assert_close(made, RMSNorm(weight, EPS)(x), atol=1e-6, rtol=1e-5)


def test_what_products_read_is_rounded_in_fp8():
    x, weight = torch.randn(5, 64).bfloat16(), torch.randn(64).bfloat16()
    for steps, kind in ((Elementwise(EPS), torch.Tensor), (Elementwise(EPS, fp8=True), Rounded)):
        norm = RMSNorm(weight, EPS, steps)
        assert isinstance(norm.for_product(x), kind)
        assert isinstance(steps.silu_and_multiply(x), kind)
        assert isinstance(norm(x), torch.Tensor)


def test_rows_in_float32_are_not_rounded():
    x, weight = torch.randn(5, 64), torch.randn(64)
    steps = Elementwise(EPS, fp8=True)
    assert torch.equal(steps.norm_for_product(x, weight), rms_norm(x, weight, EPS))
    assert torch.equal(steps.silu_and_multiply(x), silu_mul(x))


def test_a_cpu_has_its_own_steps():
    assert choose_elementwise(CONFIG, CPU, torch.bfloat16, rounding=None) is None


class Recorder:
    """Stands in for `launch`: notes what is compiled, and defines the rest as `ops` does."""

    def __init__(self):
        self.calls = []
        self.checked = []
        self.check_starting = self.checked.append

    def __getattr__(self, name):
        def run(*inputs):
            self.calls.append((name, inputs[0].dtype))
            return ops.DEFINITIONS[name](*inputs)

        return run


@pytest.fixture
def launch(monkeypatch):
    """A machine with a GPU, whose tensors are here; and whether the kernels are in use."""
    used = []
    monkeypatch.setattr(elementwise.kernels, "use_triton", lambda: used.append(True))
    recorder = Recorder()
    recorder.used = used
    monkeypatch.setitem(sys.modules, "quernstone.kernels.launch", recorder)
    monkeypatch.setattr("quernstone.kernels.launch", recorder, raising=False)
    return recorder


@pytest.mark.parametrize("rounding", [None, "fp8", "int8"])
def test_all_that_a_model_needs_is_compiled_when_it_is_loaded(launch, monkeypatch, rounding):
    run_all, run_products = elementwise.run_all, elementwise.run_products
    fp8 = rounding == "fp8"
    monkeypatch.setattr(
        elementwise,
        "run_all",
        lambda operators, config, device, dtype, fp8: run_all(
            operators, config, CPU, dtype, fp8=fp8
        ),
    )
    monkeypatch.setattr(
        elementwise,
        "run_products",
        lambda operators, config, device, dtype: run_products(operators, config, CPU, dtype),
    )
    steps = choose_elementwise(CONFIG, CUDA, torch.bfloat16, rounding=rounding)
    normed = steps.norm_for_product(torch.ones(1, 8).bfloat16(), torch.ones(8))
    assert isinstance(normed, Rounded) == fp8
    assert launch.used == [True]
    assert launch.checked == [CUDA]
    compiled = {name for name, dtype in launch.calls if dtype == torch.bfloat16}
    needed = set(ops.DEFINITIONS) - {"fixed_linear"}  # that of `deterministic`
    if rounding != "int8":
        needed -= {"int8_linear"}
    assert compiled == {name for name in needed if fp8 or not name.endswith("fp8")}
    in_float32 = {name for name, dtype in launch.calls if dtype == torch.float32}
    assert in_float32 == {name for name in needed if not name.endswith("fp8")}


def test_without_triton_the_steps_run_and_a_warning_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "quernstone.kernels.launch", None)
    monkeypatch.delattr(elementwise.kernels, "launch", raising=False)
    monkeypatch.setattr(elementwise.kernels, "use_triton", lambda: pytest.fail("used"))
    with caplog.at_level(logging.WARNING, "quernstone"):
        steps = choose_elementwise(CONFIG, CUDA, torch.bfloat16, rounding=None)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert torch.equal(steps.silu_and_multiply(x), silu_mul(x))
    [message] = caplog.messages
    assert "operation by operation" in message
    assert "quernstone.kernels" in message


def test_a_kernel_that_does_not_compile_is_not_used(monkeypatch, caplog):
    def broken(*inputs, **settings):
        raise RuntimeError("no ptxas")

    monkeypatch.setattr(elementwise, "run_all", broken)
    monkeypatch.setattr(elementwise.kernels, "use_triton", lambda: pytest.fail("used"))
    with caplog.at_level(logging.WARNING, "quernstone"):
        assert choose_elementwise(CONFIG, CUDA, torch.bfloat16, rounding=None) is not None
    assert "no ptxas" in caplog.text


def test_rounding_is_that_of_the_operator():
    x, weight = torch.randn(5, 64).bfloat16(), torch.randn(64).bfloat16()
    rounded = Elementwise(EPS, fp8=True).norm_for_product(x, weight)
    values, scale = round_fp8(ops._rms_norm(x.float(), weight, EPS))
    assert torch.equal(rounded.values.float(), values.float())
    assert torch.equal(rounded.scale, scale)
    assert rounded.dtype == torch.bfloat16
