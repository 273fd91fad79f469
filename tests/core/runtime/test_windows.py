"""Windows are bounded by the number of inputs and by their text."""

import pytest

from quernstone.runtime import windows
from quernstone.runtime.windows import awindows, text_size


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_INPUTS", 3)
    monkeypatch.setattr(windows, "_WINDOW_CHARS", 10)


async def asynchronous(inputs):
    for value in inputs:
        yield value


CASES = [
    ([], []),
    (list("abcdefg"), [(0, ["a", "b", "c"]), (3, ["d", "e", "f"]), (6, ["g"])]),
    (["a", "b" * 9, "c"], [(0, ["a", "b" * 9]), (2, ["c"])]),
    (["a" * 99, "b"], [(0, ["a" * 99]), (1, ["b"])]),
]


@pytest.mark.parametrize(("inputs", "expected"), CASES)
async def test_windows_are_bounded_and_keep_the_order(inputs, expected):
    assert list(windows.windows(iter(inputs))) == expected
    assert [window async for window in awindows(inputs)] == expected
    assert [window async for window in awindows(asynchronous(inputs))] == expected


def test_inputs_are_read_one_window_ahead():
    read = []
    stream = windows.windows(read.append(n) or str(n) for n in range(9))
    next(stream)
    assert read == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "size"), [("four", 4), (("ab", "c", "def"), 6), (("ab", None, "c"), 3), (7, 0)]
)
def test_wrong_types_have_no_size(value, size):
    assert text_size(value) == size
