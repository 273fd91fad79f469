"""Checks of the arguments that callers pass."""

from __future__ import annotations

from collections.abc import Sequence

from quernstone.errors import ConfigError, InputError


def check_texts(texts: Sequence[str], offset: int = 0, what: str = "text") -> None:
    """Reject texts that no tokenizer can read, naming the index.

    Raises:
        InputError: Not a string, or a string with a lone surrogate (half of a UTF-16 pair).
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            reason = f"the {what} is {type(text).__name__}, expected str"
            raise InputError(offset + index, reason)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            reason = (
                f"the {what} holds a lone surrogate {text[error.start]!r} at character "
                f"{error.start}, so it is not valid Unicode; decode its source with "
                '`errors="replace"`'
            )
            raise InputError(offset + index, reason) from error


def check_list(name: str, values: object) -> None:
    """Reject a single string where a list is expected: it would pass as a list of characters.

    Raises:
        InputError: `values` is a string or not a sequence.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        reason = f"`{name}` is {type(values).__name__}, expected a list of strings"
        raise InputError(0, reason)


def check_positive(name: str, value: int) -> None:
    """Reject a count below one.

    Raises:
        ConfigError: Not a whole number, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"`{name}` is {value!r}; it must be a whole number of at least 1"
        raise ConfigError(msg)


def check_instruction(instruction: str) -> str:
    """Return a usable instruction.

    Raises:
        ConfigError: Not a string, or not valid Unicode.
    """
    try:
        check_texts([instruction], what="instruction")
    except InputError as error:
        raise ConfigError(error.reason) from error
    return instruction
