"""Name command-line options instead of Python arguments in error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BOTH = re.compile(r"`[^`]+` \(`?(--[\w-]+)`?\)|(--[\w-]+) \(`[^`]+`\)")
"""Pattern of an argument with its option, in either order; only the option is kept."""
_ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")
_SETTING = re.compile(r"(?<![\w'\"`=-])(?<!--set )([a-z]\w*)=(None|True|False|'[^']*'|\d+\b)")
"""Pattern of a setting and its value as Python prints them, without backticks."""


def in_options(message: str, options: Mapping[str, str], *, bare: bool = True) -> str:
    """Replace the names of Python arguments in a message by those of options.

    Args:
        message: The message of an error, which names arguments as `name` or `name=value`.
        options: The options of a command, by the names of their arguments.
        bare: Also replace names without a value, and rewrite settings that are not options. False
            for messages about data, where names may be those of columns.
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        option = options.get(name)
        if option is None or not (bare or value):
            return match[0]
        if value in (None, "True", "...", "False"):
            return f"--no-{option[2:]}" if value == "False" else option
        return f"{option} {value.strip(chr(39) + chr(34))}"

    def spell_out(match: re.Match[str]) -> str:
        if not bare and match[1] not in options:
            return match[0]
        return f"{options.get(match[1], match[1])} {match[2].strip(chr(39)).lower()}"

    message = _SETTING.sub(spell_out, message)
    message = _BOTH.sub(lambda match: match[1] or match[2], message)
    return _ARGUMENT.sub(replace, message.replace("Value error, ", ""))
