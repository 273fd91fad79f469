"""Recognize payloads whose floats Qdrant rounded.

A server and Edge change the last bits of some floats in payloads, by a few units in the last place.
A hash of what was sent therefore does not match what is read. Each point stores the last six bits
of its floats as a string, which is never rounded: with them, `restore` finds the exact values.
"""

from __future__ import annotations

import math
import string
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from quernstone_qdrant.documents.json_values import JsonValue

_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
_PLACES = {digit: place for place, digit in enumerate(_DIGITS)}
_SPAN = len(_DIGITS)
_RELATIVE = 2.0**-50
"""Largest rounding that counts as equal, relative to the value: four to eight units in the last
place. Qdrant changes values by up to three."""
_ABSOLUTE = 2.0**-1071
"""Subnormal numbers have fewer digits: eight units in the last place."""
_WORD, _DOUBLE = struct.Struct("<Q"), struct.Struct("<d")


def last_bits(value: JsonValue) -> str:
    """Return a digit for each float in `value`: the last six bits, in the order of sorted keys."""
    return "".join(_DIGITS[_to_word(number) % _SPAN] for number in _floats(value))


def holds_float(value: JsonValue) -> bool:
    """Return True if `value` contains a float."""
    return next(_floats(value), None) is not None


def restore(value: Any, bits: str) -> Any:
    """Undo the rounding of every float in `value`.

    Args:
        value: A value that was read.
        bits: The result of `last_bits` for the value that was sent.

    Returns:
        A copy of `value`. Each float becomes the nearest one with these bits if that is within one
        part in 2^50. A float that was changed rather than rounded does not become what was sent.

    Raises:
        ValueError: `bits` does not have one digit per float.
    """
    if len(bits) != sum(1 for _ in _floats(value)) or not _PLACES.keys() >= set(bits):
        raise ValueError(f"{bits!r} does not have one digit for each float")
    return _restore(value, iter(bits))


def equal(one: Any, other: Any) -> bool:
    """Compare two JSON values: floats within one part in 2^50, maps in any order of their keys.

    Unlike `==`, it tells integers, floats and booleans apart, as JSON does.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def _floats(value: JsonValue) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _floats(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from _floats(item)


def _restore(value: Any, bits: Iterator[str]) -> Any:
    if isinstance(value, float):
        return _nearest(value, _PLACES[next(bits)])
    if isinstance(value, Mapping):
        return {key: _restore(value[key], bits) for key in sorted(value)}
    if isinstance(value, list):
        return [_restore(item, bits) for item in value]
    return value


def _nearest(value: float, bits: int) -> float:
    """Return the double nearest to `value` whose last bits are `bits`, if it is close enough."""
    word = _to_word(value)
    offset = (bits - word + _SPAN // 2) % _SPAN - _SPAN // 2
    (found,) = _DOUBLE.unpack(_WORD.pack((word + offset) % 2**64))
    return found if equal(found, value) else value


def _to_word(value: float) -> int:
    word: int = _WORD.unpack(_DOUBLE.pack(value))[0]
    return word
