"""The Triton kernels equal the operators' definitions, by Triton's own interpreter on a CPU.

It rounds float32 to smaller formats towards zero, where a GPU rounds to the nearest number.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def results():
    program = [sys.executable, Path(__file__).with_name("interpreted.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["rms_norm", "silu_mul", "rotate_", "rotate_and_join_", "merge_"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("bfloat16", 2**-7)])
def test_kernels_equal_their_definitions(results, name, dtype, limit):
    found = {what: each["error"] for what, each in results.items() if f"{dtype} {name} " in what}
    assert found
    assert {what: error for what, error in found.items() if error > limit} == {}


@pytest.mark.parametrize("name", ["int8_linear", "fixed_linear"])
def test_products_equal_their_definition(results, name):
    found = {what: each["error"] for what, each in results.items() if f" {name} " in what}
    assert len(found) == 4
    assert max(found.values()) < 1e-6


def test_rows_do_not_depend_on_each_other(results):
    found = results["float32 independent_rows"]
    assert set(found) == {"fixed_linear", "rms_norm", "silu_mul", "rotate_", "merge_"}
    assert all(all(equal) for equal in found.values())


def test_attention_is_right_and_does_not_depend_on_the_batch(results):
    """Causal and not, after a prefix and over one, of last tokens, with empty sequences."""
    found = [each for what, each in results.items() if " varlen_attention " in what]
    assert len(found) == 2
    assert max(each["error"] for each in found) < 1e-6
    assert not any(each["changes"] for each in found)


@pytest.mark.parametrize("name", ["rms_norm_fp8", "silu_mul_fp8", "round_fp8"])
def test_kernels_that_round_to_fp8(results, name):
    found = {what: each for what, each in results.items() if f" {name} " in what}
    assert found
    for what, errors in found.items():
        assert errors["scales"] < 1e-6, what
        assert errors["values"] <= 1, what
        assert errors["compared"] > 0.7, what
        assert not errors["sign"], what


def test_every_operator_was_compared(results):
    from quernstone.kernels.ops import DEFINITIONS

    others = {"varlen_attention", "independent_rows"}
    assert {what.split()[1] for what in results} - others == set(DEFINITIONS)
