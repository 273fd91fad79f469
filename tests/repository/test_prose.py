"""Our English: phrases that our style avoids, in docstrings, comments and messages."""

import re
from pathlib import Path

import pytest
from tests.support.prose import Passage, passages

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages/*/src", "benchmarks", "examples", "training", "tests/support")

AVOIDED = {
    "is no NOUN": r"(?<!there )\b(?:is|are) no (?!longer\b)[a-z]+",  # "there is no file" is fine
    "nobody, somebody, whoever": r"\b(?:nobody|somebody|whoever)\b",
    "anew": r"\banew\b",
    "goes on": r"\b(?:goes|go|went|gone) on\b",
    "tells of": r"\b(?:tells?|told|telling) of\b",
    "is told": r"\b(?:is|are|was|were|be) told\b",
    "in its turn": r"\bin (?:its|their) turns?\b",
    "of what is": r"\bof what is\b",
    "other than that": r"\bother than that\b",
    "sentence-final too": r", too(?:[.;:!?)]|$)",
    "behind, in front of": r"\bbehind\b|\bin front of\b",
    "made for created": r"\bmade\b",
    "some for a number": r"\bsome \d",
    "at a time, twice": r"\bat a time\b[^.]*\bat a time\b",
    "that are there": r"\bthat (?:is|are) there\b",
}
FIRST_WORDS = re.compile(r"(?:What|Whether|Of|The same)\b")

ALLOWED: dict[str, str] = {
    "How is bread made?": "a text that the doctor embeds",
    "Bread is made from flour": "a text that the doctor embeds",
}
"""Part of a passage that may hold an avoided phrase -> the reason; at most ten."""


def hits(passage: Passage) -> list[str]:
    """Return the rules that a passage breaks."""
    found = [
        rule for rule, pattern in AVOIDED.items() if re.search(pattern, passage.text, re.IGNORECASE)
    ]
    if passage.is_docstring and FIRST_WORDS.match(passage.text):
        found.append("first word")
    return found


def test_english():
    found = [
        f"{passage.path.relative_to(ROOT)}:{passage.line}: {rule}: {passage.text}"
        for folder in FOLDERS
        for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
        for passage in passages(path)
        for rule in hits(passage)
        if not any(part in passage.text for part in ALLOWED)
    ]
    assert not found, "\n".join(found)


def test_exceptions_are_few_and_used():
    texts = [
        passage.text
        for path in ROOT.glob("packages/*/src/**/*.py")
        for passage in passages(path)
        if hits(passage)
    ]
    assert len(ALLOWED) <= 10
    assert all(any(part in text for text in texts) for part in ALLOWED)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("It is no model folder.", "is no NOUN"),
        ("It is no longer used.", None),
        ("There is no such file.", None),
        ("Nobody reads it.", "nobody, somebody, whoever"),
        ("Write it\n    anew.", "anew"),
        ("The load goes\n    on.", "goes on"),
        ("Fast, too.", "sentence-final too"),
        ("Too fast, too often.", None),
        ("A token behind the text.", "behind, in front of"),
        ("Some 300 texts.", "some for a number"),
        ("Two at a time, or four at a time.", "at a time, twice"),
        ("Two at a time.", None),
        ("Whether it fits.", "first word"),
        ("Offline use.", None),
    ],
)
def test_the_rules_find_what_they_name(tmp_path, text, rule):
    (tmp_path / "module.py").write_text(f'"""{text}"""\n')
    [passage] = passages(tmp_path / "module.py")
    assert hits(passage) == ([rule] if rule else [])


def test_comments_and_messages_are_read(tmp_path):
    (tmp_path / "module.py").write_text(
        'x = 1  # nobody\n# a comment that\n# goes on\nraise ValueError(f"{x} is no number")\n'
    )
    found = [rule for passage in passages(tmp_path / "module.py") for rule in hits(passage)]
    assert sorted(found) == ["goes on", "is no NOUN", "nobody, somebody, whoever"]
