"""Tries a request again while there is hope: the same rule for every target."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tenacity

from quernstone_qdrant.errors import TransientError

T = TypeVar("T")

_FIRST_SECONDS = 0.5
_MOST_SECONDS = 30.0


class Retry:
    """Repeats what failed with a `TransientError`, ever more slowly, up to a deadline.

    The pause doubles from half a second to 30 s, and is drawn at random from zero up to that, so
    that many writers do not come back all at once; when the server says how long to wait, it is at
    least that. Thread-safe.

    Args:
        patience: Seconds from the first attempt to the last; 0 never tries again.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.retries = 0
        """Requests that were repeated so far."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all pauses: what waits to be repeated fails now, with the error that it had."""
        self._stopped.set()

    def call(self, request: Callable[[], T], check: Callable[[], T | None] | None = None) -> T:
        """Make a request until it succeeds.

        Args:
            request: What to do. It must be idempotent.
            check: Asks, before the request is made again, whether it has succeeded after all: its
                answer may have been lost on the way. None: it has not.

        Raises:
            TransientError: It never succeeded. The message says how long it was tried.
            TargetError: It failed for good.
        """
        tried = False

        def attempt() -> T:
            nonlocal tried
            if tried and check is not None and (found := check()) is not None:
                return found
            tried = True
            return request()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=_pause,
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(self.patience),
                tenacity.stop_when_event_set(self._stopped),
            ),
            sleep=tenacity.sleep_using_event(self._stopped),
            before_sleep=self._count,
            retry_error_callback=_give_up,
        )
        return retrying(attempt)

    def _count(self, _state: tenacity.RetryCallState) -> None:
        with self._lock:
            self.retries += 1


_backoff = tenacity.wait_random_exponential(multiplier=_FIRST_SECONDS, max=_MOST_SECONDS)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.delay if isinstance(error, TransientError) else None
    # a random part on top, or all writers that were told the same second would come back in it
    return _backoff(state) if asked is None else asked + _backoff(state) / 10


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, TransientError):  # pragma: no cover - `retry` lets no other pass
        raise RuntimeError("a retry ended without an error")
    if state.attempt_number == 1:
        raise error
    seconds = state.seconds_since_start or 0.0
    raise TransientError(
        f"{error.message} (tried {state.attempt_number} times in {seconds:.0f} s)", error.delay
    ) from error
