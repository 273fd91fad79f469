"""The check of a model's files."""

from __future__ import annotations

from typing import Any

from quernstone.doctor.report import Outcome, ok, skipped
from quernstone.doctor.subject import Check, Subject
from quernstone.embedder import Embedder


def _model_files(subject: Subject[Any]) -> Outcome:
    checkpoint = subject.checkpoint
    if checkpoint is None:
        return skipped("a server does not show its files")
    kind = f"{len(checkpoint.raw_config)} fields of config.json ({checkpoint.architecture})"
    if checkpoint.differences:
        listed = "; ".join(map(str, checkpoint.differences))
        return ok(f"{kind}; {subject.user.info.engine} runs the model because {listed}")
    if checkpoint.family is not None and isinstance(subject.user, Embedder):
        kind += f", prompts {checkpoint.prompts.query!r} and {checkpoint.prompts.document!r}, "
        kind += f"first token {checkpoint.first_token!r}, " if checkpoint.first_token else ""
        kind += f"final token {checkpoint.final_token!r}"
    if checkpoint.family is not None and not checkpoint.is_qwen3:
        return ok(f"{kind}; {subject.user.info.engine} computes all that they say")
    if checkpoint.is_qwen3:
        return ok(f"{kind}; nothing else differs from Qwen3's own checkpoints")
    return ok(f"{kind}; our engine has no such decoder, so {subject.user.info.engine} reads them")


MODEL_FILES: Check[Any] = Check("model files", "fields that change the model", _model_files)
