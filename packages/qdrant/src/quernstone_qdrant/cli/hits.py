"""Print hits: a table, columns separated by tabs, or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import typer

from quernstone.cli.printing import print_json
from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone_qdrant.searching.hits import SearchHit

SortKey: TypeAlias = Literal["was", "rerank", "fused", "cosine"]
Style: TypeAlias = Literal["table", "plain", "json"]
_SNIPPET = 140


@dataclass(slots=True, kw_only=True)
class HitPrinter:
    """Prints the hits of one question, or of one question after the other."""

    style: Style
    several: bool
    """True if there may be several questions: JSON and columns repeat the question."""
    sort: SortKey | None = None
    """The column to sort by; None keeps the order."""
    _headed: bool = False

    def print(self, question: str, hits: list[SearchHit]) -> None:
        """Print the hits of a question.

        Raises:
            ConfigError: The hits do not have the column to sort by.
        """
        if self.sort is not None:
            hits = _sorted(hits, self.sort)
        if self.style == "json":
            shown = [_shown(hit) for hit in hits]
            print_json({"query": question, "hits": shown} if self.several else shown)
        elif self.style == "plain":
            self._print_plain(question, hits)
        else:
            self._print_table(question, hits)

    def _print_table(self, question: str, hits: list[SearchHit]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(question), title_justify="left", title_style="bold")
        columns = _columns(hits)
        for name in columns:
            table.add_column(name, justify="right")
        table.add_column("source", overflow="fold", max_width=26)
        table.add_column("text", ratio=1)
        for number, hit in enumerate(hits):
            cells = [cells[number] for cells in columns.values()]
            table.add_row(*map(Text, [*cells, _source(hit), _snippet(hit.text)]))
        console = Console()
        with console.capture() as printed:  # rich would end the process if the pipe is closed
            if self.several and not hits:
                console.print(Text(question, style="bold"))
            console.print(table if hits else Text("nothing found"))
            if self.several:
                console.print()
        typer.echo(printed.get(), nl=False)

    def _print_plain(self, question: str, hits: list[SearchHit]) -> None:
        columns = {"question": [question for _ in hits]} if self.several else {}
        columns |= _columns(hits)
        columns["source"] = [_source(hit) for hit in hits]
        columns["text"] = [" ".join(hit.text.split()) for hit in hits]
        # The columns depend on the options alone, but hits are needed to see them.
        if not self._headed and (hits or not self.several):
            self._print_row(columns)
            self._headed = True
        for row in zip(*columns.values(), strict=True):
            self._print_row(row)

    @staticmethod
    def _print_row(cells: Iterable[str]) -> None:
        typer.echo("\t".join(" ".join(cell.split()) for cell in cells))


def _shown(hit: SearchHit) -> dict[str, Any]:
    """Return the fields of a hit, except the payload: text and metadata say the same."""
    return {name: value for name, value in asdict(hit).items() if name != "payload"}


def _columns(hits: list[SearchHit]) -> dict[str, list[str]]:
    """Return the columns of ranks and scores that these hits have."""
    columns = {"rank": [str(rank) for rank in range(1, len(hits) + 1)]}
    if any(hit.rerank_score is not None for hit in hits):
        columns["was"] = [_moved(rank, hit.retrieval_rank) for rank, hit in enumerate(hits, 1)]
        columns["P(yes)"] = [f"{hit.rerank_score:.3f}" for hit in hits]
    if any(hit.boosted_score is not None for hit in hits):
        columns["boosted"] = [f"{hit.boosted_score:.3f}" for hit in hits]
    if any(hit.group is not None for hit in hits):
        columns["group"] = [str(hit.group) for hit in hits]
    if any(hit.fused_score is not None for hit in hits):
        columns["fused"] = [f"{hit.fused_score:.4f}" for hit in hits]
    columns["cosine"] = [f"{hit.score:.3f}" for hit in hits]
    return columns


def _sorted(hits: list[SearchHit], key: SortKey) -> list[SearchHit]:
    """Return the hits, the best by a column first.

    Raises:
        ConfigError: The hits do not have this column.
    """
    scores: dict[SortKey, Callable[[SearchHit], float | None]] = {
        "was": lambda hit: -hit.retrieval_rank,
        "rerank": lambda hit: hit.rerank_score,
        "fused": lambda hit: hit.fused_score,
        "cosine": lambda hit: hit.score,
    }
    keyed = [(scores[key](hit), hit) for hit in hits]
    if any(score is None for score, _ in keyed):
        need = "--rerank" if key == "rerank" else "--hybrid"
        raise ConfigError(f"--sort {key} needs {need}: these hits have no such score")
    return [hit for _, hit in sorted(keyed, key=lambda pair: -(pair[0] or 0.0))]


def _moved(rank: int, was: int) -> str:
    arrow = "↑" if rank < was else "↓" if rank > was else " "
    return f"{was} {arrow}"


def _source(hit: SearchHit) -> str:
    source = str(hit.metadata.get("source", hit.key))
    if "row" in hit.metadata:
        return f"{source}#{hit.metadata['row']}"
    headings = hit.metadata.get("headings")
    return f"{source} › {headings[-1]}" if isinstance(headings, list) and headings else source


def _snippet(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SNIPPET else f"{flat[: _SNIPPET - 1]}…"
