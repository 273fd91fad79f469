"""Quernstone and other libraries doing the same work, each in its own process."""

from __future__ import annotations

import ctypes.util
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from tests.support.checkpoints import Layout, random_checkpoint

from benchmarks.child import Child
from benchmarks.timing import Result, Side, TimedSide, compare

_ROOT = Path(__file__).parent.parent
_VLLM_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # otherwise it reserves one core for its scheduler
}
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}  # our own progress bar is enough

# vLLM's worker polls for work without sleeping for a second after its last.
_PAUSE_SECONDS = 1.5

Kind = Literal["Embedding", "Reranking"]
Call = tuple[Any, ...]
"""A method of a side, and its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The setup shared by all sides of all comparisons."""

    folder: Path
    """Folder of the checkpoints."""
    shape: str
    """`0.6b`, `4b` or `8b`."""
    layers: int
    dtype: str
    device: str
    repeats: int
    pooling: Literal["last token", "mean"] = "last token"
    """`mean`: attention in both directions and mean pooling, instead of those of Qwen3."""

    def layout(self, kind: Kind) -> Layout:
        """Return the official layout of this shape."""
        return f"{'embedding' if kind == 'Embedding' else 'reranker'}-{self.shape}"  # type: ignore[return-value]

    def checkpoint(self, kind: Kind) -> Path:
        """Return a random checkpoint of this shape, creating it if necessary."""
        layout = self.layout(kind)
        suffix = "-mean" if self.pooling == "mean" else ""
        folder = self.folder / f"{layout}-{self.layers}-layers{suffix}"
        random_checkpoint(folder, layout, layers=self.layers)
        if self.pooling == "mean":
            _pool_all_tokens(folder)
        return folder.absolute()

    def __str__(self) -> str:
        model = f"{self.shape.upper()} shape" + (", mean pooling" * (self.pooling == "mean"))
        return f"{model}, {self.layers} layers, {self.dtype}, {self.device}"


def _pool_all_tokens(folder: Path) -> None:
    """Change a checkpoint to bidirectional attention and mean pooling."""
    modes = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    for name, fields in (("config.json", {"is_causal": False}), ("1_Pooling/config.json", modes)):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}, indent=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A side, by the name of its module in `benchmarks.sides`."""

    name: str
    module: str
    tuned: bool = False
    """True if it searches for its best settings before it is measured."""
    venv: str = ""
    """`x` if it is installed in `.venv-x` by `make install-x`."""

    @property
    def python(self) -> Path:
        """Python executable of its process; it may not exist."""
        return _ROOT / f".venv-{self.venv}" / "bin/python" if self.venv else Path(sys.executable)

    def start(self, kind: Kind, setup: Setup, model: str = "", **settings: Any) -> Child:
        """Load a model, by default the random checkpoint, in a new process.

        Args:
            kind: The task of the model.
            setup: Its shape, dtype and device.
            model: Model to load instead of the random checkpoint.
            settings: Further arguments of the side; they override those of `setup`.
        """
        side = f"benchmarks.sides.{self.module}:{kind}"
        settings = {
            "model": model or str(setup.checkpoint(kind)),
            "dtype": setup.dtype,
            **settings,
        }
        environment = dict(_ENVIRONMENT)
        if self is VLLM:
            environment |= _VLLM_ENVIRONMENT | {"LD_PRELOAD": _preloaded()}
        if not self.venv:  # otherwise its build decides on the device
            settings["device"] = setup.device
        return Child(side, python=self.python, environment=environment, **settings)


def _preloaded() -> str:
    """Return the installed libraries that vLLM's manual says to preload on CPUs."""
    openmp = VLLM.python.parent.parent / "lib" / "libiomp5.so"
    malloc = ctypes.util.find_library("tcmalloc_minimal")
    return ":".join(filter(None, [str(openmp) if openmp.exists() else None, malloc]))


OURS = Contender(name="quernstone", module="ours")
ST = Contender(name="sentence-transformers, defaults", module="sentence_transformers")
ST_BEST = Contender(
    name="sentence-transformers, best batch size", module="sentence_transformers", tuned=True
)
CARD = Contender(name="the model card's recipe", module="card")
VLLM = Contender(name="vLLM", module="vllm", venv="vllm")
LLAMA_CPP = Contender(name="llama.cpp", module="llama_cpp", venv="llama")


def contest(
    kind: Kind,
    setup: Setup,
    expected: Mapping[Contender, float],
    *,
    title: str,
    call: Callable[[int], Call],
    trial: Call,
    difference: Callable[[Any, Any], str],
    tokens: int,
    floor_tokens: int,
    sequences: int,
) -> Result:
    """Run the same work with each library in turn, and measure the machine's matrix rate.

    Args:
        kind: The task of the models.
        setup: Shape, device and so on.
        expected: The other libraries, and how many times as long as ours each should take.
        title: Title of the result.
        call: Returns the work of the n-th run, the same for all sides.
        trial: A smaller call, to warm up and to compare results.
        difference: Describes how far a result of `trial` is from ours.
        tokens: Tokens per run, for all sides.
        floor_tokens: Tokens that every implementation must compute.
        sequences: Number of tokens that the last layer must compute.
    """
    notes: list[str] = []
    sides: list[Side] = []
    with ExitStack() as stack:

        def join(one: Contender, child: Child) -> None:
            runs = itertools.count()
            sides.append(
                TimedSide(one.name, lambda: child.run(*call(next(runs))), expected.get(one))
            )

        ours = stack.enter_context(OURS.start(kind, setup))
        right = ours.get(*trial)
        join(OURS, ours)
        for one in expected:
            if not one.python.exists():
                makes = f"`make install-{one.venv}` makes it"
                notes.append(f"{one.name} is left out: no {one.python}; {makes}")
                continue
            child = stack.enter_context(one.start(kind, setup))
            note = f"{one.name}: {difference(right, child.get(*trial))}"
            if one.tuned:
                note += f"; takes {child.get('tune', *call(0))} at once"
            if one.venv:
                note += f"; version {child.get('version')}"
            notes.append(note)
            join(one, child)
        machine = stack.enter_context(
            Child(
                "benchmarks.sides.matrices:Floor",
                model=str(setup.checkpoint(kind)),
                dtype=setup.dtype,
                device=setup.device,
            )
        )
        ratios = ", ".join(f"{side.name} {side.expected:g}" for side in sides if side.expected)
        Console().print(f"{title}, {setup}: expected times ours: {ratios}")
        floor = TimedSide("floor", lambda: machine.get("seconds", floor_tokens, sequences))
        return compare(
            f"{title}, {setup}",
            sides,
            unit="tokens",
            amount=tokens,
            repeats=setup.repeats,
            notes=notes,
            floor=floor,
            pause=_PAUSE_SECONDS,
        )
