"""Instructions of tasks, from the bundled table or from a file in the official format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from quernstone.checkpoints.files import pointer_fault
from quernstone.errors import ConfigError
from quernstone.evaluation.benchmarks import nearest

OWN_TABLE = Path(__file__).parent / "data" / "instructions.json"

_SIDES = ("query", "passage", "document")

IGNORED_KEYS = frozenset(
    {"default", "MmarcoReranking", "CMedQAv1", "CMedQAv2", "PawsX", "8TagsClustering"}
)
"""Keys of `task_prompts.json` of QwenLM/Qwen3-Embedding that are not tasks of mteb and that the
official scripts never use; any other unknown key is an error."""


@dataclass(frozen=True, slots=True)
class TaskInstruction:
    """Instruction of one task."""

    query: str
    document: str | None = None
    """Set for symmetric tasks, whose documents are embedded with an instruction as well."""


class Instructions(Mapping[str, TaskInstruction]):
    """Instructions by task name."""

    def __init__(self, table: Mapping[str, TaskInstruction], source: str = "") -> None:
        self._table = dict(table)
        self.source = source

    def __getitem__(self, name: str) -> TaskInstruction:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def digest(self) -> str:
        """Hash of the content."""
        rows = sorted((name, one.query, one.document) for name, one in self._table.items())
        return hashlib.sha256(orjson.dumps(rows)).hexdigest()[:16]

    def over(self, other: Instructions) -> Instructions:
        """Return both tables merged; this table takes precedence."""
        return Instructions({**other._table, **self._table}, f"{self.source} over {other.source}")


def own_instructions() -> Instructions:
    """Return the bundled table, for tasks of the four benchmarks without an instruction in mteb."""
    content = orjson.loads(OWN_TABLE.read_bytes())
    return Instructions(_parse(content["instructions"], OWN_TABLE), "quernstone")


def read_instructions(path: Path, known: frozenset[str]) -> Instructions:
    """Read a file in the format of the official `task_prompts.json`.

    It maps task names to an instruction or, for symmetric tasks, to an object with `query` and
    `passage` (or `document`).

    Args:
        path: The file.
        known: Valid keys: the tasks of mteb and those of the run.

    Raises:
        ConfigError: The file does not exist or is not JSON, for example because it is a Git LFS
            pointer, or a key or value is invalid.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"the instruction file `{path}` does not exist") from error
    except orjson.JSONDecodeError as error:
        fault = pointer_fault(path) or f"`{path}` is not JSON: {error}"
        raise ConfigError(fault) from error
    if not isinstance(content, dict):
        raise ConfigError(f"`{path}` contains a {type(content).__name__}, expected an object")
    unknown = [name for name in content if name not in known and name not in IGNORED_KEYS]
    if unknown:
        listed = "; ".join(f"{name!r}{nearest(name, known)}" for name in unknown[:5])
        raise ConfigError(f"`{path}`: {len(unknown)} keys are not tasks: {listed}")
    table = {name: value for name, value in content.items() if name in known}
    return Instructions(_parse(table, path), path.name)


def _parse(content: Mapping[str, Any], path: Path) -> dict[str, TaskInstruction]:
    table = {}
    for name, value in content.items():
        if isinstance(value, str):
            table[name] = TaskInstruction(value)
            continue
        sides = value if isinstance(value, dict) else {}
        unknown = set(sides) - set(_SIDES)
        document = sides.get("passage", sides.get("document"))
        texts = all(isinstance(text, str) for text in sides.values())
        if unknown or not texts or "query" not in sides or document is None:
            raise ConfigError(
                f"`{path}`: {name!r} is {value!r}; expected an instruction, or an object with "
                "`query` and `passage`"
            )
        table[name] = TaskInstruction(sides["query"], document)
    return table
