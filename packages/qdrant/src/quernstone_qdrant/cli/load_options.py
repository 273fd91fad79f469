"""The options of `quern load` that decide how documents are split, replaced and reported."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quernstone.errors import ConfigError
from quernstone_qdrant.cli.failures import SkippedErrors, check_writable, with_remedy
from quernstone_qdrant.cli.options import AllowMismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quernstone_qdrant.documents.deadletter import DeadLetters
    from quernstone_qdrant.loading.precomputed import Vectors
    from quernstone_qdrant.loading.run import Prune
    from quernstone_qdrant.sources import ReadOptions
    from quernstone_qdrant.targets import Target

_EMBEDDED_RECORDS = 20_000
"""Number of records up to which Qdrant recommends the embedded client."""


@dataclass(frozen=True)
class VectorOptions:
    """Vectors that were computed before."""

    vector_field: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Field that holds the vector of each row, computed before by --model: texts are "
            "neither embedded nor split.",
        ),
    ] = None
    vectors: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE.npy",
            help="NumPy file with the vectors of a single file, one row per record.",
        ),
    ] = None

    def given(self, paths: Sequence[Path]) -> Vectors | None:
        """Return the field, or the opened array; None if texts are to be embedded.

        Raises:
            ConfigError: Both are given, there are several files, or the array cannot be read.
        """
        if self.vectors is None:
            return self.vector_field
        if self.vector_field is not None:
            raise ConfigError("--vectors and --vector-field exclude each other: use one of them")
        if len(paths) != 1 or paths[0].is_dir():
            raise ConfigError("--vectors belongs to the rows of one file: pass that file alone")
        import numpy as np

        try:
            array: NDArray[Any] = np.load(self.vectors, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {str(self.vectors)!r}: {error}") from error
        return array


@dataclass(frozen=True)
class BatchOptions:
    """How texts are split and written."""

    chunk_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum characters per chunk; 0 does not split texts. (default: as in the "
            "collection, or 1200)",
        ),
    ] = None
    chunk_overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum characters repeated from the previous chunk. (default: as in the "
            "collection, or a tenth of the chunk size)",
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum chunks per write.")] = 2048
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to keep retrying a request to a server.")
    ] = 300.0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `QdrantLoader`."""
        return {
            "chunk_size": self.chunk_size or None,
            "chunk_overlap": self.chunk_overlap,
            "batch_size": self.batch_size,
            "patience": self.patience,
        }


@dataclass(frozen=True)
class UpdateOptions:
    """The treatment of documents that are already stored."""

    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="After loading, delete documents that are gone from these folders and files. "
            "Documents from elsewhere stay.",
        ),
    ] = False
    prune_all: Annotated[
        bool,
        typer.Option(
            "--prune-all",
            help="After loading, delete every document that is not in these folders and files.",
        ),
    ] = False
    replace_sources: Annotated[
        bool,
        typer.Option(
            "--replace-sources",
            help="Let documents replace those with the same id from other files and folders.",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Store nothing: read and check everything, and print counts, the first three "
            "records as they would be stored, and an estimated time. --report and --dead-letter "
            "are written.",
        ),
    ] = False
    allow_mismatch: AllowMismatch = False

    @property
    def scope(self) -> Prune:
        """The documents to prune, for `QdrantLoader.load`."""
        return "collection" if self.prune_all else self.prune

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `QdrantLoader`."""
        return {"replace_sources": self.replace_sources, "allow_mismatch": self.allow_mismatch}


@dataclass(frozen=True)
class ErrorOptions:
    """The treatment of items that cannot be loaded, and the report."""

    skip_errors: Annotated[
        bool,
        typer.Option("--skip-errors", help="Report what cannot be read, skip it and continue."),
    ] = False
    dead_letter: Annotated[
        Path | None,
        typer.Option(
            help="File for skipped records and the reasons; it can be loaded again. Implies "
            "--skip-errors."
        ),
    ] = None
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Succeed even if there are no documents.")
    ] = False
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Write a JSON report to this file, and replace it as the load proceeds.",
        ),
    ] = None
    progress_every: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How often to print a line of progress if standard error is not a terminal; 0 "
            "prints none.",
        ),
    ] = 30.0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `QdrantLoader`."""
        return {"skip_errors": self.skip_errors, "dead_letter": self.dead_letter}


def skipped_errors(errors: ErrorOptions) -> AbstractContextManager[SkippedErrors | None]:
    """Return a printer of errors; None if the first error ends the command."""
    if errors.skip_errors or errors.dead_letter is not None:
        return SkippedErrors(errors.dead_letter)
    return nullcontext()


def dead_letters(errors: ErrorOptions) -> AbstractContextManager[DeadLetters | None]:
    """Return a writer of the dead-letter file; None if there is none."""
    from quernstone_qdrant.documents.deadletter import DeadLetters

    return nullcontext() if errors.dead_letter is None else DeadLetters(errors.dead_letter)


def check_inputs(
    paths: Sequence[Path], reading: ReadOptions, updates: UpdateOptions, errors: ErrorOptions
) -> None:
    """Check paths and options before a model is loaded.

    Raises:
        ConfigError: A file cannot be written, or the options contradict each other.
        SourceError: A file, or the first row of one, cannot be read.
    """
    from quernstone_qdrant.documents.deadletter import refuse_to_prune_by
    from quernstone_qdrant.loading.prune import refuse_limited
    from quernstone_qdrant.sources import check_first_rows, read_paths

    records = read_paths(paths, options=reading)  # nothing is opened before the first record
    if updates.scope:
        refuse_limited(records)
        refuse_to_prune_by(paths)
    check_writable("--report", errors.report_file)
    check_writable("--dead-letter", errors.dead_letter)
    skip_errors = errors.skip_errors or errors.dead_letter is not None
    with with_remedy():
        check_first_rows(paths, reading, skip_errors=skip_errors)


def warn_of_embedded(target: Target, records: int | None) -> None:
    """Print a warning before a large load into the embedded client, with alternatives."""
    if target.kind == "embedded" and records is not None and records > _EMBEDDED_RECORDS:
        typer.echo(
            f"quern: these are {records:,} records; above {_EMBEDDED_RECORDS:,}, the embedded "
            "client is slow, because it has no index and keeps every vector in memory: use "
            "--edge FOLDER, or a server with --url",
            err=True,
        )
