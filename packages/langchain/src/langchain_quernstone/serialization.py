"""Serialization with LangChain's `dumpd` and `load`, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from langchain_core.load.serializable import Serializable
from pydantic import SecretStr
from typing_extensions import override

from quernstone import PairTemplate, RemoteOptions

if TYPE_CHECKING:
    from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented


class Dumpable(Serializable):
    """Base of the classes whose settings LangChain can serialize.

    `RemoteOptions` are written without the server's key, which is read from `QUERN_API_KEY` when
    the object is used. An object with the `engine_options` of a library cannot be serialized,
    because such options may hold any Python object.
    """

    if TYPE_CHECKING:
        engine: Any
        engine_options: Mapping[str, Any] | RemoteOptions | None

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        """Return True, because the settings can be serialized."""
        return True

    @property
    @override
    def lc_attributes(self) -> dict[str, Any]:
        """The settings that LangChain cannot serialize by itself, as dictionaries."""
        template = getattr(self, "template", None)
        found = {"template": asdict(template)} if isinstance(template, PairTemplate) else {}
        if self.engine_options is not None:
            found["engine_options"] = _public(self.engine_options)
        return found

    @override
    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return the settings, or a note that they cannot be serialized."""
        if self.engine_options and self.engine != "remote":
            return self.to_json_not_implemented()
        return super().to_json()


def _public(options: Mapping[str, Any] | RemoteOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults and are not secret."""
    given = options if isinstance(options, RemoteOptions) else RemoteOptions.of(options)
    values = {field: getattr(given, field.name) for field in fields(given)}
    return {
        field.name: value
        for field, value in values.items()
        if value != (None if field.default is MISSING else field.default)
        and not isinstance(value, SecretStr)
    }
