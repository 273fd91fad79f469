"""Models behind a server: text goes out over HTTP, numbers come back.

`options` is what a user says, `dialects` what a server understands, `transport` how a request
gets there, and `backend` puts results where they belong.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "RemoteBackend":  # imported on use: `import quernstone` reads the options only
        from quernstone.engines.remote.backend import RemoteBackend  # noqa: PLC0415

        return RemoteBackend
    raise AttributeError(name)
