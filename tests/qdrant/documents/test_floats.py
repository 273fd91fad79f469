"""Floats that a server rounded are recognized; other changes are not."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernstone_qdrant.documents.floats import equal, holds_float, last_bits, restore

ROUNDED = [
    (90.28571428571429, 90.28571428571428),
    (90.42857142857143, 90.42857142857144),
    (90.57142857142857, 90.57142857142856),
]
"""As sent to and as read from Qdrant 1.18.3."""

finite = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 1e300)


def moved(value, ulps):
    """Move a float by units in the last place, away from zero or towards it."""
    for _ in range(abs(ulps)):
        value = math.nextafter(value, math.copysign(math.inf, value) if ulps > 0 else 0.0)
    return value


@pytest.mark.parametrize(("sent", "read"), ROUNDED)
def test_what_a_server_rounded_is_restored(sent, read):
    assert sent != read
    assert equal(sent, read)
    assert restore({"a": [read]}, last_bits({"a": [sent]})) == {"a": [sent]}


@given(finite, st.integers(-3, 3))
def test_rounding_by_three_units_is_undone(sent, ulps):
    read = moved(sent, ulps)
    if sent == 0 or read == 0:
        read = sent
    assert equal(sent, read)
    assert restore(read, last_bits(sent)) == sent


@given(finite, st.integers(20, 200))
def test_a_changed_float_stays_changed(sent, ulps):
    read = moved(sent, ulps)
    assert not equal(sent, read)
    assert restore(read, last_bits(sent)) != sent


@given(st.dictionaries(st.text(), finite, min_size=2))
def test_the_order_of_keys_does_not_matter(sent):
    read = dict(reversed(sent.items()))
    assert restore(read, last_bits(sent)) == sent
    assert equal(read, sent)


@pytest.mark.parametrize("bits", ["", "AA", "?"])
def test_another_number_of_floats_is_an_error(bits):
    with pytest.raises(ValueError, match="one digit for each float"):
        restore({"a": 0.5, "b": 1}, bits)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (True, 1), (0, False), (None, 0), ([1], [1, 1]), ({"a": 1}, {})]
)
def test_json_types_are_told_apart(one, other):
    assert not equal(one, other)
    assert equal(one, json.loads(json.dumps(one)))


def test_floats_are_found_at_any_depth():
    assert holds_float({"a": [1, {"b": [None, 0.5]}]})
    assert not holds_float({"a": [1, True, "0.5", None, {}]})
