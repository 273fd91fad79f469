"""What a user says of a server. Nothing here connects to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from quernstone.errors import ConfigError

DialectName = Literal["openai", "vllm", "tei", "infinity", "sglang", "cohere", "jina"]
TemplateSide = Literal["client", "server"]

KEY_VARIABLE = "QUERN_API_KEY"
"""The environment variable of the key. `OPENAI_API_KEY` is not read: the endpoint is any server
that speaks the dialect, and somebody else's key is none of its business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """A server, how to talk to it, and how patient to be.

    Equal options share one connection pool. Credentials never show in the representation; they
    are part of a pickle, because another process needs them.

    Example:
        >>> from quernstone import RemoteOptions
        >>> RemoteOptions(endpoint="https://reader:secret@gpu-box:8000", dialect="vllm").endpoint
        'https://gpu-box:8000'
    """

    endpoint: str
    """Address of the server, with or without `/v1`. A user and a password in it are moved to
    `basic_auth`."""
    dialect: DialectName = "openai"
    """What the server speaks. Every server here speaks `openai` for embeddings; its own dialect
    knows more of its limits."""
    template: TemplateSide | None = None
    """Who renders a reranker's prompt: `client` sends the rendered text to a server that adds
    nothing, `server` sends query, document and instruction apart. Needed for reranking, where
    rendering twice or never gives wrong scores without an error."""
    api_key: SecretStr | None = None
    """Sent as a bearer token. None: the environment variable `QUERN_API_KEY`, if it is set."""
    basic_auth: SecretStr | None = None
    """`user:password`, sent instead of a key."""
    timeout: float = 60.0
    """Seconds for one attempt, from connecting to the last byte of the answer."""
    deadline: float = 300.0
    """Seconds for one request with all its attempts and waits."""
    max_retries: int = 4
    """Attempts after the first one."""
    max_concurrency: int = 8
    """Requests under way at once, and connections."""
    max_inputs: int | None = None
    """Texts or pairs in a request. None: 64, or what the server allows if that is known."""
    max_request_bytes: int = 1_000_000
    """Bytes of text in a request, as JSON. A text that is longer goes alone."""

    def __post_init__(self) -> None:
        """Check everything.

        Raises:
            ConfigError: Not the address of a server, an unknown dialect, a number out of range.
        """
        for name in ("api_key", "basic_auth"):
            self._set(name, _secret(name, getattr(self, name)))
        self._read_endpoint()
        if self.api_key and self.basic_auth:
            raise ConfigError("both a key and a user with a password are given; use one of them")
        _check_choice("dialect", self.dialect, get_args(DialectName))
        if self.template is not None:
            _check_choice("template", self.template, get_args(TemplateSide))
        for name in ("timeout", "deadline"):
            _check_number(name, getattr(self, name), (int, float), above=0)
        for name in ("max_concurrency", "max_request_bytes"):
            _check_number(name, getattr(self, name), (int,), above=0)
        _check_number("max_retries", self.max_retries, (int,), above=-1)
        if self.max_inputs is not None:
            _check_number("max_inputs", self.max_inputs, (int,), above=0)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> RemoteOptions:
        """Make options of a mapping, such as `{"endpoint": ..., "dialect": ...}`.

        Raises:
            ConfigError: There is no endpoint, or an option of another name; or see the class.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise ConfigError(
                f"the remote engine has no option {', '.join(unknown)}; it has {', '.join(known)}"
            )
        if "endpoint" not in values:
            raise ConfigError(
                'the remote engine needs the address of a server: `engine_options={"endpoint": '
                '"http://localhost:8000", "dialect": "vllm"}`'
            )
        checked: Any = values  # by `__post_init__`
        return cls(**checked)

    def _read_endpoint(self) -> None:
        """Clean `endpoint` and take the credentials out of it."""
        parts = _split(self.endpoint)
        if parts.username or parts.password:
            if self.basic_auth:
                raise ConfigError("a password is given twice, in `endpoint` and in `basic_auth`")
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self._set("basic_auth", SecretStr(pair))
        host = parts.netloc.rpartition("@")[2]
        self._set("endpoint", urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _split(endpoint: object) -> SplitResult:
    """Parse an address. No message here quotes it: it may hold a password."""
    if not isinstance(endpoint, str):
        raise ConfigError(f"`endpoint` is {type(endpoint).__name__}, expected an address")
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        shown = parts.netloc.rpartition("@")[2] + parts.path
        usable = known and shown.isprintable() and " " not in shown
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "`endpoint` is not the address of a server; it looks like http://localhost:8000"
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            "`endpoint` has a part behind `?` or `#`; give the address alone, and a key as "
            f"`api_key` or in {KEY_VARIABLE}"
        )
    return parts


def _secret(name: str, value: object) -> SecretStr | None:
    if value is None:
        return None
    if not isinstance(value, (str, SecretStr)):
        raise ConfigError(f"`{name}` is {type(value).__name__}, expected a string or `SecretStr`")
    text = value if isinstance(value, str) else value.get_secret_value()
    return SecretStr(text) if name == "basic_auth" else read_key(text, f"`{name}`")


def read_key(text: str, where: str) -> SecretStr:
    """Check that a key can travel in a header. A library's message about a bad one would quote it.

    Raises:
        ConfigError: It is empty, or not of visible ASCII characters.
    """
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} is empty, or has characters that no key has")
    return SecretStr(key)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}; use {', '.join(choices)}")


def _check_number(name: str, value: object, types: tuple[type, ...], *, above: int) -> None:
    if isinstance(value, bool) or not isinstance(value, types) or not value > above:  # type: ignore[operator]
        kind = "a whole number" if types == (int,) else "a number"
        raise ConfigError(f"`{name}` is {value!r}; it must be {kind} greater than {above}")
