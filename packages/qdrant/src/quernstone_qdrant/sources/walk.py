"""Walk folders, and account for everything found in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from quernstone.tables import suffix_of
from quernstone_qdrant.errors import SourceError

EXCLUDED = ("node_modules", ".venv", "venv", "__pycache__", "build", "dist")
"""Names of folders that are skipped by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """The files of a load: after it, `found == loaded + failed + sum(skipped.values())`."""

    found: int = 0
    """Files, links, and folders that were not entered."""
    loaded: int = 0
    """Files that at least one record was read from."""
    failed: int = 0
    """Files without a good row or that cannot be read to the end, and unreadable folders."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Number of skipped files by the reason, such as `.pdf` or `empty`."""
    values: dict[str, int] = field(default_factory=dict)
    """Number of values that were converted, by a description of the conversion."""
    unfollowed: tuple[str, ...] = ()
    """Links to folders that were not followed because they are broken or lead in a circle."""


class Inventory:
    """A running count of the files that were found, loaded, skipped or failed."""

    def __init__(self) -> None:
        self.found = self.loaded = self.failed = self.records = 0
        self.unfollowed: list[str] = []
        self._skipped: Counter[str] = Counter()
        self.values: Counter[str] = Counter()

    def skip(self, reason: str, *, found: bool = True) -> None:
        """Count a file that is skipped; `found` is False if it was counted as found before."""
        self.found += found
        self._skipped[reason] += 1

    def counts(self) -> FileCounts:
        """Return the counts so far. Another thread may call this."""
        return FileCounts(
            found=self.found,
            loaded=self.loaded,
            failed=self.failed,
            skipped=dict(self._skipped.copy()),
            values=dict(self.values.copy()),
            unfollowed=tuple(self.unfollowed),
        )


class Found(NamedTuple):
    """One file to read."""

    key: str
    """Path relative to the folder of the walk."""
    path: Path


@dataclass(frozen=True, slots=True)
class Walker:
    """A walker that selects the files of a folder by their names.

    Links to folders are followed, except those that lead to a folder they are in. Pipes, sockets
    and devices are never opened.
    """

    suffixes: Collection[str]
    """Suffixes of the files to read, in lower case."""
    exclude: Collection[str] = ()
    """Patterns of files and folders to skip; see `read_paths`."""
    needing_extra: Collection[str] = ()
    """Suffixes of files to skip because the extra `documents` is not installed."""

    def walk(self, root: Path, inventory: Inventory) -> Iterator[Found | SourceError]:
        """Yield the files below a folder, in a fixed order, and an error per unreadable entry."""
        levels = [(self._entries(root, inventory), self._identity(root))]
        while levels:
            entry = next(levels[-1][0], None)
            if entry is None:
                levels.pop()
            elif isinstance(entry, SourceError):
                yield entry
            elif not Path(entry.path).is_dir():  # unlike `entry`, False for a link to itself
                yield from self._file(root, entry, inventory)
            else:
                path = Path(entry.path)
                identity = self._identity(path)
                if identity in [above for _, above in levels]:
                    self._unfollowed(root, entry, "link in a circle", inventory)
                else:
                    levels.append((self._entries(path, inventory, root), identity))

    def _entries(
        self, folder: Path, inventory: Inventory, root: Path | None = None
    ) -> Iterator[os.DirEntry[str] | SourceError]:
        """Yield the entries of a folder that are neither hidden nor excluded."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            inventory.found += 1
            inventory.failed += 1
            yield SourceError(str(folder), f"cannot be opened: {error.strerror or error}")
            return
        for entry in entries:
            pattern = self._pattern(entry, root or folder)
            if entry.name.startswith("."):
                inventory.skip("hidden")
            elif pattern is not None:
                inventory.skip(f"{pattern} (excluded)")
            else:
                yield entry

    def _pattern(self, entry: os.DirEntry[str], root: Path) -> str | None:
        """Return the pattern that excludes an entry, if any."""
        key = Path(entry.path).relative_to(root).as_posix()
        for pattern in self.exclude:
            wanted = pattern.rstrip("/")
            name = key if "/" in wanted else entry.name
            if fnmatchcase(name, wanted) and (wanted == pattern or Path(entry.path).is_dir()):
                return pattern
        return None

    def _file(
        self, root: Path, entry: os.DirEntry[str], inventory: Inventory
    ) -> Iterator[Found | SourceError]:
        path = Path(entry.path)
        suffix = path.suffix.lower()
        is_broken = entry.is_symlink() and not path.exists()
        if suffix in self.needing_extra and path.is_file():
            inventory.skip(f"{suffix} (needs the extra `documents`)")
        elif suffix_of(path) not in self.suffixes:
            if is_broken:
                self._unfollowed(root, entry, "broken link", inventory)
            elif path.is_file():
                inventory.skip(suffix or "without a suffix")
            else:
                inventory.skip("pipe, socket or device")
        elif not (is_broken or path.is_file()):
            inventory.skip("pipe, socket or device")
        else:
            inventory.found += 1
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                inventory.failed += 1
                name = os.fsencode(entry.path).decode(errors="replace")
                yield SourceError(name, "its name is not valid UTF-8; rename the file")
            else:
                yield Found(path.relative_to(root).as_posix(), path)

    def _unfollowed(
        self, root: Path, entry: os.DirEntry[str], reason: str, inventory: Inventory
    ) -> None:
        inventory.skip(reason)
        inventory.unfollowed.append(Path(entry.path).relative_to(root).as_posix())

    def _identity(self, folder: Path) -> tuple[int, int] | None:
        """Return device and inode; None if the folder cannot be read, which is reported later."""
        try:
            found = folder.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
