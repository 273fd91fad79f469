"""Every error that Quernstone raises on purpose.

    QuernstoneError
    |-- ConfigError (ValueError)         settings that can never work
    |-- MissingExtraError (ImportError)  an optional dependency is not installed
    |-- SourceError (ValueError)         a file or one row of it; `.path`, `.row`
    |-- InputError (ValueError)          one input cannot be processed; `.index` says which
    |   `-- InputTooLongError            `.tokens` against `.limit`
    |-- ModelLoadError (RuntimeError)    a missing or broken model, or the wrong tokenizer
    `-- EngineError (RuntimeError)       the model ran and failed
        |-- EngineMemoryError            out of memory; `.index` when one input alone does not fit
        |-- NonFiniteError               NaN or infinity, also in float32; `.index` says where
        |-- RemoteError                  a server failed; `.url`, `.status`, `.index`
        |   |-- RemoteUnavailableError   the server is unreachable or overloaded, after all retries
        |   |-- RemoteRequestError       the server rejects the request: key, address, model
        |   `-- RemoteAnswerError        the server's answer does not match the request
        `-- ClosedError                  used after `close()`

Each class also inherits from the built-in exception in parentheses. All of them can be pickled:
`args` equals the positional arguments of the constructor, and `__str__` builds the message.
"""

from __future__ import annotations


class QuernstoneError(Exception):
    """The base of all errors that Quernstone raises."""


class ConfigError(QuernstoneError, ValueError):
    """A setting, or a combination of settings, that can never work."""


class MissingExtraError(QuernstoneError, ImportError):
    """An engine or a file format needs a package that is not installed."""

    def __init__(self, module: str, extra: str, distribution: str = "quernstone") -> None:
        super().__init__(module, extra, distribution)
        self.module, self.extra, self.distribution = module, extra, distribution

    def __str__(self) -> str:
        return (
            f"`{self.module}` is not installed; "
            f'run `pip install "{self.distribution}[{self.extra}]"`'
        )


class SourceError(QuernstoneError, ValueError):
    """A file, or one row of a file, cannot be read as text."""

    def __init__(self, path: str, reason: str, row: int | None = None) -> None:
        super().__init__(path, reason, row)
        self.path, self.reason, self.row = path, reason, row

    def __str__(self) -> str:
        where = self.path if self.row is None else f"{self.path}, row {self.row}"
        return f"{where}: {self.reason}"


class InputError(QuernstoneError, ValueError):
    """One input cannot be processed. `.index` is its position in the caller's list."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index, self.reason = index, reason

    def at(self, index: int) -> InputError:
        """Return the same error with another index, such as that in the caller's list."""
        return type(self)(index, *self.args[1:])

    def __str__(self) -> str:
        return f"input {self.index}: {self.reason}"


class InputTooLongError(InputError):
    """An input is longer than `max_length` and may not be cut, or its prompt alone is too long."""

    def __init__(self, index: int, tokens: int, limit: int, what: str = "the text") -> None:
        super().__init__(index, what)
        self.args = (index, tokens, limit, what)
        self.tokens, self.limit, self.what = tokens, limit, what

    def __str__(self) -> str:
        fix = (
            "pass `truncate=True` to cut it, or raise `max_length`"
            if self.what == "the text"
            else "shorten it, or raise `max_length`"
        )
        return (
            f"input {self.index}: {self.what} has {self.tokens} tokens, "
            f"the limit is {self.limit}; {fix}"
        )


class ModelLoadError(QuernstoneError, RuntimeError):
    """The model is missing or incomplete, or its parts do not match."""


class EngineError(QuernstoneError, RuntimeError):
    """The engine failed while running."""


class EngineMemoryError(EngineError):
    """The device is out of memory.

    `.index` is the position of the input that does not fit even as a batch of one. It is None if
    an engine raises the error for a batch; the worker then halves the batch and retries.
    """

    def __init__(self, index: int | None = None, tokens: int = 0, detail: str = "") -> None:
        super().__init__(index, tokens, detail)
        self.index, self.tokens, self.detail = index, tokens, detail

    def __str__(self) -> str:
        if self.index is None:
            return f"out of memory on a batch of {self.tokens} tokens: {self.detail}"
        return (
            f"input {self.index} with {self.tokens} tokens does not fit into memory even alone; "
            f"lower `max_length` or use a device with more memory ({self.detail})"
        )


class NonFiniteError(EngineError):
    """A result contains NaN or infinity, even when recomputed in float32."""

    def __init__(
        self, index: int, detail: str = "also in float32; the checkpoint is probably damaged"
    ) -> None:
        super().__init__(index, detail)
        self.index, self.detail = index, detail

    def __str__(self) -> str:
        return f"input {self.index}: the model's output is not finite, {self.detail}"


class ClosedError(EngineError):
    """An embedder or a reranker was used after `close()`."""


class RemoteError(EngineError):
    """A server could not be used. The message never contains a key, a password or a user name.

    `.url` is the address, `.status` the HTTP status if there was an answer, `.index` the position
    of the input that caused the error, if known.
    """

    def __init__(
        self, reason: str, url: str, status: int | None = None, index: int | None = None
    ) -> None:
        super().__init__(reason, url, status, index)
        self.reason, self.url, self.status, self.index = reason, url, status, index

    def __str__(self) -> str:
        where = f"input {self.index}: " if self.index is not None else ""
        return f"{where}{self.url} {self.reason}"


class RemoteUnavailableError(RemoteError):
    """The server was unreachable or overloaded in all attempts."""


class RemoteRequestError(RemoteError):
    """The server rejects the request, and would reject it again."""


class RemoteAnswerError(RemoteError):
    """The server's answer does not match the request, so none of it is used."""
