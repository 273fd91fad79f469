"""`Model`: the common base of `Embedder` and `Reranker`."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from quernstone.runtime.session import Session
from quernstone.types import EngineInfo, Usage

User = TypeVar("User", bound="Model")


class Model:
    """The common base of `Embedder` and `Reranker`.

    Pickles and copies contain the constructor's arguments but no weights. When unpickled, they
    share a model that is already loaded in the process, or load it.
    """

    _session: Session
    _instruction: str
    _arguments: tuple[tuple[object, ...], dict[str, object]]

    def __new__(cls: type[User], *args: object, **kwargs: object) -> User:
        """Keep the arguments for `__reduce__`."""
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __reduce__(self) -> tuple[object, ...]:
        args, kwargs = self._arguments
        return partial(type(self), *args, **kwargs), ()

    @property
    def model(self) -> str:
        """The name of the model, as it was passed."""
        return self._session.model

    @property
    def adapter(self) -> str:
        """The LoRA adapter, as it was passed; empty without one."""
        return self._session.adapter

    @property
    def revision(self) -> str:
        """Commit of a hub snapshot; for a folder, an adapter and `tiny`, a digest of the files.

        With `engine="remote"`, the revision that was passed, or else the one that the server
        reports, which may be empty.
        """
        return self._session.revision

    @property
    def digest(self) -> str:
        """A digest of the model's files, equal for a hub snapshot and a copy of its files.

        Empty with `engine="remote"`: a server does not show its files.
        """
        return self._session.digest

    @property
    def instruction(self) -> str:
        """Instruction for calls that do not pass one."""
        return self._instruction

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of an input, prompt included."""
        return self._session.max_length

    @property
    def info(self) -> EngineInfo:
        """Engine, device, dtype, attention kernel and batch size."""
        return self._session.info

    @property
    def usage(self) -> Usage:
        """Number of inputs, tokens and truncated inputs so far.

        `Usage` says which of them some engines cannot count.
        """
        return self._session.usage()

    def close(self) -> None:
        """Release the model. It is unloaded when nothing else in the process uses it."""
        self._session.close()

    def __enter__(self: User) -> User:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def variant_of(model: User, **settings: object) -> User:
    """Return a model with other settings. It shares the loaded weights if the engine allows."""
    args, kwargs = model._arguments
    return type(model)(*args, **{**kwargs, **settings})


def session_of(model: Model) -> Session:
    """Return the session of an embedder or a reranker, for Quernstone's own tools."""
    return model._session
