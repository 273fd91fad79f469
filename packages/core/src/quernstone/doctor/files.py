"""The check of a model's files."""

from __future__ import annotations

from typing import Any

from quernstone.doctor.report import Outcome, ok, skipped
from quernstone.doctor.subject import Check, Subject
from quernstone.embedder import Embedder
from quernstone.engines import explain_choice


def _model_files(subject: Subject[Any]) -> Outcome:
    checkpoint = subject.checkpoint
    if checkpoint is None:
        return skipped("a server does not show its files")
    found = f"{len(checkpoint.raw_config)} fields of config.json ({checkpoint.architecture})"
    if checkpoint.family is not None and isinstance(subject.user, Embedder):
        found += f", prompts {checkpoint.prompts.query!r} and {checkpoint.prompts.document!r}, "
        found += f"first token {checkpoint.first_token!r}, " if checkpoint.first_token else ""
        found += f"final token {checkpoint.final_token!r}"
    info = subject.user.info
    chosen = f"`auto` chose {info.engine}" if info.reason else f"{info.engine} was requested"
    return ok(f"{found}; {chosen}: {explain_choice(info.engine, checkpoint)}")


MODEL_FILES: Check[Any] = Check("model files", "fields that change the model", _model_files)
