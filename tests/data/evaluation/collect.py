"""Collect the small data sets of the evaluation tests. See README.md beside this file.

usage: collect.py --debian FOLDER_WITH_TRANSLATION_FILES --wordnet FOLDER_WITH_DATA_FILES
"""

import argparse
import gzip
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = 200
PER_DOMAIN = 60
# numbers of WordNet's lexicographer files, from its lexnames(5WN)
DOMAINS = {
    "05": "noun.animal",
    "06": "noun.artifact",
    "08": "noun.body",
    "13": "noun.food",
    "18": "noun.person",
    "20": "noun.plant",
    "30": "verb.change",
    "32": "verb.communication",
    "38": "verb.motion",
}


def descriptions(folder: Path, language: str) -> Iterator[tuple[str, str, str, str]]:
    """(package, md5 of the English text, synopsis, long description)."""
    for path in sorted(folder.glob(f"*_main_i18n_Translation-{language}*")):
        command = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
        text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        for block in text.split("\n\n"):
            found = re.search(
                r"^Package: (.*)\nDescription-md5: (.*)\nDescription-\w+: (.*)\n((?: .*\n?)*)",
                block,
                re.MULTILINE,
            )
            if found:
                body = re.sub(r"^ \.$", "", found[4], flags=re.MULTILINE)
                yield found[1], found[2], found[3].strip(), re.sub(r"\n ", "\n", body).strip()


def debian(folder: Path) -> list[dict[str, str]]:
    """Packages that are described in English and in Chinese, no two of them alike."""
    chinese = {md5: (short, long) for _, md5, short, long in descriptions(folder, "zh")}
    rows, seen = [], set()
    for package, md5, short, long in descriptions(folder, "en"):
        in_chinese = chinese.get(md5)
        if in_chinese is None or not 100 < len(long) < 1500 or len(in_chinese[1]) < 40:
            continue
        texts = {short.casefold(), long.casefold(), *in_chinese}
        if not texts & seen:
            seen |= texts
            rows.append(
                {
                    "package": package,
                    "en": short,
                    "en_long": long,
                    "zh": in_chinese[0],
                    "zh_long": in_chinese[1],
                }
            )
    return random.Random(6).sample(rows, PACKAGES)


def wordnet(folder: Path) -> list[dict[str, str]]:
    """Synsets with an example sentence, equally many of each domain."""
    found: dict[str, list[dict[str, str]]] = {domain: [] for domain in DOMAINS.values()}
    for part in ("noun", "verb"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            domain = DOMAINS.get(words[1]) if not line.startswith(" ") else None
            quoted = re.findall(r'"([^"]{12,})"', gloss)
            meaning = gloss.split('; "')[0].strip()
            word = words[4].replace("_", " ") if domain else ""
            if domain and quoted and len(meaning) > 20 and word in quoted[0]:
                found[domain].append(
                    {"word": word, "domain": domain, "gloss": meaning, "example": quoted[0]}
                )
    chosen = random.Random(6)
    return [
        row for rows in found.values() for row in chosen.sample(rows, min(PER_DOMAIN, len(rows)))
    ]


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    given = parser.parse_args()
    for name, rows in {"debian": debian(given.debian), "wordnet": wordnet(given.wordnet)}.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # no time in the header, so that equal content is equal bytes
        (HERE / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
