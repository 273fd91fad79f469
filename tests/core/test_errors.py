import pickle

import pytest

from quernstone import errors

EXAMPLES = [
    errors.ConfigError("no"),
    errors.MissingExtraError("torch", "torch"),
    errors.InputError(3, "bad"),
    errors.InputTooLongError(3, 9, 5),
    errors.InputTooLongError(3, 9, 5, "the query"),
    errors.ModelLoadError("no model"),
    errors.EngineError("broke"),
    errors.EngineMemoryError(None, 9, "full"),
    errors.EngineMemoryError(4, 9, "full"),
    errors.NonFiniteError(2),
    errors.NonFiniteError(2, "as http://h computes it"),
    errors.RemoteError("broke", "http://h"),
    errors.RemoteUnavailableError("answered 503", "http://h", 503),
    errors.RemoteRequestError("answered 400", "http://h", 400, 3),
    errors.RemoteAnswerError("sent nothing", "http://h", 200, 3),
    errors.ClosedError("closed"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_each_is_ours_and_the_builtin_one_would_guess():
    for error in EXAMPLES:
        assert isinstance(error, errors.QuernstoneError)
        assert isinstance(error, (ValueError, RuntimeError, ImportError))


def test_messages_name_item_numbers_and_fix():
    assert str(errors.InputTooLongError(3, 9, 5)) == (
        "input 3: the text has 9 tokens, the limit is 5; "
        "pass `truncate=True` to cut it, or raise `max_length`"
    )
    assert str(errors.MissingExtraError("torch", "torch")) == (
        '`torch` is not installed; run `pip install "quernstone[torch]"`'
    )
