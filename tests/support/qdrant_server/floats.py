"""Numbers and key order as a server returns them, which is not always as they were sent."""

import random
from typing import Any

_LARGEST = 308
"""Decimal exponent of the largest power of ten that a double holds."""


def reread(number: float) -> float:
    """Return a double as the server's JSON parser reads its shortest decimal digits.

    The server stores payloads as JSON and parses them without correct rounding: the digits as one
    integer, rounded to a double, times or divided by a power of ten. Numbers of up to 15 digits
    come back unchanged; of those with 17 digits, many are off by their last bits.
    """
    digits, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = digits.partition(".")
    if not whole.isdigit():
        return number  # inf and nan
    scale = int(exponent or 0) - len(fraction)
    value = float(int(whole + fraction))
    while scale < -_LARGEST:
        value /= 10.0**_LARGEST
        scale += _LARGEST
    value = value * float(f"1e{scale}") if scale >= 0 else value / float(f"1e{-scale}")
    return -value if number < 0 else value


def reread_floats(value: Any) -> Any:
    """Return a JSON value with every double passed through `reread`.

    Vectors are left alone: the server reads their numbers as float32.
    """
    if isinstance(value, float):
        return reread(value)
    if isinstance(value, dict):
        return {
            key: part if key in ("vector", "vectors") else reread_floats(part)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [reread_floats(part) for part in value]
    return value


def shuffle_keys(value: Any, dice: random.Random) -> Any:
    """Return a JSON value with the keys of every object in random order."""
    if isinstance(value, dict):
        keys = list(value)
        dice.shuffle(keys)
        return {key: shuffle_keys(value[key], dice) for key in keys}
    if isinstance(value, list):
        return [shuffle_keys(part, dice) for part in value]
    return value
