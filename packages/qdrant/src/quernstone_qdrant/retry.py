"""Retry requests to a target that failed temporarily."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tenacity

from quernstone_qdrant.errors import TransientError

T = TypeVar("T")

OPENING_PATIENCE = 5.0
"""Seconds in which to retry the first request to a server: a wrong address fails in the same way as
a server that restarts."""

_FIRST_SECONDS = 0.5
_MAX_SECONDS = 30.0


class Retry:
    """A retry policy: exponential backoff with jitter, up to a deadline. Thread-safe.

    Only a `TransientError` is retried. Each delay is drawn at random between zero and a limit that
    doubles from half a second to 30 s, so that concurrent writers do not retry all at once. If the
    server asked for a delay, the wait is at least that long, but never longer than the patience
    lasts: the last attempt starts when it ends.

    Args:
        patience: Seconds after the first attempt in which a retry may start; 0 never retries.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.retries = 0
        """Retries so far, of all calls."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all waits: each pending retry fails now, with the error of its last attempt."""
        self._stopped.set()

    def call(self, request: Callable[[], T]) -> T:
        """Make a request and retry it until it succeeds.

        Args:
            request: Makes the request, which must be idempotent: the previous attempt may have
                succeeded, with only its response lost.

        Raises:
            TransientError: Every attempt failed. The message says how often and for how long.
            TargetError: The request failed with an error that is not temporary.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=self._pause,
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(self.patience),
                tenacity.stop_when_event_set(self._stopped),
            ),
            sleep=tenacity.sleep_using_event(self._stopped),
            before_sleep=self._count,
            retry_error_callback=self._give_up,
        )
        return retrying(request)

    def _count(self, _state: tenacity.RetryCallState) -> None:
        with self._lock:
            self.retries += 1

    def _give_up(self, state: tenacity.RetryCallState) -> NoReturn:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, TransientError):  # pragma: no cover - only these are retried
            raise RuntimeError("a retry ended without an error")
        if not self.patience:
            raise error
        if self._stopped.is_set():
            reason = "the load was aborted"
        else:
            reason = f"the limit is {self.patience:g} s"
            if error.delay is not None:
                reason += f", and the server asks to wait {error.delay:g} s more"
        seconds, attempts = state.seconds_since_start or 0.0, state.attempt_number
        raise type(error)(
            f"{error.message} (gave up after {attempts} attempt{'s' * (attempts > 1)} in "
            f"{seconds:.0f} s: {reason})",
            error.delay,
        ) from error

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        requested = error.delay if isinstance(error, TransientError) else None
        # Add jitter to a requested delay: the server asked all writers to wait equally long.
        pause = _backoff(state) if requested is None else requested + _backoff(state) / 10
        return max(0.0, min(pause, self.patience - (state.seconds_since_start or 0.0)))


_backoff = tenacity.wait_random_exponential(multiplier=_FIRST_SECONDS, max=_MAX_SECONDS)
