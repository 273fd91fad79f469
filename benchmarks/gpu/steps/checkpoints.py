"""Random checkpoints in the official layout of the 0.6B models, for the steps that load a model."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.checkpoints import Layout, random_checkpoint

from benchmarks.adapters import CHAT_TEMPLATE
from benchmarks.gpu.run import Run

_LAYOUTS: tuple[Layout, ...] = ("embedding-0.6b", "reranker-0.6b")


def run(run: Run) -> None:
    """Write the checkpoints; one layer of an eighth of the width in a dry run."""
    shape = {"layers": 2, "width": 8} if run.settings.dry_run else {}
    for layout in _LAYOUTS:
        with run.part(layout):
            start = time.perf_counter()
            task = layout.partition("-")[0]
            folder = random_checkpoint(Path(run.checkpoint(task)), layout, **shape)  # type: ignore[arg-type]
            if task == "reranker":  # for sentence-transformers, which has no prompt of its own
                (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
            run.figure(layout, seconds=time.perf_counter() - start)
