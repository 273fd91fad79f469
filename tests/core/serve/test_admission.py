"""What may wait, and when refused work may come back. Time is simulated."""

import pytest

from quernstone.serve.admission import Admission, BusyError


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def work(admission, clock, tokens, seconds):
    with admission.admit(tokens):
        clock.time += seconds


def test_the_rate_is_that_of_busy_time(clock):
    admission = Admission(10, clock)
    assert admission.rate == 0
    for _ in range(5):
        work(admission, clock, 1000, 2)
        clock.time += 100  # idle
    assert admission.rate == pytest.approx(500, rel=0.15)
    for _ in range(20):
        work(admission, clock, 1000, 4)
    assert admission.rate == pytest.approx(250, rel=0.15)


def test_what_would_wait_too_long_is_refused(clock):
    admission = Admission(10, clock)
    work(admission, clock, 1000, 1)
    admitted = [admission.admit(3000) for _ in range(4)]
    for each in admitted:
        each.__enter__()  # 12 s of work
    assert admission.waiting == 12_000
    words = r"would wait about 12.0 s, the limit is 10 s"
    with pytest.raises(BusyError, match=words) as caught, admission.admit(10):
        pass
    assert caught.value.retry_after == 7
    assert admission.waiting == 12_000
    # Each is told a later time, when those before it are done.
    times = []
    for _ in range(3):
        with pytest.raises(BusyError) as caught, admission.admit(2000):
            pass
        times.append(caught.value.retry_after)
    assert times == [8, 10, 12]
    clock.time += 7
    for each in admitted:
        each.__exit__(None, None, None)
    with admission.admit(10):
        assert admission.waiting == 10


def test_abandoned_work_does_not_count_as_done(clock):
    admission = Admission(10, clock)
    work(admission, clock, 1000, 1)
    rate = admission.rate
    with pytest.raises(RuntimeError), admission.admit(50_000):
        raise RuntimeError
    assert admission.rate == pytest.approx(rate)
    assert admission.waiting == 0
