"""Open a model, run the checks and create the report."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from quernstone.checkpoints.checkpoint import resolve
from quernstone.doctor.embedding import EMBEDDING_CHECKS
from quernstone.doctor.environment import describe_attention, describe_device, versions
from quernstone.doctor.reference import load_reference
from quernstone.doctor.report import Finding, Outcome, Report, fail, ok, skipped
from quernstone.doctor.reranking import RERANKING_CHECKS
from quernstone.doctor.server import Server
from quernstone.doctor.subject import Check, EmbeddingSubject, Examined, RerankingSubject
from quernstone.embedder import Embedder
from quernstone.encoding.templates import AnyTemplate, for_reranker, template_name
from quernstone.engines.options import EngineOptions, read_options
from quernstone.engines.remote.options import RemoteOptions
from quernstone.errors import ConfigError, MissingExtraError, NonFiniteError, QuernstoneError
from quernstone.progress import progress_bar
from quernstone.reranker import Reranker
from quernstone.types import Dtype, EngineName, Task

_FINITE = "finite values"


def diagnose(
    model: str,
    *,
    task: Task | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
    dtype: Dtype = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    template: AnyTemplate | None = None,
    engine_options: EngineOptions = None,
    reference: str | None = None,
    progress: bool = False,
) -> Report:
    """Examine a model on an engine.

    Faults are findings of the report rather than errors, even if the model cannot be loaded or the
    server does not answer. A check that cannot decide is `skipped`.

    Args:
        model: As for `Embedder` and `Reranker`.
        task: None: inferred from the checkpoint, or from a server's options and model name.
        engine: As for `Embedder`.
        device: As for `Embedder`.
        dtype: As for `Embedder`.
        revision: As for `Embedder`.
        adapter: As for `Embedder`; the reference gets it as well.
        template: As for `Reranker`.
        engine_options: As for `Embedder`.
        reference: Hub id or folder of the same checkpoint, to compare with on this machine in
            float32.
        progress: Show a progress bar on standard error.

    Raises:
        ConfigError: The settings are invalid.
        MissingExtraError: The engine's packages are not installed.

    Examples:
        >>> from quernstone.doctor import diagnose
        >>> report = diagnose("tiny")
        >>> report.healthy, report["last token"].verdict
        (True, 'ok')
    """
    options = read_options("remote", engine_options) if engine == "remote" else engine_options
    settings: dict[str, Any] = {
        "engine": engine,
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "adapter": adapter,
        "engine_options": options,
    }
    target = options.endpoint if isinstance(options, RemoteOptions) else model
    chosen = task
    with ExitStack() as stack:
        try:
            if isinstance(options, RemoteOptions):
                checkpoint, server = None, stack.enter_context(Server(options))
                chosen = task or _task_of_server(options, model)
            else:
                checkpoint, server = resolve(model, task or "embed", revision, adapter), None
                chosen = task or checkpoint.likely_task
                if chosen != checkpoint.task:  # other files matter
                    checkpoint = resolve(model, chosen, revision, adapter)
            for_reranker(template, chosen)  # a check
            known: Any = {"checkpoint": checkpoint, "server": server}
            if chosen == "embed":
                embedder = stack.enter_context(Embedder(model, **settings))
                subject: Any = EmbeddingSubject(embedder, **known)
                checks: tuple[Check[Any], ...] = EMBEDDING_CHECKS
            else:
                reranker = stack.enter_context(Reranker(model, template=template, **settings))
                subject = RerankingSubject(reranker, **known)
                checks = RERANKING_CHECKS
        except (ConfigError, MissingExtraError):
            raise
        except QuernstoneError as error:
            # includes a model whose first vector is not finite
            opened = fail(str(error), "see the message")
            return Report(
                target=target,
                task=chosen or "embed",
                environment=versions(),
                findings=(_finding("opens", _looks_at(options), opened),),
            )
        if reference is not None:
            subject.reference = load_reference(reference, chosen, adapter, template)
            stack.callback(subject.reference.close)
        opened = ok(f"{subject.user!r}")
        first = _finding("opens", _looks_at(options), opened)
        findings = (first, *_examine(subject, checks, progress=progress))
        return Report(
            target=target,
            task=chosen,
            environment=_environment(subject),
            findings=findings,
        )


def _examine(
    subject: Examined, checks: Iterable[Check[Examined]], *, progress: bool
) -> Iterable[Finding]:
    """Run the checks in order and turn errors into findings."""
    every = tuple(checks)
    finite = True
    with progress_bar("examining", len(every), show=progress) as advance:
        for check in every:
            try:
                outcome = check.run(subject)
            except NonFiniteError as error:
                outcome = skipped(f"{error} (see `{_FINITE}`)")
                if finite:
                    outcome = fail(str(error), "see `finite values`")
            except QuernstoneError as error:
                outcome = fail(f"the check failed to run: {error}", "see the message")
            finite = finite and not (check.name == _FINITE and outcome.verdict == "fail")
            advance(1)
            yield _finding(check.name, check.looks_at, outcome)


def _finding(name: str, looks_at: str, outcome: Outcome) -> Finding:
    return Finding(
        name=name,
        looks_at=looks_at,
        verdict=outcome.verdict,
        finding=outcome.finding,
        fix=outcome.fix,
    )


def _looks_at(options: object) -> str:
    if isinstance(options, RemoteOptions):
        return "whether the server answers with one vector or score for one input"
    return "the model's files, and the engine that loads them"


def _task_of_server(options: RemoteOptions, model: str) -> Task:
    return "rerank" if options.rendered_by is not None or "rerank" in model.lower() else "embed"


def _environment(subject: Any) -> dict[str, str]:
    user, info = subject.user, subject.user.info
    found = {
        "model": user.model,
        "revision": user.revision or "unknown",
        "digest": user.digest or "unknown",
        "engine": info.engine,
        "device": describe_device(info),
        "dtype": info.dtype,
        "attention": describe_attention(info),
        "longest input": f"{user.max_length} tokens",
        "instruction": user.instruction,
    }
    if isinstance(subject, EmbeddingSubject):
        found["dimensions"] = str(user.dimensions)
    else:
        found["template"] = template_name(user.template)
    if subject.server is not None:
        found["dialect"] = subject.server.options.dialect
    return {**found, **versions()}
