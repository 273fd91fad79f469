"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass

from quernstone.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Limits of a server.

    Raises:
        ConfigError: A number is not greater than zero.
    """

    keys: tuple[str, ...] = ()
    """Accepted API keys. Without any, every request is accepted."""
    max_inputs: int = 2048
    """Texts or documents in a request."""
    max_bytes: int = 16_000_000
    """Bytes in the body of a request."""
    max_tokens: int = 2_000_000
    """Tokens in a request, prompts included."""
    max_wait: float = 10.0
    """Longest wait for earlier requests, in seconds, estimated from the measured rate. A request
    that would wait longer is refused with 429."""
    timeout: float = 120.0
    """Seconds from the first byte of a request to its answer."""
    read_timeout: float = 30.0
    """Seconds in which the body of a request must have arrived."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose scripts may read answers."""

    def __post_init__(self) -> None:
        for name in (
            "max_inputs",
            "max_bytes",
            "max_tokens",
            "max_wait",
            "timeout",
            "read_timeout",
        ):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"`{name}` is {value!r}; it must be greater than 0")
