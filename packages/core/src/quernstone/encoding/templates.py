"""`PairTemplate`: the prompt of a reranker, and how its answer becomes a score."""

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
    """The text before the document. It contains `{query}` once, and may contain `{instruction}`."""
    suffix: str = ""
    """The text after the document."""
    positive: str | None = None
    """The answer for a relevant document: one token, or the name of a classification head's label.
    None uses the answer stored with the model, or `yes` if there is none."""
    negative: str | None = None
    """The answer for an irrelevant document. None uses the model's own if `positive` is None as
    well; otherwise only the logit of `positive` counts."""
    score: ScoreFunction = "probability"
    """`probability` is sigmoid(logit / temperature), and `logit` is logit / temperature. The logit
    is that of `positive`, minus that of `negative` if there is one."""
    temperature: float = 1.0
    """Number by which the logit is divided."""
    instruction: str = ""
    """The instruction of calls and rerankers that do not pass one."""
    strip: bool = False
    """Remove white space around queries and documents."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` if a field is invalid or contradicts another one."""
        self._check_types()
        if self.prefix.count(QUERY) != 1 or self.prefix.count(INSTRUCTION) > 1:
            raise ConfigError(
                f"`prefix` of a template needs `{QUERY}` once and `{INSTRUCTION}` at most once; "
                f"it is {self.prefix!r}"
            )
        if _PLACES.search(self.suffix):
            raise ConfigError(
                f"`suffix` of a template must not contain `{QUERY}` or `{INSTRUCTION}`; it is "
                f"{self.suffix!r}"
            )
        if self.instruction and not self.takes_instruction:
            raise ConfigError(
                f"`instruction` of a template needs `{INSTRUCTION}` in `prefix`; it is "
                f"{self.prefix!r}"
            )
        for name in ("positive", "negative"):
            if getattr(self, name) == "":
                raise ConfigError(f"`{name}` of a template is empty; pass one token, such as 'yes'")
        if self.negative is not None and self.positive is None:
            raise ConfigError("`negative` of a template needs `positive`: pass both")
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
                raise ConfigError(f"`{name}` of a template is {value!r}, expected a string")
        if not isinstance(self.strip, bool):
            raise ConfigError(f"`strip` of a template is {self.strip!r}; use True or False")
        number = self.temperature
        if not isinstance(number, (int, float)) or not 0.0 < number < math.inf:
            msg = f"`temperature` of a template is {number!r}, expected a positive number"
            raise ConfigError(msg)

    @property
    def takes_instruction(self) -> bool:
        """True if the prompt contains the instruction of a call."""
        return INSTRUCTION in self.prefix

    def render(self, query: str, document: str, instruction: str) -> str:
        """Return the complete prompt of a pair."""
        if self.strip:
            query, document = query.strip(), document.strip()
        return fill(self.prefix, query, instruction) + document + self.suffix

    @property
    def name(self) -> str:
        """Short identifier that differs between templates."""
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
    """Return the template of a name; a `PairTemplate` is returned unchanged."""
    return template if isinstance(template, PairTemplate) else OFFICIAL[template]


def template_name(template: AnyTemplate) -> str:
    """Return a short identifier that differs between templates whose scores may differ."""
    return template if isinstance(template, str) else template.name


def for_reranker(template: AnyTemplate | None, task: str) -> dict[str, AnyTemplate | None]:
    """Return the keyword argument `template` of a `Reranker`; no argument for an `Embedder`.

    Raises:
        ConfigError: A template was passed for embedding.
    """
    if task == "rerank":
        return {"template": template}
    if template is not None:
        raise ConfigError("`template` is for rerankers, and the task is to embed: leave it out")
    return {}


def check_template(template: object) -> None:
    """Raise `ConfigError` if an argument is not a template."""
    if isinstance(template, PairTemplate) or (isinstance(template, str) and template in OFFICIAL):
        return
    names = " or ".join(map(repr, OFFICIAL))
    raise ConfigError(f"unknown template {template!r}; use {names}, or a `PairTemplate`")


def end_of_places(text: str) -> int:
    """Return the end of the last `{query}` or `{instruction}` in a text; 0 if there is none."""
    return max((match.end() for match in _PLACES.finditer(text)), default=0)


def fill(text: str, query: str, instruction: str) -> str:
    """Replace `{query}` and `{instruction}` in a text, but not inside the values themselves."""
    values = {QUERY: query, INSTRUCTION: instruction}
    return "".join(values.get(part, part) for part in _PLACES.split(text))
