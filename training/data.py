"""Collect (query, document) pairs for the tiny models and cut off the held-out set.

Three sources: Debian package descriptions (synopsis -> long description), WordNet (a question about
a word -> its definition) and the Python docstrings of the running interpreter and its packages
(first sentence, often as a question -> rest).

usage: data.py WORK --debian FOLDER_WITH_TRANSLATION_FILES --wordnet FOLDER_WITH_DATA_FILES
Writes WORK/pairs.jsonl (`source`, `query`, `document`) and tests/data/tiny_heldout.jsonl.gz.
"""

import argparse
import ast
import gzip
import json
import random
import re
import subprocess
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np

from common import HELDOUT, SEED, write_jsonl

HELDOUT_ROWS = 3000
HELDOUT_CHARACTERS = 1200
NEAR_DUPLICATE = 0.5  # Jaccard similarity of the word 4-gram sets
MOST_GLOSSES = 36_000
MOST_DOCSTRINGS = 20_000
WORD_QUESTIONS = (
    "{}",
    "what is {}",
    "what does {} mean?",
    "What is {}?",
    "definition of {}",
    "meaning of {}",
    "{} explained",
)
HOW_QUESTIONS = (
    "{}",
    "{}",
    "how to {}",
    "How do I {}?",
    "How can I {}?",
    "what can {}",
    "I want to {}",
)


def debian(folder: Path) -> Iterator[tuple[str, str]]:
    """Synopsis and long description of every package in apt's `Translation-en` lists."""
    for path in sorted(folder.glob("*Translation-en*")):
        command = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
        text = subprocess.run(command, capture_output=True, check=True).stdout.decode(
            "utf-8", "replace"
        )
        for block in text.split("\n\n"):
            found = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", block, re.MULTILINE)
            if found:
                body = re.sub(r"^ \.$", "", found[2], flags=re.MULTILINE)
                long = re.sub(r"\n ", "\n", body).strip()
                if len(long) > 80:
                    yield found[1].strip(), long


def plain(text: str) -> str:
    """Lower-case words only: what two texts are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))


def near_duplicates(texts: list[str]) -> list[int]:
    """A group number per text; texts in one group are equal or near-equal (transitively).

    Candidates share one of 16 bands of two min-hashes of their word 4-grams, and are then compared
    exactly.
    """
    generator = np.random.default_rng(SEED)
    factors = generator.integers(1, 2**61, size=32, dtype=np.uint64) | np.uint64(1)
    shingles: list[set[int]] = []
    buckets: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        words = text.split()
        grams = {crc32(" ".join(words[i : i + 4]).encode()) for i in range(max(1, len(words) - 3))}
        shingles.append(grams)
        hashes = np.fromiter(grams, np.uint64)[:, None] * factors
        smallest = (hashes ^ (hashes >> np.uint64(31))).min(axis=0)
        for band in range(16):
            buckets[band, int(smallest[2 * band]), int(smallest[2 * band + 1])].append(index)
    group = list(range(len(texts)))

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for members in buckets.values():
        for other in members[1:]:
            first = members[0]
            a, b = shingles[first], shingles[other]
            if root(first) != root(other) and len(a & b) >= NEAR_DUPLICATE * len(a | b):
                group[root(other)] = root(first)
    return [root(index) for index in range(len(texts))]


def split_heldout(
    rows: list[tuple[str, str]],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training and held-out rows that share no synopsis and no (near-)equal long description."""
    rows = sorted(set(rows))
    random.Random(SEED).shuffle(rows)
    seen: set[str] = set()
    unique = []
    for synopsis, long in rows:
        keys = {"synopsis " + plain(synopsis), "long " + plain(long)}
        if not keys & seen:
            seen |= keys
            unique.append((synopsis, long))
    heldout = unique[:HELDOUT_ROWS]
    groups = near_duplicates([plain(long)[:HELDOUT_CHARACTERS] for _, long in unique])
    closed = set(groups[:HELDOUT_ROWS])
    rest = range(HELDOUT_ROWS, len(unique))
    training = [unique[i] for i in rest if groups[i] not in closed]
    print(
        f"{len(unique)} descriptions, {len(training)} for training, "
        f"{len(rest) - len(training)} too near the held-out ones"
    )
    return training, heldout


def wordnet(folder: Path, choose: random.Random) -> Iterator[tuple[str, str]]:
    """A question about a synset's word; its definition with examples and sometimes the words."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            fields, gloss = line.split(" | ", 1)
            parts = fields.split()
            words = [
                w.split("(")[0].replace("_", " ") for w in parts[4 : 4 + 2 * int(parts[3], 16) : 2]
            ]
            word = choose.choice(words)
            question = choose.choice(WORD_QUESTIONS).format(word) if part == "noun" else word
            others = [w for w in words if w != word] if choose.random() < 0.5 else words
            heading = ", ".join(others) + ": " if others and choose.random() < 0.7 else ""
            yield question, heading + gloss.replace('"', "").strip()


def docstrings(choose: random.Random) -> Iterator[tuple[str, str]]:
    """First sentence and rest of the docstrings of the standard library and installed packages."""
    for root in {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}:
        for path in sorted(Path(root).rglob("*.py")):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                    text = ast.get_docstring(node) or ""
                    found = re.match(r"(.{20,160}?)(?:\.\s|\n\n)\s*(.{60,})", text, re.DOTALL)
                    if found and found[1].isascii():
                        first = " ".join(found[1].split()).rstrip(".")
                        verb = re.sub(r"^(\w+[^s])s (?=the |a |an )", r"\1 ", first)
                        plain_verb = verb[0].lower() + verb[1:]
                        yield (
                            choose.choice(HOW_QUESTIONS).format(plain_verb),
                            found[2][:1200].strip(),
                        )


def main() -> None:
    """Collect, split, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    arguments = parser.parse_args()
    choose = random.Random(SEED)
    training, heldout = split_heldout(list(debian(arguments.debian)))
    pairs = [("debian", *row) for row in training]
    glosses = list(wordnet(arguments.wordnet, choose))
    pairs += [("wordnet", *row) for row in choose.sample(glosses, MOST_GLOSSES)]
    documented = sorted(set(docstrings(choose)))
    pairs += [
        ("docstring", *row)
        for row in choose.sample(documented, min(len(documented), MOST_DOCSTRINGS))
    ]
    closed = {plain(text) for row in heldout for text in row}
    seen: set[tuple[str, str]] = set()
    rows = []
    for source, query, document in pairs:
        key = (plain(query), plain(document))
        if key not in seen and not closed & set(key):
            seen.add(key)
            rows.append({"source": source, "query": query, "document": document})
    random.Random(SEED).shuffle(rows)
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_jsonl(arguments.work / "pairs.jsonl", rows)
    HELDOUT.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"query": q, "document": d[:HELDOUT_CHARACTERS]}, ensure_ascii=False) + "\n"
        for q, d in heldout
    ]
    HELDOUT.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    for source in ("debian", "wordnet", "docstring"):
        print(source, sum(row["source"] == source for row in rows), "pairs")


if __name__ == "__main__":
    main()
