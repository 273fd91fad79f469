"""The Triton kernels compiled for GPUs that are not here: nothing spills, and loads are wide."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from quernstone.kernels import (  # noqa: E402
    NO_ROW,
    REPEATED,
    fused,
    launch,
    products,
    varlen,
)

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


def assembled(kernel, types, constants, options, capability, folder, *, unaligned=()):
    """Compile a kernel with loops over tiles, check its resources, and return its instructions."""
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name in types if name not in unaligned},
    )
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=options)
    assert made.metadata.shared <= SHARED_BYTES[capability]
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    usage, listing = (
        subprocess.run(
            [TOOLS / "cuobjdump", option, file], capture_output=True, text=True, check=True
        ).stdout
        for option in ("-res-usage", "-sass")
    )
    assert re.search(r"STACK:(\d+)", usage)[1] == "0", "it keeps numbers on the stack"
    assert not re.search(r"\b(LDL|STL)", listing), "it spills"
    return listing


PRODUCTS = {
    "few rows with int8": ("*i8", launch.FEW_ROWS, CAPABILITIES),
    "many rows with int8": ("*i8", launch.MANY_ROWS, CAPABILITIES),
    "fixed tiles": (NUMBER, launch.FIXED_ROWS, CAPABILITIES),
    "fixed tiles for Hopper": (NUMBER, launch.FIXED_ROWS_HOPPER, (90,)),
}


@pytest.mark.parametrize(
    ("weight", "tile", "capability"),
    [
        pytest.param(weight, tile, capability, id=f"{name}, {capability}")
        for name, (weight, tile, capabilities) in PRODUCTS.items()
        for capability in capabilities
    ],
)
def test_products(weight, tile, capability, tmp_path):
    types = {"x": NUMBER, "weight": weight, "scale": FLOAT, "out": NUMBER}
    types |= {"rows": "i32", "stride": "i32"}
    constants = {"OUTPUTS": 12288, "INPUTS": 4096, "GROUP": 8, "HAS_SCALE": weight == "*i8"}
    constants |= tile.constants
    kernel, options = products.product_kernel, dict(launch.PRODUCT_OPTIONS)
    listing = assembled(
        kernel, types, constants, options, capability, tmp_path, unaligned=("rows",)
    )
    assert re.search(r"\b(HMMA|HGMMA)", listing), "it does not use the matrix units"
    assert re.search(r"LDGSTS.*\.128", listing), "it does not copy 128 bits at once"


def attention_cases():
    for dim in (128, 64):
        for number in (NUMBER, FLOAT):
            for capability in CAPABILITIES if number == NUMBER else (75, *CAPABILITIES):
                slow = dim == 64 or (number, capability) == (FLOAT, 80)
                for causal in (True, False):
                    marks = [pytest.mark.slow] if slow or not causal else []
                    yield pytest.param(number, causal, dim, capability, marks=marks)


@pytest.mark.parametrize(("number", "causal", "dim", "capability"), attention_cases())
def test_attention(number, causal, dim, capability, tmp_path):
    types = {
        **dict.fromkeys(("query", "key", "value", "out"), number),
        **dict.fromkeys(("cu_query", "cu_key"), INT), "lse": FLOAT, "scale": "fp32",
        **dict.fromkeys(("query_stride", "key_stride", "value_stride", "blocks"), "i32"),
    }  # fmt: skip
    rows, keys, part, warps, stages = launch.ATTENTION_BLOCKS[2 if number == NUMBER else 4]
    constants = {
        "HEADS": 16, "REPEAT": 2, "DIM": dim, "ROWS": rows, "KEYS": keys, "CAUSAL": causal,
        "PART": min(part, dim), "LN2": varlen.LN_2,
    }  # fmt: skip
    varying = {"cu_query", "cu_key", "blocks"}
    for param in varlen.varlen_kernel.params:
        if param.name in varying:
            assert param.do_not_specialize or param.do_not_specialize_on_alignment
    listing = assembled(
        varlen.varlen_kernel, types, constants, {"num_warps": warps, "num_stages": stages},
        capability, tmp_path, unaligned=(*varying, "scale"),
    )  # fmt: skip
    if number == NUMBER:
        assert re.search(r"\b(HMMA|HGMMA)", listing), "it does not use the matrix units"
    assert re.search(r"LD(G|GSTS)\b.*\.128", listing), "it does not copy 128 bits at once"


# Shared memory of one block.
SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 90: 227 << 10, 120: 99 << 10}
