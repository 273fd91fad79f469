"""Parse and write lines of JSON without losing digits or rejecting NaN."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import re
import uuid
from typing import Any

import orjson

_LONG_NUMBER = re.compile(rb"\d{19}")
"""Pattern of integers that may exceed 64 bits, which orjson would read as floats."""
_MAX_DIGITS = 4300
"""Most digits of an integer that Python converts; longer ones stay strings."""


def parse_json(line: bytes) -> tuple[Any, int]:
    """Parse one JSON value.

    Integers keep every digit. NaN and infinities, which JSON does not have, become None.

    Returns:
        The value, and the number of NaNs and infinities in it.

    Raises:
        json.JSONDecodeError: The line is not valid JSON.
    """
    if not _LONG_NUMBER.search(line):
        try:
            return orjson.loads(line), 0
        except orjson.JSONDecodeError:
            if b"NaN" not in line and b"Infinity" not in line:
                raise
    replaced: list[str] = []
    try:
        value = json.loads(
            line.decode(),
            parse_constant=replaced.append,  # returns None
            parse_int=lambda digits: int(digits) if len(digits) <= _MAX_DIGITS else digits,
        )
    except UnicodeDecodeError as error:
        reason = f"invalid UTF-8: {error.reason}"
        raise json.JSONDecodeError(reason, "", 0) from error
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
    return value, len(replaced)


def dump_json(value: Any) -> bytes:
    """Serialize a value as a line of JSON.

    Integers may be of any size. Numpy arrays become lists, dates become ISO 8601 strings, bytes
    become base64, and decimals and durations become strings.
    """
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    try:
        return orjson.dumps(value, default=_plain, option=options)
    except orjson.JSONEncodeError:
        return f"{json.dumps(value, ensure_ascii=False, default=_plain)}\n".encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta, uuid.UUID)):
        return str(value)
    return value.tolist()
