"""The dialect of `quern serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from quernstone.encoding.templates import AnyTemplate, PairTemplate
from quernstone.engines.remote.answers import (
    NATIVE_PROTOCOL,
    as_list,
    count,
    read_native,
    read_native_usage,
)
from quernstone.engines.remote.base import Dialect, Limits, Request, ServerFacts
from quernstone.errors import ConfigError
from quernstone.types import ServedModel, Task, TextInput

TEMPLATE_PATH = "/quernstone/v1/template"
"""Answers how the server scores by a template."""


class Quernstone(Dialect):
    """`quern serve`: it does what our engines do in this process."""

    name = "quernstone"
    renderers = ("server",)
    facts_path = "/quernstone/v1"
    needs_facts = True
    renders_exactly = True
    max_inputs = 256

    def embed_raw(self, model: str, inputs: Sequence[TextInput], limits: Limits) -> Request:
        """Use our own protocol; the inputs of a request have one instruction."""
        texts = [each.text for each in inputs]
        body = {"task": "embed", "texts": texts, "instruction": inputs[0].instruction}
        return self._request(model, body, limits)

    def rerank_raw(self, model: str, pairs: Sequence[TextInput], limits: Limits) -> Request:
        """Use our own protocol; the pairs of a request have one query."""
        first = pairs[0]
        body = {
            "task": "rerank",
            "texts": [pair.text for pair in pairs],
            "query": first.query,
            "instruction": first.instruction,
            "template": write_template(first.custom_template or first.template),
        }
        return self._request(model, body, limits)

    def _request(self, model: str, body: dict[str, Any], limits: Limits) -> Request:
        body["protocol"], body["model"] = NATIVE_PROTOCOL, model
        body["max_length"], body["truncate"] = limits.max_length, limits.truncate
        return Request("/quernstone/v1", body, read_native, read_native_usage)

    def facts(self, answer: Any, model: str, task: Task) -> ServerFacts:
        """Check the version of the protocol, and find the model."""
        if not isinstance(answer, dict) or answer.get("protocol") != NATIVE_PROTOCOL:
            theirs = answer.get("protocol") if isinstance(answer, dict) else None
            raise ConfigError(
                f"the server speaks version {theirs} of the protocol, and this client version "
                f"{NATIVE_PROTOCOL}; install one version of quernstone on both"
            )
        cards = [card for card in as_list(answer, "models") if card.get("task") == task]
        names = [card["model"]["name"] for card in cards]
        if not cards or (model and model not in names):
            served = " and ".join(names) or f"nothing for the task `{task}`"
            raise ConfigError(f"the server has no model {model or task!r}; it serves {served}")
        card = cards[names.index(model) if model else 0]
        return ServerFacts(
            max_length=count(card.get("max_length")),
            dtype=card.get("dtype"),
            revision=card.get("revision"),
            served=_served(card["model"]),
        )


def ask_template(model: str, template: AnyTemplate) -> dict[str, Any]:
    """Return a request to `TEMPLATE_PATH`."""
    return {"protocol": NATIVE_PROTOCOL, "model": model, "template": write_template(template)}


def read_template_answer(answer: Any) -> tuple[AnyTemplate, tuple[int, ...]]:
    """Read the template as the model uses it, and the rows of its head."""
    rows = tuple(map(int, as_list(answer, "head_rows")))
    return read_template(answer.get("template")), rows


def write_template(template: object) -> object:
    """Return a template as the protocol has it: a name, or the fields of a `PairTemplate`."""
    return asdict(template) if isinstance(template, PairTemplate) else template


def read_template(value: Any) -> AnyTemplate:
    """Read what `write_template` returned."""
    return PairTemplate(**value) if isinstance(value, dict) else value


def _served(fields: dict[str, Any]) -> ServedModel:
    template, rows = read_template(fields["template"]), tuple(fields["head_rows"])
    return ServedModel(**{**fields, "template": template, "head_rows": rows})
