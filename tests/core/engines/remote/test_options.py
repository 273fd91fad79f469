import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from pydantic import SecretStr

from quernstone import ConfigError
from quernstone.engines.remote.options import RemoteOptions

SECRET = "sk-Zq81hunter2"


def options(**settings):
    return RemoteOptions(**{"endpoint": "http://localhost:8000", **settings})


def test_equal_options_are_equal_and_hash_alike():
    one = options(api_key=SECRET)
    assert one == options(api_key=SecretStr(SECRET), endpoint="http://localhost:8000/")
    assert hash(one) == hash(options(api_key=SECRET))
    assert one != options(api_key="another")


def test_a_password_leaves_the_address_and_is_kept():
    made = options(endpoint="https://reader:p%40ss@host:9/v1/")
    assert made.endpoint == "https://host:9/v1"
    assert made.basic_auth.get_secret_value() == "reader:p@ss"
    assert replace(made, timeout=5).basic_auth == made.basic_auth


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
def test_nothing_secret_is_shown(show):
    made = options(endpoint=f"https://reader:{SECRET}@host")
    assert SECRET not in show(made)
    assert "reader" not in show(made)
    assert SECRET not in show(options(api_key=SECRET))


def test_a_pickle_brings_the_key_along_for_another_process():
    made = options(api_key=SECRET, dialect="vllm", rendered_by="client")
    copy = pickle.loads(pickle.dumps(made))
    assert copy == made
    assert copy.api_key.get_secret_value() == SECRET


def test_a_mapping_becomes_options():
    made = RemoteOptions.of({"endpoint": "http://h", "dialect": "tei", "max_inputs": 8})
    assert made == RemoteOptions(endpoint="http://h", dialect="tei", max_inputs=8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": "http://h", "api_token": "x"}, "has no option api_token; it has endpoint"),
        ({}, "needs the address of a server"),
        ({"endpoint": 8000}, "`endpoint` is int"),
        ({"endpoint": "localhost:8000"}, "not the address of a server"),
        ({"endpoint": "http://h:99999"}, "not the address of a server"),
        ({"endpoint": "http://"}, "not the address of a server"),
        ({"endpoint": "http://gpu box"}, "not the address of a server"),
        ({"endpoint": "http://gpu\x00box"}, "not the address of a server"),
        ({"endpoint": "http://h/?key=1"}, "has a query or a fragment"),
        (
            {"endpoint": "http://h", "dialect": "grpc"},
            "unknown dialect 'grpc'; use openai, quernstone",
        ),
        (
            {"endpoint": "http://h", "rendered_by": "both"},
            "unknown rendered_by 'both'; use client",
        ),
        ({"endpoint": "http://h", "timeout": 0}, "`timeout` is 0; it must be a number"),
        ({"endpoint": "http://h", "timeout": "5"}, "`timeout` is '5'"),
        ({"endpoint": "http://h", "max_inputs": 1.5}, "`max_inputs` is 1.5"),
        ({"endpoint": "http://h", "max_concurrency": True}, "`max_concurrency` is True"),
        ({"endpoint": "http://h", "max_retries": -1}, "`max_retries` is -1"),
        ({"endpoint": "http://h", "api_key": 5}, "`api_key` is int"),
        ({"endpoint": "http://u:p@h", "api_key": "k"}, "both a key and a user"),
        ({"endpoint": "http://u:p@h", "basic_auth": "u:p"}, "given twice"),
    ],
)
def test_what_can_never_work_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RemoteOptions.of(values)


@pytest.mark.parametrize(
    "values",
    [
        {"endpoint": f"ftp://reader:{SECRET}@host"},
        {"endpoint": f"https://host/?key={SECRET}"},
        {"endpoint": f"https://reader:{SECRET}@host:port"},
        {"endpoint": "https://host", "api_key": f"{SECRET}\nX-Header: 1"},
        {"endpoint": "https://host", "api_key": f"{SECRET}é"},
        {"endpoint": f"https://u:{SECRET}@host", "api_key": SECRET},
    ],
)
def test_a_refusal_does_not_quote_what_is_secret(values):
    with pytest.raises(ConfigError) as caught:
        RemoteOptions.of(values)
    assert SECRET not in str(caught.value)
    assert "reader" not in str(caught.value)


def test_white_space_around_a_key_is_a_slip():
    assert options(api_key=f" {SECRET}\n").api_key.get_secret_value() == SECRET


def test_the_old_names_of_options_still_work_and_warn():
    renamed = {"rendered_by": "client", "request_bytes": 9}
    with pytest.warns(DeprecationWarning, match="`template` of `RemoteOptions` is deprecated"):
        old = options(template="client", max_request_bytes=9)
    assert old == options(**renamed)
    with pytest.warns(DeprecationWarning, match="use `request_bytes`"):
        assert RemoteOptions.of({"endpoint": "http://h", "max_request_bytes": 9}).request_bytes == 9
    with pytest.warns(DeprecationWarning, match="use `re"):
        assert (old.template, old.max_request_bytes) == ("client", 9)
    with pytest.warns(DeprecationWarning, match="use `rendered_by`"):
        assert replace(options(rendered_by="server"), template="client").rendered_by == "client"


def test_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        options().timeout = 5
