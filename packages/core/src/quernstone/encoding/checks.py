"""Checks of callers' arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from quernstone.errors import ConfigError, InputError


def check_texts(texts: Sequence[str], offset: int = 0, what: str = "text") -> None:
    """Raise an `InputError` for the first text that is not a string or not valid Unicode."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(offset + index, f"the {what} is {type(text).__name__}, expected str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                offset + index,
                f"the {what} holds a lone surrogate {text[error.start]!r} at character "
                f"{error.start}, so it is not valid Unicode; decode its source with "
                '`errors="replace"`',
            ) from error


def check_list(name: str, values: object) -> None:
    """Raise an `InputError` unless `values` is an iterable with an order, such as a generator.

    Strings, mappings and sets are refused: a string would be read as a list of characters, a
    mapping as a list of its keys, and a set has no order.
    """
    refused = isinstance(values, (str, bytes, Mapping, Set))
    if refused or not isinstance(values, Iterable):
        raise InputError(
            0,
            f"`{name}` is {type(values).__name__}, expected a list of strings or another iterable "
            "that has an order",
        )


def check_positive(name: str, value: int) -> None:
    """Raise a `ConfigError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{name}` is {value!r}; it must be a whole number of at least 1")


def check_instruction(instruction: str) -> str:
    """Return the instruction, or raise a `ConfigError` if it is not a string or valid Unicode."""
    try:
        check_texts([instruction], what="instruction")
    except InputError as error:
        raise ConfigError(error.reason) from error
    return instruction
