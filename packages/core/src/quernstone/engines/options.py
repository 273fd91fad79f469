"""`engine_options`: arguments for a library, or the description of a server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Union

from quernstone.errors import ConfigError
from quernstone.lazy import freeze
from quernstone.types import EngineName

if TYPE_CHECKING:
    from quernstone.engines.remote.options import RemoteOptions

EngineOptions = Union[Mapping[str, object], "RemoteOptions", None]
"""A mapping of keyword arguments; for `remote` also a `RemoteOptions`."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Options(Mapping[str, object]):
    """Keyword arguments for the constructor of a library.

    Read-only, and compared by value, so that equal options share one engine. The representation
    shows the names of the options but not their values, which may contain an access token.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        """Copy the values."""
        self._values = dict(values)
        self._key = freeze(self._values)

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Options({', '.join(self._values)})"

    @property
    def digest(self) -> str:
        """A short hash that is equal for equal options, in any process."""
        text = _ADDRESS.sub("", repr(self._key))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_options(engine: str, given: EngineOptions) -> Hashable:
    """Convert `engine_options` to the form that `EngineConfig` stores; None without options."""
    if engine == "remote":
        from quernstone.engines.remote.options import RemoteOptions  # noqa: PLC0415

        return given if isinstance(given, RemoteOptions) else RemoteOptions.of(_mapping(given))
    values = _mapping(given)
    if not values:
        return None
    if engine in ("torch", "transformers"):
        raise ConfigError(
            f"the {engine} engine takes no `engine_options`, got {', '.join(map(str, values))}; "
            "they are for sentence-transformers, vllm and remote"
        )
    return Options(values)


def at_address(
    model: str, engine: EngineName, options: EngineOptions
) -> tuple[str, EngineName, EngineOptions]:
    """Convert the address of a `quern serve`, passed as model, to settings of the remote engine.

    The returned name is empty, which stands for the server's only model for the task.
    """
    if engine not in ("auto", "remote"):
        raise ConfigError(
            f"the model {model!r} is a server, which `engine={engine!r}` cannot use; leave out "
            "`engine`"
        )
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(
            "an address in place of the model takes a mapping of further `engine_options`, "
            f"not {type(options).__name__}"
        )
    return "", "remote", {"dialect": "quernstone", **(options or {}), "endpoint": model}


def _mapping(given: object) -> Mapping[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"`engine_options` is {type(given).__name__}, expected a mapping of names to values, "
            'or `RemoteOptions` with `engine="remote"`'
        )
    return given


def check_remote(**settings: object) -> None:
    """Raise a `ConfigError` for a setting that is up to the server."""
    for name, value in settings.items():
        if value not in ("auto", None):
            msg = (
                f'`{name}` is {value!r}, but with `engine="remote"` the server decides it: leave '
                "it out"
            )
            raise ConfigError(msg)


def single_input_budget(engine: str, max_batch_tokens: int | None) -> int:
    """Return the batch size for `deterministic`, which is so small that each batch has one input.

    Raises:
        ConfigError: The engine plans its own batches, or `max_batch_tokens` was passed as well.
    """
    if engine in ("vllm", "remote"):
        msg = f'`engine="{engine}"` plans its own batches, so `deterministic` cannot be used'
        raise ConfigError(msg)
    if max_batch_tokens is not None:
        msg = "`deterministic` plans batches by itself: leave `max_batch_tokens` out"
        raise ConfigError(msg)
    return 1
