"""`--template FILE` of the commands that run a reranker."""

import json
import sys
from dataclasses import asdict

import orjson
import pytest

from quernstone import ConfigError, PairTemplate, Reranker
from quernstone.cli.templates import read_template

TEMPLATE = PairTemplate(
    prefix="<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n",
    suffix="<|im_end|>\n<|im_start|>assistant\n",
    positive="yes",
    temperature=5.0,
    strip=True,
)
TOML = """
prefix = '''
<|im_start|>system
{query}<|im_end|>
<|im_start|>user
'''
suffix = "<|im_end|>\\n<|im_start|>assistant\\n"
positive = "yes"
temperature = 5.0
strip = true
"""
DOCUMENTS = ["a hand mill", "rain", "bread of grain"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "zerank.json"
    path.write_text(json.dumps(asdict(TEMPLATE)))
    return path


def test_a_file_holds_the_fields_of_a_template(file, tmp_path):
    assert read_template(str(file)) == TEMPLATE
    path = tmp_path / "zerank.toml"
    path.write_text(TOML)
    if sys.version_info < (3, 11):
        with pytest.raises(ConfigError, match=r"TOML needs Python 3\.11"):
            read_template(str(path))
    else:
        assert read_template(str(path)) == TEMPLATE
    assert [read_template(name) for name in (None, "card", "eval")] == [None, "card", "eval"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", r"t\.json: not valid json: "),
        ("t.json", "[1]", "expected an object with fields, not a list"),
        ("t.json", "{}", "`prefix` is missing; the fields are prefix, suffix, positive, negative,"),
        ("t.json", '{"prefix": "{query}", "postfix": ""}', "unknown field `postfix`; the fields"),
        ("t.json", '{"prefix": "query"}', r"t\.json: `prefix` of a template needs `\{query\}` on"),
        ("t.json", '{"prefix": "{query}", "temperature": "5"}', "`temperature` of .* is '5', exp"),
        (
            "t.json",
            '{"prefix": "{query}", "positive": 9693}',
            "`positive` of .* is 9693, expected a s",
        ),
        ("t.json", '{"prefix": "{query}", "strip": 1}', "`strip` .* is 1; use True or False"),
        ("t.json", None, "cannot be read: .*No such file"),
        ("t.txt", "x", r"unknown template .*t\.txt'; use 'card' or 'eval', or a \.json or"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_template(str(tmp_path / name))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the standard library has no TOML")
def test_damaged_toml_is_refused_by_name(tmp_path):
    (tmp_path / "t.toml").write_text("prefix = {")
    with pytest.raises(ConfigError, match=r"t\.toml: not valid toml: "):
        read_template(str(tmp_path / "t.toml"))


def test_rerank(quern, file):
    found = quern("rerank", "-", "-q", "mills", "-m", "tiny", "--dtype", "float32", "--template",
                  file, stdin="\n".join(DOCUMENTS))  # fmt: skip
    with Reranker("tiny", dtype="float32", template=TEMPLATE) as reranker:
        expected = [(each.index, each.score) for each in reranker.rerank("mills", DOCUMENTS)]
    results = orjson.loads(found.stdout)["results"]
    assert [(each["index"], each["score"]) for each in results] == expected


def test_bench(quern, file, monkeypatch):
    class Measured(Exception):
        pass

    def opened(*_, **settings):
        raise Measured(settings["template"])

    monkeypatch.setattr("quernstone.bench.measurement._opened", opened)
    found = quern("bench", "tiny", "--task", "rerank", "--template", file)
    assert isinstance(found.exception, Measured)
    assert found.exception.args == (TEMPLATE,)
    refused = quern("bench", "tiny", "--task", "embed", "--template", file)
    assert refused.exit_code == 2
    assert "--template is for rerankers, and the task is to embed" in refused.stderr


def test_doctor(quern, file):
    done = quern("doctor", "tiny", "--task", "rerank", "--json", "--template", file)
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["environment"]["template"] == TEMPLATE.name
    assert (checks["template"]["verdict"], report["healthy"]) == ("ok", True)
    refused = quern("doctor", "tiny", "--task", "embed", "--template", file)
    assert (refused.exit_code, "--template is for rerankers" in refused.stderr) == (2, True)
