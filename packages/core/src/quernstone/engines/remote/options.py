"""The options of the remote engine. Nothing here connects to a server."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from quernstone.errors import ConfigError

DialectName = Literal["openai", "quernstone", "vllm", "tei", "infinity", "sglang", "cohere", "jina"]
RenderedBy = Literal["client", "server"]

KEY_VARIABLE = "QUERN_API_KEY"
"""The environment variable of the key. `OPENAI_API_KEY` is not used: the endpoint can be any server
that speaks the dialect, and must not receive a key for another one."""

_RENAMED = {"template": "rendered_by", "max_request_bytes": "request_bytes"}
"""Deprecated names of options, kept for one version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """The fields of `RemoteOptions`, which checks them."""

    endpoint: str
    """Address of the server, with or without `/v1`. A user and a password in it are moved to
    `basic_auth`."""
    dialect: DialectName = "openai"
    """The API of the server. `openai` suffices for embeddings; a server's own dialect also reads
    its limits. `quernstone` is that of `quern serve`."""
    rendered_by: RenderedBy | None = None
    """Who renders a reranker's prompt: with `client` we send the rendered text to a server that
    adds nothing, with `server` we send query, document and instruction separately. Required for
    reranking, because rendering twice or never gives wrong scores without an error."""
    api_key: SecretStr | None = None
    """Sent as a bearer token. The default is the environment variable `QUERN_API_KEY`, if set."""
    basic_auth: SecretStr | None = None
    """`user:password`, sent instead of a key."""
    timeout: float = 60.0
    """Seconds for one attempt, from connecting to the last byte of the answer."""
    deadline: float = 300.0
    """Seconds for one request, including retries and the waits between them."""
    max_retries: int = 4
    """Attempts after the first one."""
    max_concurrency: int = 8
    """Maximum number of concurrent requests and connections."""
    max_inputs: int | None = None
    """Maximum number of texts or pairs in a request. The default is the server's own limit if it
    is known, else 64."""
    request_bytes: int = 1_000_000
    """Maximum bytes of text in a request, as JSON. A longer text is sent alone."""


class RemoteOptions(_Fields):
    """A server, how to talk to it, and when to give up.

    Equal options share one connection pool. Credentials are hidden in the representation, but
    pickled, because other processes need them.

    Examples:
        >>> from quernstone import RemoteOptions
        >>> RemoteOptions(endpoint="https://reader:secret@gpu-box:8000", dialect="vllm").endpoint
        'https://gpu-box:8000'
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        endpoint: str,
        dialect: DialectName = "openai",
        rendered_by: RenderedBy | None = None,
        api_key: SecretStr | None = None,
        basic_auth: SecretStr | None = None,
        timeout: float = 60.0,
        deadline: float = 300.0,
        max_retries: int = 4,
        max_concurrency: int = 8,
        max_inputs: int | None = None,
        request_bytes: int = 1_000_000,
        template: RenderedBy | None = None,
        max_request_bytes: int | None = None,
    ) -> None:
        """Check and normalize the options.

        `template` and `max_request_bytes` are deprecated names of `rendered_by` and
        `request_bytes`.

        Raises:
            ConfigError: The endpoint is not the address of a server, the dialect is unknown, or a
                number is out of range.
        """
        if template is not None:
            _warn_renamed("template")
            rendered_by = template
        if max_request_bytes is not None:
            _warn_renamed("max_request_bytes")
            request_bytes = max_request_bytes
        endpoint, auth_of_endpoint = _split_credentials(endpoint)
        if auth_of_endpoint and basic_auth:
            raise ConfigError("a password is given twice, in `endpoint` and in `basic_auth`")
        super().__init__(
            endpoint=endpoint,
            dialect=dialect,
            rendered_by=rendered_by,
            api_key=_secret("api_key", api_key),
            basic_auth=auth_of_endpoint or _secret("basic_auth", basic_auth),
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
            max_inputs=max_inputs,
            request_bytes=request_bytes,
        )
        if self.api_key and self.basic_auth:
            raise ConfigError("both a key and a user with a password are given; use one of them")
        _check_choice("dialect", dialect, get_args(DialectName))
        if rendered_by is not None:
            _check_choice("rendered_by", rendered_by, get_args(RenderedBy))
        for name in ("timeout", "deadline"):
            _check_number(name, getattr(self, name), (int, float), above=0)
        for name in ("max_concurrency", "request_bytes"):
            _check_number(name, getattr(self, name), (int,), above=0)
        _check_number("max_retries", max_retries, (int,), above=-1)
        if max_inputs is not None:
            _check_number("max_inputs", max_inputs, (int,), above=0)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> RemoteOptions:
        """Create options from a mapping, such as `{"endpoint": ..., "dialect": ...}`.

        Raises:
            ConfigError: The endpoint is missing, an option is unknown, or see the class.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(name) for name in values if name not in (*known, *_RENAMED)]
        if unknown:
            raise ConfigError(
                f"the remote engine has no option {', '.join(unknown)}; it has {', '.join(known)}"
            )
        if "endpoint" not in values:
            raise ConfigError(
                'the remote engine needs the address of a server: `engine_options={"endpoint": '
                '"http://localhost:8000", "dialect": "vllm"}`'
            )
        arguments: Any = values  # checked by `__init__`
        return cls(**arguments)

    @property
    def template(self) -> RenderedBy | None:
        """Deprecated name of `rendered_by`."""
        _warn_renamed("template")
        return self.rendered_by

    @property
    def max_request_bytes(self) -> int:
        """Deprecated name of `request_bytes`."""
        _warn_renamed("max_request_bytes")
        return self.request_bytes


def _warn_renamed(old: str) -> None:
    msg = f"the option `{old}` of `RemoteOptions` is deprecated; use `{_RENAMED[old]}`"
    warnings.warn(msg, DeprecationWarning, stacklevel=3)


def _split_credentials(endpoint: object) -> tuple[str, SecretStr | None]:
    """Return a normalized address without credentials, and the credentials.

    Error messages do not quote the address, because it may contain a password.
    """
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
            "`endpoint` has a query or a fragment; give the address alone, and a key as "
            f"`api_key` or in {KEY_VARIABLE}"
        )
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    if not (parts.username or parts.password):
        return address, None
    return address, SecretStr(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}")


def _secret(name: str, value: object) -> SecretStr | None:
    if value is None:
        return None
    if not isinstance(value, (str, SecretStr)):
        raise ConfigError(f"`{name}` is {type(value).__name__}, expected a string or `SecretStr`")
    text = value if isinstance(value, str) else value.get_secret_value()
    return SecretStr(text) if name == "basic_auth" else read_key(text, f"`{name}`")


def read_key(text: str, where: str) -> SecretStr:
    """Check that a key can be sent in a header, without quoting it as a library's error would."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} is empty, or has characters other than visible ASCII")
    return SecretStr(key)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}; use {', '.join(choices)}")


def _check_number(name: str, value: object, types: tuple[type, ...], *, above: int) -> None:
    if isinstance(value, bool) or not isinstance(value, types) or not value > above:  # type: ignore[operator]
        kind = "a whole number" if types == (int,) else "a number"
        raise ConfigError(f"`{name}` is {value!r}; it must be {kind} greater than {above}")
