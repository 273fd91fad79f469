"""Keep the Chinese pages in step with the English ones.

A translated page has the sections of its original, in the same order and on the same levels. It may
leave sections out if it links to them after the comment `<!-- only in English -->`; a section
includes those below it. Its blocks of code are those of the original: Python with an equal syntax
tree, so that comments may be translated, and anything else with the same text. `test_docs.py` runs
the original's blocks, so these need not run again. Numbers and names of code must occur in the
original as well, which finds figures and options that have changed there.
"""

import ast
import re

import pytest
from tests.support.environments import ROOT
from tests.support.pages import TRANSLATED, anchor
from tests.support.syntax import parse_text

TRANSLATIONS = pytest.mark.parametrize(
    ("page", "original"),
    TRANSLATED.items(),
    ids=[str(page.relative_to(ROOT)) for page in TRANSLATED],
)
ONLY_IN_ENGLISH = "<!-- only in English -->"
NAMES_OF_ITS_OWN = {
    "loading.md": {'encoding="gb18030"', "--encoding gb18030"},  # for readers with files in GBK
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def sections(text):
    """Return (level, anchor, blocks) of each section, without those below it."""
    found, places = [], []
    plain = BLOCK.sub(lambda block: re.sub(r"[^\n]", "`", block[0]), text)
    for heading in HEADING.finditer(plain):
        found.append((len(heading[1]), anchor(heading[2])))
        places.append(heading.start())
    ends = [*places[1:], len(text)]
    return [
        (*section, [program(*block.groups()) for block in BLOCK.finditer(text, start, end)])
        for section, start, end in zip(found, places, ends, strict=True)
    ]


def program(language, code):
    """Return a form of a block that is equal if it does the same."""
    return language, ast.dump(parse_text(code)) if language == "python" else code


def without(all_sections, names):
    """Leave out the named sections and those below them."""
    kept, below = [], None
    for level, name, blocks in all_sections:
        if below is not None and level > below:
            continue
        below = level if name in names else None
        if below is None:
            kept.append((level, name, blocks))
    return kept


def left_out(text, original):
    """Return the anchors of the original that a page lists as not translated."""
    _, _, rest = text.partition(ONLY_IN_ENGLISH)
    return set(re.findall(rf"\({re.escape(original)}#([^)]+)\)", rest))


def prose(text):
    return BLOCK.sub("", text).partition(ONLY_IN_ENGLISH)[0]


def names(text):
    return {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", prose(text))}


def numbers(text):
    without_links = re.sub(r"\]\([^)]*\)", "]", prose(text))
    return set(re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"`[^`\n]+`", "", without_links)))


@TRANSLATIONS
def test_sections_and_code_are_those_of_the_original(page, original):
    text = page.read_text()
    theirs = sections(original.read_text())
    omitted = left_out(text, f"../{original.name}")
    assert omitted <= {name for _, name, _ in theirs}
    ours = sections(text)
    expected = without(theirs, omitted)
    assert [level for level, _, _ in ours] == [level for level, _, _ in expected], [
        name for _, name, _ in expected
    ]
    for (_, name, blocks), (_, title, others) in zip(ours, expected, strict=True):
        assert blocks == others, f"the code under {name!r} differs from that under {title!r}"


@TRANSLATIONS
def test_names_and_numbers_are_those_of_the_original(page, original):
    text, theirs = page.read_text(), original.read_text()
    assert names(text) - names(theirs) == NAMES_OF_ITS_OWN.get(page.name, set())
    assert numbers(text) - numbers(theirs) == set()


@TRANSLATIONS
def test_the_languages_link_to_each_other(page, original):
    folder = "../" if page.parent != original.parent else ""
    back = "zh/" if folder else ""
    assert page.read_text().splitlines()[2] == f"[English]({folder}{original.name}) | 简体中文"
    link = f"English | [简体中文]({back}{page.name})"
    assert link in original.read_text().splitlines()[:6]


@TRANSLATIONS
def test_bold_text_ends_where_markdown_sees_it(page, original):
    """Between punctuation and a letter, `**` does not end bold text."""
    for bold in re.finditer(r"\*\*(.+?)\*\*(\w?)", prose(page.read_text())):
        assert re.match(r"\w", bold[1][-1]) or not bold[2], bold[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        ("a = 1  # 一\n", "a = 1  # one\n", True),
        ('a = "一"\n', 'a = "one"\n', False),
        ("a = 1\n", "a = 2\n", False),
    ],
)
def test_only_comments_may_differ(ours, theirs, equal):
    assert (program("python", ours) == program("python", theirs)) is equal


def test_a_section_is_left_out_with_those_below_it():
    page = "# a\n\n## b\n\n```sh\n# no heading\n```\n\n### c\n\n## d\n"
    assert without(sections(page), {"b"}) == [(1, "a", []), (2, "d", [])]
    assert [name for _, name, _ in without(sections(page), {"c"})] == ["a", "b", "d"]
