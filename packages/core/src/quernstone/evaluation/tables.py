"""Summaries as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quernstone.evaluation.published import PublishedRow
from quernstone.evaluation.summary import Summary

Row = tuple[str, float | None, float | None, Mapping[str, float]]
"""Label, mean over tasks, mean over types, means of types."""


def markdown(summaries: Sequence[Summary], published: Sequence[PublishedRow] = ()) -> str:
    """Render means next to the published ones, their caveats, and all tasks."""
    parts = [_means(summaries, published), *_caveats(summaries), _tasks(summaries)]
    return "\n\n".join(parts) + "\n"


def as_json(
    summaries: Sequence[Summary], published: Sequence[PublishedRow], **settings: Any
) -> dict[str, Any]:
    """Return the content of the tables as JSON types."""
    rows = [
        {
            "model": row.model,
            "mean_task": row.mean_task,
            "mean_type": row.mean_type,
            "by_type": dict(row.by_type),
        }
        for row in published
    ]
    return {**settings, "models": [one.as_dict() for one in summaries], "published": rows}


def _means(summaries: Sequence[Summary], published: Sequence[PublishedRow]) -> str:
    types = dict.fromkeys(name for one in summaries for name in one.by_type)
    rows: list[Row] = [(one.label, one.mean_task, one.mean_type, one.by_type) for one in summaries]
    rows += [
        (f"{row.model} (published)", row.mean_task, row.mean_type, row.by_type) for row in published
    ]
    header = ["model", "mean (task)", "mean (type)", *types]
    return _table(
        header,
        [
            [name, _figure(task), _figure(kind), *(_figure(by_type.get(one)) for one in types)]
            for name, task, kind, by_type in rows
        ],
    )


def _caveats(summaries: Sequence[Summary]) -> list[str]:
    """List what keeps a mean from being a result of the benchmark, such as missing tasks."""
    lines = []
    for one in summaries:
        if len(one.versions) > 1:
            lines.append(
                f"{one.name}: computed by several versions of mteb: {', '.join(one.versions)}"
            )
        if one.missing:
            names = ", ".join(one.missing)
            lines.append(f"{one.name}: {len(one.missing)} tasks are missing: {names}")
        for task in one.tasks:
            if task.missing:
                first = ", ".join(task.missing[:5])
                lines.append(
                    f"{one.name}: {task.task} lacks {len(task.missing)} splits or subsets: {first}"
                    + (", ..." if len(task.missing) > 5 else "")
                )
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _tasks(summaries: Sequence[Summary]) -> str:
    tasks = dict.fromkeys((task.type, task.task) for one in summaries for task in one.tasks)
    scores = [{task.task: task.score for task in one.tasks} for one in summaries]
    return _table(
        ["type", "task", *(one.name for one in summaries)],
        [
            [kind, name, *(_figure(of_model.get(name)) for of_model in scores)]
            for kind, name in tasks
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
