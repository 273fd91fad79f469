"""Options of `quern search` for groups, diversity, boosts, feedback and replicas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone_qdrant.searching.boosts import Boosts
    from quernstone_qdrant.searching.feedback import Feedback

_BOOST = re.compile(r"(.+)=([^=:]+)(?::([^=:]+))?")
_AGE = re.compile(r"([0-9.]+)([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 24 * 7, "y": 24 * 365}


@dataclass(frozen=True)
class RankingOptions:
    """Options that change which hits are chosen, how they are ranked and from which replicas."""

    per_document: Annotated[
        int | None, typer.Option(min=1, help="Largest number of hits of one document.")
    ] = None
    group_by: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Limit the hits of each value of a metadata field."),
    ] = None
    group_size: Annotated[
        int | None,
        typer.Option(min=1, help="Hits of each value of --group-by. (default: 1)"),
    ] = None
    diversity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Choose hits that differ (MMR): 0 not at all, 1 only."),
    ] = None
    recency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=AGE[:WEIGHT]",
            help="Raise recent documents: by WEIGHT, and by half of it at this age, such as "
            "`published=30d:0.2` (h, d, w or y). May be repeated.",
        ),
    ] = None
    popularity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=N[:WEIGHT]",
            help="Raise documents with a high number: by half of WEIGHT at N, such as "
            "`views=100:0.2`. May be repeated.",
        ),
    ] = None
    formula: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Formula of Qdrant for the score, with payload paths, such as "
            '\'{"sum": ["$score", {"mult": [0.01, "metadata.year"]}]}\'.',
        ),
    ] = None
    feedback: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C[,SEEDS]",
            help="Search again near the hits that the reranker likes, by these fitted weights.",
        ),
    ] = None
    consistency: Annotated[
        str | None,
        typer.Option(help="Replicas to ask: a number, majority, quorum or all. (default: 1)"),
    ] = None
    timeout: Annotated[
        int | None, typer.Option(min=1, help="Seconds that a server may take for a search.")
    ] = None

    def reading(self) -> dict[str, Any]:
        """Return arguments of a `QdrantSearcher`."""
        asked = self.consistency
        is_number = asked is not None and asked.isdecimal()
        return {"consistency": int(asked or 0) if is_number else asked, "timeout": self.timeout}

    def chosen(self) -> dict[str, Any]:
        """Return arguments of `QdrantSearcher.search`.

        Raises:
            ConfigError: An option cannot be read, or two exclude each other.
        """
        return {
            "per_document": self.per_document,
            "group_by": self.group_by,
            "group_size": self.group_size,
            "diversity": self.diversity,
            "boost": self._boost(),
            "feedback": self._feedback(),
        }

    def _boost(self) -> Boosts | None:
        from pydantic import TypeAdapter, ValidationError
        from qdrant_client import models

        from quernstone_qdrant.searching.boosts import Boost, Popularity, Recency

        boosts: list[Boost] = []
        for text in self.recency or ():
            field, age, weight = _parsed("--recency", text)
            found = _AGE.fullmatch(age)
            if found is None:
                raise ConfigError(f"--recency {text!r} has the age {age!r}; write 12h, 30d or 1y")
            hours = _number("--recency", text, found[1]) * _HOURS[found[2]]
            boosts.append(Recency(field, timedelta(hours=hours), **weight))
        for text in self.popularity or ():
            field, half, weight = _parsed("--popularity", text)
            boosts.append(Popularity(field, _number("--popularity", text, half), **weight))
        if self.formula is None:
            return boosts or None
        if boosts:
            raise ConfigError("--formula excludes --recency and --popularity: put them into it")
        try:
            formula = TypeAdapter(models.Expression).validate_json(self.formula)
        except ValidationError as error:
            raise ConfigError(
                f"--formula {self.formula!r} is not an expression of Qdrant in JSON"
            ) from error
        return models.FormulaQuery(formula=formula)

    def _feedback(self) -> Feedback | None:
        from quernstone_qdrant.searching.feedback import Feedback

        if self.feedback is None:
            return None
        parts = self.feedback.split(",")
        if len(parts) not in (3, 4) or (len(parts) == 4 and not parts[3].isdecimal()):
            raise ConfigError(
                f"--feedback {self.feedback!r} is not of the form A,B,C or A,B,C,SEEDS"
            )
        a, b, c = (_number("--feedback", self.feedback, part) for part in parts[:3])
        return Feedback(a=a, b=b, c=c, **({"seeds": int(parts[3])} if len(parts) == 4 else {}))


def _parsed(option: str, text: str) -> tuple[str, str, dict[str, float]]:
    """Return a boost's field, its size, and its weight if there is one."""
    found = _BOOST.fullmatch(text)
    if found is None:
        raise ConfigError(f"{option} {text!r} is not of the form FIELD=SIZE or FIELD=SIZE:WEIGHT")
    weight = {} if found[3] is None else {"weight": _number(option, text, found[3])}
    return found[1], found[2], weight


def _number(option: str, text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ConfigError(f"{option} {text!r} has {part!r} where a number belongs") from None
