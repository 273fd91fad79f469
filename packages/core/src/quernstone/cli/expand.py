"""Expand a dataclass parameter of a command into one command-line option per field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options as parameters.

    The fields of such a dataclass are annotated like the options of a Typer command. The returned
    function has a parameter for each field instead of each dataclass, and passes instances of the
    dataclasses to `command`.

        @dataclass(frozen=True)
        class ModelOptions:
            device: Annotated[str, typer.Option(help="Where to run.")] = "auto"

        @expand_options
        def embed(source: Path, *, model: ModelOptions) -> None: ...
    """
    types = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in types.items() if is_dataclass(hint)}
    signature = inspect.signature(command)
    parameters: list[Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name in groups:
            parameters += _field_parameters(groups[parameter.name])
        else:
            annotation = types[parameter.name]
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=annotation))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, group in groups.items():
            options = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**options)
        command(**values)

    # Typer reads both the signature and the annotations.
    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def _field_parameters(group: Any) -> list[Parameter]:
    """Return a keyword-only parameter for each field of a dataclass."""
    types = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(group)
    ]
