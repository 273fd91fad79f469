"""Run a side in its own process, and call it with lines of JSON.

Two users of torch in one process have two pools of OpenMP threads, and OpenMP then puts waiting
threads to sleep, which slows both. A child waits at a pipe while others run. Its Python can come
from another environment, for sides whose packages conflict with the others.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_STOP_SECONDS = 60


class Child(AbstractContextManager["Child"]):
    """A proxy for an object in another process."""

    def __init__(
        self,
        factory: str,
        *,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """Start the process and wait until the object is created.

        Args:
            factory: Function or class to call, as `module:name`.
            python: Interpreter of the process.
            environment: Variables in addition to those of this process.
            settings: Arguments of the call.

        Raises:
            RuntimeError: The process ended; its message is on standard error.
        """
        self._factory = factory
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.child", factory, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
        )
        self._reply()

    def run(self, method: str, *arguments: object) -> float:
        """Call a method without transferring its result.

        Returns:
            The seconds that the call took, measured there.
        """
        return float(self._call(method, arguments, wanted=False)["seconds"])

    def get(self, method: str, *arguments: object) -> Any:
        """Call a method and return its result."""
        return self._call(method, arguments, wanted=True)["result"]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, arguments: tuple[object, ...], *, wanted: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = {"method": method, "arguments": arguments, "wanted": wanted}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            code = self._process.returncode
            raise RuntimeError(f"the process of `{self._factory}` ended with {code}; see above")
        reply: dict[str, Any] = json.loads(line)
        return reply


def _serve(factory: str, settings: str) -> None:
    """Answer the calls of the parent until it closes the pipe."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # keeps the output of libraries out of the replies
        module, name = factory.split(":")
        held = getattr(importlib.import_module(module), name)(**json.loads(settings))
        print("{}", file=replies, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            start = time.perf_counter()
            result = getattr(held, order["method"])(*order["arguments"])
            reply = {"seconds": time.perf_counter() - start}
            if order["wanted"]:
                reply["result"] = result
            # arrays and tensors become lists
            print(json.dumps(reply, default=lambda one: one.tolist()), file=replies, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
