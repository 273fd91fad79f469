"""Limits of requests: rates and nesting."""

import math
import re
import threading
import time
from itertools import accumulate

from tests.support.qdrant_server.calls import Refusal

REST_DEPTH = 127
"""Levels of objects and arrays that the JSON parser accepts, counted from the body itself.

gRPC refuses more than 100 nested messages, about 30 levels of a payload; protobuf checks it.
"""

_BETWEEN_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^][{}"]+', re.DOTALL)


class RateLimiter:
    """A bucket of tokens that refills within a minute; the price of a request is in points."""

    def __init__(self, per_minute: int):
        self.per_minute, self.tokens = per_minute, float(per_minute)
        self._filled, self._lock = time.monotonic(), threading.Lock()

    def take(self, price: int, kind: str) -> None:
        """Take tokens.

        Raises:
            Refusal: With status 429: there are too few.
        """
        what = f"Rate limiting exceeded: {kind} rate limit exceeded"
        if price > self.per_minute:
            raise Refusal(
                429,
                f"{what}, request larger than rate limiter capacity, please try to split your "
                "request",
            )
        with self._lock:
            now = time.monotonic()
            refill = (now - self._filled) * self.per_minute / 60
            self.tokens, self._filled = min(self.per_minute, self.tokens + refill), now
            if price <= self.tokens:
                self.tokens -= price
                return
            wait = math.ceil((price - self.tokens) * 60 / self.per_minute)
        raise Refusal(
            429,
            f"{what}: Operation requires {price} tokens but only {self.tokens:.1f} were "
            f"available. Retry after {wait}s",
            str(wait),
        )


def check_depth(body: bytes) -> None:
    """Refuse a JSON body that nests too deeply."""
    brackets = _BETWEEN_BRACKETS.sub(b"", body)
    levels = accumulate(1 if bracket in b"{[" else -1 for bracket in brackets)
    if max(levels, default=0) > REST_DEPTH:
        raise Refusal(400, "Format error in JSON body: recursion limit exceeded at line 1")
