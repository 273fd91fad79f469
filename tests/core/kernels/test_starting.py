"""Kernels are started directly, with the arguments that Triton would give them."""

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tests.support import triton_stand_in  # noqa: E402
from triton.runtime.driver import driver as triton_driver  # noqa: E402

from quernstone.kernels import launch  # noqa: E402
from quernstone.kernels.compiled import Kernel  # noqa: E402


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["bounds"])
def scale_kernel(x, bounds, stride, count, factor, WIDTH: tl.constexpr, TWICE: tl.constexpr):
    at = tl.program_id(0) * stride + tl.arange(0, WIDTH)
    scaled = tl.load(x + at) * factor + count + tl.load(bounds)
    tl.store(x + at, (scaled * 2 if TWICE else scaled).to(x.dtype.element_ty))


def constants(width, twice):
    return {"WIDTH": width, "TWICE": twice, "num_warps": 1}


@pytest.fixture(scope="module")
def driver():
    stand_in = triton_stand_in.use()
    yield stand_in
    triton_driver.set_active(None)


kernel = Kernel(scale_kernel, constants)


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(kernel, "_compiled", {})


def start(numbers=(1, 1, 1.0), shape=(16, False), dtype=torch.float32, skipped=(0, 0)):
    x = torch.zeros(64, dtype=dtype)[skipped[0] :]
    bounds = torch.zeros(64, dtype=torch.int32)[skipped[1] :]
    kernel((2, 1, 1), shape, (x, bounds), numbers)
    return x, bounds


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    numbers=st.tuples(
        st.sampled_from([1, 2, 16, 48, 1 << 31, (1 << 31) - 1]),
        st.sampled_from([1, 2, 16, 1 << 40]),
        st.sampled_from([1.0, 0.5, 16.0]),
    ),
    shape=st.sampled_from([(16, False), (32, True)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    skipped=st.tuples(st.sampled_from([0, 1, 8]), st.sampled_from([0, 1, 8])),
)
def test_the_code_and_its_arguments_are_those_of_triton(driver, numbers, shape, dtype, skipped):
    start(numbers, shape, dtype, skipped)  # compiles what is new
    driver.calls.clear()
    x, bounds = start(numbers, shape, dtype, skipped)
    scale_kernel[2, 1, 1](x, bounds, *numbers, **constants(*shape))
    directly, by_triton = driver.calls
    assert directly == by_triton


def test_triton_does_not_start_what_is_compiled(driver, monkeypatch):
    start()
    monkeypatch.setattr(type(scale_kernel), "run", lambda *args, **more: pytest.fail("slow"))
    start()
    with pytest.raises(pytest.fail.Exception):
        start(dtype=torch.bfloat16, numbers=(3, 1, 1.0))


def test_another_device_gets_code_of_its_own(driver, monkeypatch):
    start()
    monkeypatch.setattr(torch.Tensor, "get_device", lambda x: 1)
    asked = []
    monkeypatch.setattr(type(scale_kernel), "run", lambda *args, **more: asked.append(more["grid"]))
    start()
    assert asked == [(2, 1, 1)]


@pytest.mark.parametrize("directly", [True, False])
def test_a_launcher_that_computes_something_else_is_not_used(driver, monkeypatch, directly):
    """As if another version of Triton wanted other arguments."""
    monkeypatch.setattr(Kernel, "starts_directly", True)
    computed = []

    def note(*call):
        is_direct = isinstance(call[9], int)
        computed.append(float("nan") if is_direct and not directly else 1.0)

    monkeypatch.setattr(driver, "note", note)

    def compute():
        start()
        return torch.tensor([computed[-1]])

    wrong = Kernel.check(compute)
    assert Kernel.starts_directly is directly
    assert wrong == (None if directly else "results differ")


def test_a_launcher_that_refuses_is_not_used(driver, monkeypatch):
    monkeypatch.setattr(Kernel, "starts_directly", True)

    def note(*call):
        if isinstance(call[9], int):
            raise TypeError("function takes exactly 12 arguments")

    monkeypatch.setattr(driver, "note", note)
    found = Kernel.check(lambda: start()[0])
    assert found == "TypeError: function takes exactly 12 arguments"
    assert not Kernel.starts_directly
    start()


def test_operators_start_their_kernels_directly(driver):
    x, weight = torch.ones(2, 128), torch.ones(128)
    launch.rms_norm(x, weight, 1e-6)
    driver.calls.clear()
    out = launch.rms_norm(x, weight, 1e-6)
    [((rows, *_), _, _, _, arguments)] = driver.calls
    assert rows == 2
    assert arguments[:3] == [x.data_ptr(), weight.data_ptr(), out.data_ptr()]
