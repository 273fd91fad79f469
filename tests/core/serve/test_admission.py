"""What may wait, and when refused work may come back. Time is simulated."""

import heapq
import itertools
from collections import Counter
from random import Random

import pytest

from quernstone.serve.admission import Admission, BusyError
from quernstone.serve.speed import Speed


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def admission_of(max_wait, clock, batch_tokens=1000):
    speed = Speed(batch_tokens, clock)
    return Admission(max_wait, speed, clock), speed


def measured(max_wait, clock):
    """An `Admission` that has seen 1,000 tokens a second."""
    admission, speed = admission_of(max_wait, clock)
    with admission.admit(1000, None):
        speed.begin(1000)
        clock.time += 1
    assert admission.rate == 1000
    return admission


def test_what_would_wait_too_long_is_refused(clock):
    admission = measured(10, clock)
    admitted = [admission.admit(3000, None) for _ in range(4)]
    for each in admitted:
        each.__enter__()  # 12 s of work
    assert admission.waiting == 12_000
    words = r"would wait about 12.0 s, the limit is 10 s"
    with pytest.raises(BusyError, match=words) as caught, admission.admit(10, None):
        pass
    assert caught.value.retry_after == 7
    assert admission.waiting == 12_000
    # Each is told a later time, when those before it are done.
    times = []
    for number in range(3):
        with pytest.raises(BusyError) as caught, admission.admit(2000, number):
            pass
        times.append(caught.value.retry_after)
    assert times == [8, 10, 12]
    clock.time += 7
    for each in admitted:
        each.__exit__(None, None, None)
    with admission.admit(10, None):
        assert admission.waiting == 10


def test_abandoned_work_waits_no_longer(clock):
    admission = measured(10, clock)
    with pytest.raises(RuntimeError), admission.admit(50_000, None):
        raise RuntimeError
    assert (admission.waiting, admission.wait) == (0, 0)


def test_small_requests_do_not_refuse_others_beside_a_large_one(clock):
    """Their rate, 300 tokens a second, would say that it takes 20 s."""
    admission, speed = admission_of(10, clock, batch_tokens=4000)
    for _ in range(20):
        with admission.admit(3, None):
            speed.begin(3)
            clock.time += 0.01
    with admission.admit(6000, None), admission.admit(3, None):
        for tokens in (4000, 2003):
            speed.begin(tokens)
            clock.time += 0.01 + tokens * 1e-4
        speed.end()
    assert admission.rate == pytest.approx(1 / (1e-4 + 0.01 / 4000), rel=0.05)


class Crowd:
    """Clients who ask again as soon as they are answered, of a model that needs 100 ms each."""

    def __init__(self, clock, max_wait, clients, returns=lambda number: True):
        self.admission, self.speed = admission_of(max_wait, clock, batch_tokens=100)
        self.clock, self.returns = clock, returns
        self.retries = Counter()
        self.answered, self.longest = 0, 0.0
        self._running, self._events = [], []
        self._numbers, self._random = itertools.count(), Random(0)
        for _ in range(clients):
            self._ask()

    def _ask(self, request=None, at=None):
        request = (next(self._numbers), False) if request is None else request
        heapq.heappush(self._events, (self.clock.time if at is None else at, *request))

    def run(self, seconds):
        end, free = self.clock.time + seconds, self.clock.time
        while self.clock.time < end:
            if self._running and (not self._events or free <= self._events[0][0]):
                self.clock.time = max(self.clock.time, free)
                self._running.pop(0).__exit__(None, None, None)
                self.answered += 1
                self._ask()
                free = self.clock.time + 0.1
                if self._running:
                    self.speed.begin(100)
                continue
            time, number, again = heapq.heappop(self._events)
            self.clock.time = max(self.clock.time, time)
            admitted = self.admission.admit(100, number)
            try:
                admitted.__enter__()
            except BusyError as error:
                if self.returns(number):
                    late = self._random.expovariate(2)
                    self._ask((number, True), self.clock.time + error.retry_after + late)
                else:
                    self._ask(at=self.clock.time + 0.5)
                self.retries[False] += again
                continue
            self.retries[True] += again
            self.longest = max(self.longest, self.admission.wait)
            if not self._running:
                free = self.clock.time + 0.1
                self.speed.begin(100)
            self._running.append(admitted)


@pytest.mark.parametrize("max_wait", [2, 10])
@pytest.mark.parametrize("clients", [30, 100, 500])
def test_promises_hold_for_a_crowd(clock, max_wait, clients):
    crowd = Crowd(clock, max_wait, clients=10)
    crowd.run(5)
    for _ in range(clients):
        crowd._ask()
    crowd.run(200)
    assert crowd.answered > 0.95 * 2000
    assert crowd.longest < max_wait + 0.2
    if clients * 0.1 > max_wait:
        assert crowd.retries[True] > 50
        assert crowd.retries[False] <= 0.05 * crowd.retries[True]


@pytest.mark.parametrize("share", [0, 0.5])
def test_clients_who_never_come_back_waste_little(clock, share):
    def returns(number):
        return number % 10 < 10 * share

    crowd = Crowd(clock, 10, clients=60, returns=returns)
    crowd.run(100)
    assert crowd.answered > 0.9 * 1000


def test_a_request_that_comes_too_early_keeps_its_place(clock):
    admission = measured(10, clock)
    running = admission.admit(12_000, None)
    running.__enter__()
    waits = []
    for _ in range(3):
        with pytest.raises(BusyError) as caught, admission.admit(1000, "early"):
            pass
        waits.append(caught.value.retry_after)
        clock.time += 1
    assert waits == [7, 6, 5]
