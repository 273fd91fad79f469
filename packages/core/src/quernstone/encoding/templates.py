"""Templates of rerankers: how a pair is rendered, and how the model's answer becomes a score."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import astuple, dataclass
from typing import Literal, get_args

from quernstone.encoding.prompts import (
    RERANK_INSTRUCTIONS,
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    rerank_body,
    rerank_head,
)
from quernstone.errors import ConfigError
from quernstone.types import RerankTemplate

ScoreFunction = Literal["probability", "logit"]

QUERY, INSTRUCTION = "{query}", "{instruction}"
_PLACES = re.compile(f"({re.escape(QUERY)}|{re.escape(INSTRUCTION)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    r"""A reranker's prompt, the tokens of its answers, and its score function.

    Tokens such as `<|im_end|>` are control tokens in `prefix` and `suffix`, and ordinary text in
    queries, documents and instructions.

    Examples:
        >>> from quernstone import PairTemplate, Reranker
        >>> template = PairTemplate(
        ...     prefix="<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n",
        ...     suffix="<|im_end|>\n<|im_start|>assistant\n",
        ...     positive="yes",
        ...     temperature=5.0,
        ... )
        >>> with Reranker("tiny", template=template) as reranker:
        ...     [score] = reranker.score([("grinding grain", "a mill grinds grain")])
        >>> bool(0 <= score <= 1)
        True
    """

    prefix: str
    """The text before the document. Holds `{query}` once, and may hold `{instruction}`."""
    suffix: str = ""
    """The text after the document."""
    positive: str | None = None
    """The answer of a match: one token, or for a classification head the name of a label. None:
    the model's own, which for a language model without a stored one is `yes`."""
    negative: str | None = None
    """The opposite answer. None: the model's own if `positive` is None, else only the logit of
    `positive` counts."""
    score: ScoreFunction = "probability"
    """`probability` is sigmoid(logit / temperature), `logit` is logit / temperature. The logit is
    that of `positive`, minus that of `negative` if there is one."""
    temperature: float = 1.0
    """Divides the logit."""
    instruction: str = ""
    """The default of `Reranker(instruction=)`."""
    strip: bool = False
    """Remove white space around queries and documents."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a template that can never work."""
        self._check_types()
        if self.prefix.count(QUERY) != 1 or self.prefix.count(INSTRUCTION) > 1:
            raise ConfigError(
                f"`prefix` of a template needs `{QUERY}` once and `{INSTRUCTION}` at most once; "
                f"it is {self.prefix!r}"
            )
        if _PLACES.search(self.suffix):
            raise ConfigError(f"`suffix` of a template is fixed text; it is {self.suffix!r}")
        if self.instruction and not self.takes_instruction:
            raise ConfigError(f"`instruction` needs the place `{INSTRUCTION}` in `prefix`")
        for name in ("positive", "negative"):
            if getattr(self, name) == "":
                raise ConfigError(f"`{name}` of a template is empty; give one token, such as 'yes'")
        if self.negative is not None and self.positive is None:
            raise ConfigError("`negative` of a template needs `positive`")
        if self.positive is not None and self.positive == self.negative:
            raise ConfigError(f"`positive` and `negative` of a template are both {self.positive!r}")
        if self.score not in get_args(ScoreFunction):
            able = " or ".join(map(repr, get_args(ScoreFunction)))
            raise ConfigError(f"unknown `score` {self.score!r} of a template; use {able}")

    def _check_types(self) -> None:
        answers = ("positive", "negative")
        for name in ("prefix", "suffix", "instruction", *answers):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in answers):
                raise ConfigError(f"`{name}` of a template is {value!r}, not a text")
        if not isinstance(self.strip, bool):
            raise ConfigError(f"`strip` of a template is {self.strip!r}; use True or False")
        number = self.temperature
        if not isinstance(number, (int, float)) or not 0.0 < number < math.inf:
            msg = f"`temperature` of a template is {number!r}, expected a positive number"
            raise ConfigError(msg)

    @property
    def takes_instruction(self) -> bool:
        """True if the instruction of a call is part of the prompt."""
        return INSTRUCTION in self.prefix

    def render(self, query: str, document: str, instruction: str) -> str:
        """Return the complete prompt of a pair."""
        if self.strip:
            query, document = query.strip(), document.strip()
        return fill(self.prefix, query, instruction) + document + self.suffix

    @property
    def name(self) -> str:
        """A short text that differs between templates."""
        return f"custom-{hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]}"


AnyTemplate = RerankTemplate | PairTemplate


def _official(name: RerankTemplate) -> PairTemplate:
    head = rerank_head(QUERY, INSTRUCTION, name)
    return PairTemplate(
        prefix=RERANK_PREFIX + head + rerank_body(""),
        suffix=RERANK_SUFFIXES[name],
        instruction=RERANK_INSTRUCTIONS[name],
    )


OFFICIAL: dict[RerankTemplate, PairTemplate] = {name: _official(name) for name in RERANK_SUFFIXES}
"""The templates of Qwen3-Reranker by name."""


def full_template(template: AnyTemplate) -> PairTemplate:
    """Return a template by its name, or as it is."""
    return template if isinstance(template, PairTemplate) else OFFICIAL[template]


def template_name(template: AnyTemplate) -> str:
    """Return a short text that differs between templates whose scores may differ."""
    return template if isinstance(template, str) else template.name


def for_reranker(template: AnyTemplate | None, task: str) -> dict[str, AnyTemplate | None]:
    """Return the argument `template` of a `Reranker`, and none for an `Embedder`.

    Raises:
        ConfigError: A template is given for another task.
    """
    if task == "rerank":
        return {"template": template}
    if template is not None:
        raise ConfigError("`template` is for rerankers, and this model embeds")
    return {}


def check_template(template: object) -> None:
    """Raise `ConfigError` if an argument is not a template."""
    if isinstance(template, PairTemplate) or (isinstance(template, str) and template in OFFICIAL):
        return
    names = " or ".join(map(repr, OFFICIAL))
    raise ConfigError(f"unknown template {template!r}; use {names}, or a `PairTemplate`")


def end_of_places(text: str) -> int:
    """Return the end of the last place for a query or an instruction; 0 if there is none."""
    return max((match.end() for match in _PLACES.finditer(text)), default=0)


def fill(text: str, query: str, instruction: str) -> str:
    """Put a query and an instruction into their places, and look for no places inside them."""
    values = {QUERY: query, INSTRUCTION: instruction}
    return "".join(values.get(part, part) for part in _PLACES.split(text))
