"""Run programs that fork, and compute in their children, with a limit."""

import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]

LIMIT = 15.0
"""Seconds until a child counts as waiting for ever."""


def in_child(work):
    """Return the result of `work()` in a forked child, or raise its error. For `run_program`."""
    sys.stdout.flush()
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work(), ""
        except BaseException as error:  # noqa: BLE001 - raised in the parent
            answer = None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        with os.fdopen(sending, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        if not select.select([stream], [], [], LIMIT)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"the child did not answer within {LIMIT} seconds")
        result, error = pickle.load(stream)
    assert os.waitpid(child, 0)[1] == 0
    if error:
        raise RuntimeError(error)
    return result


def run_program(program, *arguments, **environment):
    """Run a program in a process of its own, and fail with what it wrote if it fails.

    Args:
        program: Its text, or the path of a file, which `spawn` needs.
        arguments: For `sys.argv`.
        environment: Variables to set, or None to remove them.
    """
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, *(["-c", program] if isinstance(program, str) else [program]), *arguments],
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done
