"""`engine_options`: compared by value, never shown, refused where nobody reads them."""

import pickle

import pytest

from quernstone import ConfigError, Embedder, RemoteOptions, Reranker
from quernstone.engines.options import Options, freeze, read_options

NESTED = {"hf_overrides": {"rope": [1, 2], "on": True}, "quantization": "fp8"}


def test_options_are_compared_by_value():
    one, two = Options(NESTED), Options(dict(reversed(NESTED.items())))
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest == two.digest
    assert dict(one) == NESTED
    for other in ({}, {"quantization": "fp8"}, {**NESTED, "quantization": "int8"}):
        assert Options(other) != one
        assert Options(other).digest != one.digest


@pytest.mark.parametrize(("a", "b"), [(True, 1), (1, 1.0), ("1", 1), ([1], [[1]]), (None, {})])
def test_values_of_other_types_are_other_values(a, b):
    assert Options({"x": a}) != Options({"x": b})
    assert freeze((1, 2)) == freeze([1, 2])


def test_options_are_a_copy_and_pickle():
    given = {"tensor_parallel_size": 2}
    options = Options(given)
    given["tensor_parallel_size"] = 4
    assert options["tensor_parallel_size"] == 2
    assert pickle.loads(pickle.dumps(options)) == options


def test_no_value_is_shown():
    options = Options({"token": "hf_secret", "revision": "main"})
    assert repr(options) == "Options(token, revision)"
    assert "hf_secret" not in options.digest
    remote = read_options("remote", {"endpoint": "http://host", "api_key": "sk-secret"})
    assert "sk-secret" not in repr(remote)
    assert remote.api_key.get_secret_value() == "sk-secret"


def test_an_object_has_the_same_digest_wherever_it_lies():
    class Thing:
        pass

    assert Options({"x": Thing()}).digest == Options({"x": Thing()}).digest


@pytest.mark.parametrize(
    ("engine", "given", "message"),
    [
        ("torch", {"a": 1}, "the torch engine takes no `engine_options`, got a"),
        ("transformers", {"a": 1, "b": 2}, "takes no `engine_options`, got a, b"),
        ("vllm", ["a"], "`engine_options` is list, expected a mapping"),
        ("vllm", {1: 2}, "must be strings; they are"),
        ("vllm", {"x": bytearray(b"1")}, "contains a bytearray, which is not hashable"),
        ("vllm", RemoteOptions(endpoint="http://host"), "is RemoteOptions, expected a mapping"),
        ("remote", {"endpoint": "http://host", "url": 1}, "no option url"),
        ("remote", {}, "needs the address of a server"),
        ("remote", None, "needs the address of a server"),
    ],
)
def test_what_cannot_work_is_refused(engine, given, message):
    with pytest.raises(ConfigError, match=message):
        read_options(engine, given)


def test_none_and_nothing_are_the_same():
    assert read_options("torch", None) is read_options("vllm", {}) is None
    options = RemoteOptions(endpoint="http://host")
    assert read_options("remote", options) is options
    assert read_options("remote", {"endpoint": "http://host"}) == options


@pytest.mark.parametrize("core", [Embedder, Reranker])
def test_options_of_our_own_engines_are_refused_where_they_are_given(core):
    with pytest.raises(ConfigError, match="the torch engine takes no `engine_options`"):
        core("tiny", engine_options={"compile": True})


@pytest.mark.parametrize("setting", [{"device": "cpu"}, {"dtype": "float32"}])
def test_what_a_server_decides_cannot_be_set(setting):
    with pytest.raises(ConfigError, match=r'with `engine="remote"` the server decides it'):
        Embedder("m", engine="remote", engine_options={"endpoint": "http://host"}, **setting)
