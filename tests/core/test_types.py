"""Values that pass between modules."""

import numpy as np
import pytest

from quernstone.types import unit_prefix


@pytest.mark.parametrize("shape", [(7,), (1, 7), (200, 7), (3, 5, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_are_cut_and_normalized(shape, dtype):
    """As in one step over all rows, to the last bit."""
    vectors = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if len(shape) > 1:
        vectors[:1] = 0
    cut = vectors[..., :5]
    length = np.linalg.norm(cut, axis=-1, keepdims=True)
    expected = (cut / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
    unit = unit_prefix(vectors, 5)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, expected)
