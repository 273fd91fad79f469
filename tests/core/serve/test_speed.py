"""The rate that follows from the sizes and times of batches. Time is simulated."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernstone.serve.speed import Speed


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


def measure(batches, batch_tokens=1000):
    """Return the rate after batches of (tokens, seconds), one after another."""
    clock = Clock()
    speed = Speed(batch_tokens, clock)
    for tokens, seconds in batches:
        speed.begin(tokens)
        clock.time += seconds
    speed.end()
    return speed.rate


sizes = st.lists(st.integers(1, 5000), min_size=2, max_size=30)


@given(sizes, st.floats(0, 0.5), st.floats(1e-5, 1e-2))
def test_it_finds_the_fixed_part_and_that_of_a_token(sizes, fixed, per_token):
    rate = measure([(size, fixed + per_token * size) for size in sizes])
    mean = max(1000.0, sum(sizes) / len(sizes))
    assert rate >= 1 / (per_token + fixed / min(sizes)) * 0.99
    if max(sizes) > 2 * min(sizes):
        assert rate <= 1 / per_token * 1.01
        assert rate == pytest.approx(1 / (per_token + fixed / mean), rel=0.6)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-4, 100)), min_size=1))
def test_any_times_give_a_rate(batches):
    rate = measure(batches)
    assert 0 < rate < math.inf


def test_a_change_is_noticed():
    rate = measure([(1000, 2)] * 5)
    assert rate == pytest.approx(500)
    assert measure([(1000, 2)] * 5 + [(1000, 4)] * 20) == pytest.approx(250, rel=0.15)


def test_idle_time_does_not_count():
    clock = Clock()
    speed = Speed(1000, clock)
    assert speed.rate == 0
    for _ in range(5):
        speed.begin(1000)
        clock.time += 2
        speed.end()
        clock.time += 100
        speed.end()
    assert speed.rate == pytest.approx(500)
