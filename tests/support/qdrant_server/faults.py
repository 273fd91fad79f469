"""Faults of requests, named in `Server.script` or returned by `Server.chaos`."""

import email.utils
import random
import time

from tests.support.qdrant_server.calls import Refusal

FAULTS = {
    "429": "asks to come back, and says when",
    "429-bare": "asks to come back",
    "429-date": "asks to come back at a time of day, which the client cannot read",
    "500": "fails",
    "503": "is not there, and says for how long",
    "drop": "closes the connection without doing anything",
    "lost": "does it, and closes the connection without saying so",
    "slow": "does it, and answers later than the client waits",
    "late": "says `wait_timeout`, and does it when the next request comes",
    "never": "says `wait_timeout`, and does nothing",
    "acknowledged": "says `acknowledged`, and does it when the next request comes",
    "partial": "does it on the first replica only, and fails",
}
"""Name and meaning of each fault that passes. `400` and `403` also work, and do not pass."""

POSTPONED = {"late": "wait_timeout", "never": "wait_timeout", "acknowledged": "acknowledged"}
"""Status of the answer to a write that is done later, or never."""


def refuse(fault: str | None) -> None:
    """Raise the `Refusal` of a fault that refuses the request."""
    if fault in ("429", "503"):
        raise Refusal(int(fault), f"fault {fault}", "1")
    if fault == "429-date":
        raise Refusal(429, f"fault {fault}", email.utils.formatdate(time.time() + 1))
    if fault in ("429-bare", "500", "400", "403"):
        raise Refusal(int(fault[:3]), f"fault {fault}")


def random_faults(seed, share, names=tuple(FAULTS)):
    """Return a `Server.chaos` that fails a share of the requests for points, by the seed."""
    dice = random.Random(seed)

    def choose(method, path):
        chance, name = dice.random(), dice.choice(names)
        return name if chance < share and "/points" in path else None

    return choose
