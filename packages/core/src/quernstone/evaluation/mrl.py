"""Scores at several dimensions, from one embedding pass."""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import mteb
import numpy as np
from mteb.abstasks import AbsTask

from quernstone import Embedder
from quernstone.embedder import MIN_DIMENSIONS
from quernstone.errors import ConfigError
from quernstone.evaluation.adapters import Encoder
from quernstone.evaluation.folder import RunFolder, read_json, write_json
from quernstone.evaluation.protocol import Protocol
from quernstone.evaluation.run import ENCODE, settings_of
from quernstone.types import Float32Array, unit_prefix

RESULTS = "mrl.json"

logger = logging.getLogger("quernstone")

Curves = dict[str, dict[int, float]]
"""Main scores times 100: task -> dimensions -> score."""


class CuttingEncoder(Encoder):
    """Encoder that keeps vectors on disk, so that texts are embedded once and cut to any length.

    After an interruption the vectors are still there.
    """

    dimensions: int

    def __init__(
        self, embedder: Embedder, protocol: Protocol, folder: Path, *, progress: bool = False
    ) -> None:
        super().__init__(embedder, protocol, progress=progress)
        self._folder = folder
        self.dimensions = embedder.dimensions

    def embed(self, texts: Sequence[str], instruction: str) -> Float32Array:
        """Return unit vectors. Shape: (len(texts), dimensions)."""
        digest = hashlib.sha256(instruction.encode())
        for text in texts:
            digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
        file = self._folder / f"{digest.hexdigest()}.npy"
        if not file.exists():
            part = file.with_suffix(".part.npy")
            np.save(part, super().embed(texts, instruction))
            part.replace(file)
        # a cut unit vector has the same direction as the cut vector
        return unit_prefix(np.load(file, mmap_mode="r"), self.dimensions)


def measure_dimensions(
    embedder: Embedder,
    tasks: Sequence[AbsTask],
    output: Path,
    protocol: Protocol,
    *,
    dimensions: Sequence[int] = (),
    on_start: Callable[[AbsTask], None] = lambda task: None,  # noqa: ARG005
    on_task: Callable[[str, dict[int, float], str], None] = lambda *_: None,
    progress: bool = False,
) -> Curves:
    """Run tasks with vectors of several lengths; finished tasks are skipped.

    A task that fails is reported, and the next one runs.

    Args:
        embedder: The model, with all its dimensions.
        tasks: Tasks to run.
        output: The folder of this measurement, for `mrl.json`.
        protocol: The rules.
        dimensions: Lengths of the vectors; empty for 32, 64, ... and the model's own.
        on_start: Called before each task that has no scores yet.
        on_task: Called with each task's name and scores, and the error if it failed.
        progress: Show the progress of each long call of the model.

    Returns:
        The scores of all tasks that did not fail.

    Raises:
        ConfigError: A length exceeds the model's, or the folder belongs to another model.
    """
    wanted = sorted(set(dimensions)) or powers(embedder.dimensions)
    wrong = [one for one in wanted if not 1 <= one <= embedder.dimensions]
    if wrong:
        raise ConfigError(f"dimensions {wrong}: this model gives up to {embedder.dimensions}")
    kept, vectors = output / RESULTS, output / ".vectors"
    with RunFolder(output, {**settings_of(embedder, protocol), "measured": wanted}) as folder:
        curves: Curves = {
            task: {int(one): score for one, score in line.items()}
            for task, line in (read_json(kept) if kept.exists() else {}).items()
        }
        for task in tasks:
            folder.add_task(task)
            name, error = task.metadata.name, ""
            if name not in curves:
                on_start(task)
                vectors.mkdir(exist_ok=True)
                encoder = CuttingEncoder(embedder, protocol, vectors, progress=progress)
                try:
                    curves[name] = {one: _score(encoder, task, one) for one in reversed(wanted)}
                except Exception as failure:
                    logger.debug("task %s failed", name, exc_info=True)
                    error = f"{type(failure).__name__}: {failure}"
                else:
                    shutil.rmtree(vectors)
                    write_json(kept, {one: _text_keys(line) for one, line in curves.items()})
            on_task(name, curves.get(name, {}), error)
    names = [task.metadata.name for task in tasks]
    return {name: curves[name] for name in names if name in curves}


def _text_keys(line: dict[int, float]) -> dict[str, float]:
    return {str(length): score for length, score in line.items()}


def powers(largest: int) -> list[int]:
    """Return 32, 64, ... and the largest."""
    found = [MIN_DIMENSIONS]
    while found[-1] * 2 < largest:
        found.append(found[-1] * 2)
    return [*(one for one in found if one < largest), largest]


def _score(encoder: CuttingEncoder, task: AbsTask, dimensions: int) -> float:
    encoder.dimensions = dimensions
    # reset the random generators, so that every length uses the same samples
    task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)
    if not task.data_loaded:
        task.load_data()
    result = mteb.evaluate(
        encoder,
        task,
        cache=None,
        encode_kwargs=ENCODE,
        co2_tracker=False,
        show_progress_bar=False,
    )
    return 100 * float(result.task_results[0].get_score())
