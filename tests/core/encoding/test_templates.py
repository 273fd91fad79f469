"""Templates are checked when they are created, and rendered as they say."""

import pickle

import pytest

from quernstone import ConfigError, PairTemplate
from quernstone.encoding.prompts import render_pair
from quernstone.encoding.templates import OFFICIAL, check_template, full_template


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_templates_are_those_of_the_prompts(name):
    query, document, instruction = "q {instruction}", "d {query}", "i {query}"
    expected = render_pair(query, document, instruction, name)
    assert full_template(name).render(query, document, instruction) == expected


def test_white_space_is_removed_on_request():
    template = PairTemplate(prefix="{query}|", suffix="|", strip=True)
    assert template.render(" a b\n", "\tc ", "") == "a b|c|"


def test_templates_are_values():
    one, other = (PairTemplate(prefix="{query}: ", temperature=each) for each in (1.0, 5.0))
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.name != other.name
    assert one.name == PairTemplate(prefix="{query}: ").name
    assert len({one, other, PairTemplate(prefix="{query}: ")}) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefix": "query: "}, r"`prefix` of a template needs `\{query\}` once"),
        ({"prefix": "{query} {query}"}, r"`\{query\}` once"),
        ({"prefix": "{instruction}{query}{instruction}"}, r"`\{instruction\}` at most once"),
        ({"prefix": 3}, "`prefix` of a template is 3, expected a string"),
        ({"suffix": None}, "`suffix` of a template is None, expected a string"),
        ({"suffix": "{query}"}, "`suffix` of a template must not contain"),
        ({"instruction": "Find code"}, r"`instruction` of a template needs `\{instruction\}`"),
        ({"positive": ""}, "`positive` of a template is empty; pass one token"),
        ({"positive": "yes", "negative": ""}, "`negative` of a template is empty"),
        ({"negative": "no"}, "`negative` of a template needs `positive`"),
        ({"positive": "yes", "negative": "yes"}, "`positive` and `negative` .* both 'yes'"),
        ({"score": "tanh"}, "unknown `score` 'tanh' of a template; use 'probability' or 'logit'"),
        ({"temperature": 0}, "`temperature` of a template is 0, expected a positive number"),
        ({"temperature": float("nan")}, "`temperature` of a template is nan"),
    ],
)
def test_a_template_that_can_never_work_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PairTemplate(**{"prefix": "{query}: ", **fields})


@pytest.mark.parametrize("wrong", ["chat", 3, {"prefix": "{query}"}])
def test_an_argument_that_is_not_a_template_is_refused(wrong):
    with pytest.raises(ConfigError, match="use 'card' or 'eval', or a `PairTemplate`"):
        check_template(wrong)
