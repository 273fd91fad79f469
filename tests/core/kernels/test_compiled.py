"""The Triton kernels compiled for GPUs that are not here: nothing spills, and loads are wide."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from quernstone.kernels import NO_ROW, REPEATED, fused, launch, products  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
NUMBER, FLOAT, FP8, INT = "*bf16", "*fp32", "*fp8e4nv", "*i32"

CAPABILITIES = (80, 90, 120)
ROTATE = {"x": NUMBER, "weight": NUMBER, "rope": FLOAT, "stride": "i32", "eps": "fp32"}
JOIN = {
    "qkv": NUMBER,
    "weight": NUMBER,
    "rope": FLOAT,
    "source": INT,
    **dict.fromkeys(("prefix_key", "prefix_value", "key", "value"), NUMBER),
    "stride": "i32",
    "prefix_stride": "i32",
    "eps": "fp32",
}
NORM = {
    **dict.fromkeys(("x", "weight", "out", "scales"), NUMBER),
    "stride": "i32",
    "eps": "fp32",
}
ROUNDED = {"out": FP8, "scales": FLOAT}
SILU = {"x": NUMBER, "out": NUMBER, "scales": NUMBER}
MERGE = {
    "out": NUMBER, "lse": FLOAT, "other": NUMBER, "other_lse": FLOAT,
    **dict.fromkeys(("lse_token", "lse_head", "other_token", "other_head"), "i32"),
}  # fmt: skip


class Case(NamedTuple):
    """A kernel as a model launches it."""

    kernel: str
    types: dict[str, str]
    constants: dict[str, object]
    numbers: int
    """Numbers per block."""
    wide_loads: int
    """Loads of 128 bits in the code; the others are of single numbers, or of angles."""
    registers: tuple[int, ...]
    """Registers of a thread for compute capability 8.0, 9.0 and 12.0, as Triton 3.9 compiles."""


def rotate(registers, wide_loads, heads, dim, block, *, norm):
    constants = {"HEADS": heads, "DIM": dim, "BLOCK": block, "HAS_NORM": norm}
    return Case("rotate_kernel", ROTATE, constants, block * dim, wide_loads, registers)


def join(registers, wide_loads, heads, kv, dim, *, norm):
    constants = {
        "HEADS": heads, "KV": kv, "DIM": dim, "BLOCK": 8, "KV_BLOCK": 8, "HAS_NORM": norm,
        "REPEATED": REPEATED, "NO_ROW": NO_ROW,
    }  # fmt: skip
    return Case("rotate_and_join_kernel", JOIN, constants, 8 * dim, wide_loads, registers)


def norm(registers, wide_loads, width, *, rounds=False):
    types = NORM | ROUNDED if rounds else NORM
    constants = {"WIDTH": width, "BLOCK": width, "ROUNDS": rounds}
    return Case("rms_norm_kernel", types, constants, width, wide_loads, registers)


def silu(registers, wide_loads, inner, block, *, rounds=False):
    types = SILU | ROUNDED if rounds else SILU
    constants = {"INNER": inner, "BLOCK": block, "ROUNDS": rounds}
    return Case("silu_mul_kernel", types, constants, block, wide_loads, registers)


CASES = {
    "rotate, Qwen3 0.6B": rotate((32, 32, 40), 6, 24, 128, 8, norm=True),
    "join, Qwen3 0.6B": join((40, 40, 40), 9, 16, 8, 128, norm=True),
    "norm, 0.6B": norm((23, 23, 24), 2, 1024),
    "SiLU, 0.6B": silu((30, 28, 31), 2, 3072, 1024),
    "merge, 16 heads": Case(
        "merge_kernel", MERGE, {"HEADS": 16, "DIM": 128, "BLOCK": 16}, 2048, 2, (24, 24, 24)
    ),
}
FP8_CASES = {
    "norm in fp8, 8B": norm((0, 25, 31), 2, 4096, rounds=True),
    "SiLU in fp8, 0.6B": silu((0, 32, 29), 2, 3072, 4096, rounds=True),
    "SiLU in fp8, 8B": silu((0, 51, 51), 8, 12288, 16384, rounds=True),
    "round to fp8, 0.6B": Case(
        "round_kernel",
        {"x": NUMBER} | ROUNDED,
        {"WIDTH": 2048, "BLOCK": 2048},
        2048,
        1,
        (0, 23, 23),
    ),
}
MORE_CASES = {
    "rotate, Qwen2 0.5B": rotate((25, 25, 25), 3, 16, 64, 16, norm=False),
    "join, Llama 3.2": join((35, 38, 44), 7, 24, 8, 128, norm=False),
}


def compiled(case, capability, folder):
    """Compile, and return (registers, bytes of stack, instructions)."""
    function, types, constants = getattr(fused, case.kernel), case.types, case.constants
    unaligned = {param.name for param in function.params if param.do_not_specialize_on_alignment}
    places = {name: (place,) for place, name in enumerate(function.arg_names)}
    source = ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in function.arg_names},
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={
            places[name]: [["tt.divisibility", 16]]
            for name, kind in types.items()
            if kind != "fp32" and name not in unaligned
        },
    )
    options = {"num_warps": launch.warps(case.numbers), "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    usage, listing = (
        subprocess.run(
            [TOOLS / "cuobjdump", option, file], capture_output=True, text=True, check=True
        ).stdout
        for option in ("-res-usage", "-sass")
    )
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    return registers, stack, re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", listing)


def check(case, capability, folder):
    registers, stack, instructions = compiled(case, capability, folder)
    assert stack == 0, "it keeps numbers on the stack"
    assert not any(re.search(r"\b(LDL|STL)", each) for each in instructions), "it spills"
    wide = sum(bool(re.search(r"\bLDG.*\.128", each)) for each in instructions)
    assert wide == case.wide_loads
    assert registers <= case.registers[CAPABILITIES.index(capability)]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", CASES)
def test_kernels(name, capability, tmp_path):
    check(CASES[name], capability, tmp_path)


@pytest.mark.parametrize("name", ["norm in fp8, 8B", "SiLU in fp8, 8B"])
def test_kernels_that_round_to_fp8(name, tmp_path):
    check(FP8_CASES[name], 90, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", MORE_CASES)
def test_kernels_of_other_families(name, capability, tmp_path):
    check(MORE_CASES[name], capability, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES[1:])  # Ampere has no fp8
@pytest.mark.parametrize("name", FP8_CASES)
def test_all_kernels_that_round_to_fp8(name, capability, tmp_path):
    check(FP8_CASES[name], capability, tmp_path)


def test_positions_and_lengths_of_a_batch_are_not_compiled_in():
    """A kernel is compiled once for a model, and never for a batch."""
    varying = {
        "rotate_and_join_kernel": {"source"},
        "merge_kernel": {"lse", "other_lse", "lse_token", "lse_head", "other_token", "other_head"},
    }
    for name, names in varying.items():
        for param in getattr(fused, name).params:
            if param.name in names:
                assert param.do_not_specialize_on_alignment, f"{param.name} of {name}"
                if "_token" in param.name or "_head" in param.name:
                    assert param.do_not_specialize, f"{param.name} of {name}"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("tile", [launch.FEW_ROWS, launch.MANY_ROWS], ids=["few", "many"])
def test_products_with_int8_weights(tile, capability, tmp_path):
    types = {"x": NUMBER, "weight": "*i8", "scale": FLOAT, "out": NUMBER}
    types |= {"rows": "i32", "stride": "i32"}
    constants = {"OUTPUTS": 12288, "INPUTS": 4096, **tile}
    kernel = products.int8_product_kernel
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name in types if name != "rows"},
    )
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=dict(launch.PRODUCT_OPTIONS))
    assert made.metadata.shared <= SHARED_BYTES[capability]
    file = tmp_path / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    usage, listing = (
        subprocess.run(
            [TOOLS / "cuobjdump", option, file], capture_output=True, text=True, check=True
        ).stdout
        for option in ("-res-usage", "-sass")
    )
    assert re.search(r"STACK:(\d+)", usage)[1] == "0"
    assert not re.search(r"\b(LDL|STL)", listing)
    assert re.search(r"\b(HMMA|HGMMA)", listing), "it does not use the matrix units"
    assert re.search(r"LDGSTS.*\.128", listing), "it does not copy 128 bits at once"


# Shared memory of one block.
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 120: 99 << 10}
