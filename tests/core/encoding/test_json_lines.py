import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernstone.encoding.json_lines import dump_json, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def count_infinities(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return sum(map(count_infinities, value))
    return isinstance(value, float) and math.isinf(value)


def without_infinities(value):
    if isinstance(value, float) and math.isinf(value):
        return None
    if isinstance(value, list):
        return [without_infinities(item) for item in value]
    if isinstance(value, dict):
        return {name: without_infinities(item) for name, item in value.items()}
    return value


@given(value=VALUES)
def test_every_value_comes_back(value):
    parsed, replaced = parse_json(json.dumps(value).encode())
    assert parsed == without_infinities(value)
    assert replaced == count_infinities(value)
    assert json.loads(dump_json(parsed)) == parsed


def test_lines_that_are_not_json():
    deep = b"[" * 100_000 + b"1" * 20
    for line in (b"{", b'{"a": NaN', b'{"a": 12345678901234567890', b'"\xffNaN"', deep):
        with pytest.raises(json.JSONDecodeError):
            parse_json(line)


def test_large_integers_are_written_with_arrays():
    line = dump_json({"id": 2**70, "embedding": np.array([0.5], np.float32)})
    assert line == b'{"id": %d, "embedding": [0.5]}\n' % 2**70
    assert orjson.loads(dump_json({"a": "\u00e9"})) == {"a": "\u00e9"}
