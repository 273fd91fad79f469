"""Find a model's folder: in the package, on disk, on the Hugging Face hub or on ModelScope."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from quernstone.checkpoints.files import Source, check_files
from quernstone.errors import MissingExtraError, ModelLoadError
from quernstone.types import Task

TINY = "tiny"
MODELSCOPE = "modelscope:"
"""Prefix of the name of a model on ModelScope: `modelscope:Qwen/Qwen3-Embedding-0.6B`."""

_BUNDLED = Path(__file__).parent / "tiny"
_TINY_FOLDERS: dict[Task, str] = {"embed": "embedding", "rerank": "reranker"}
_HUB_FILES = ["*.safetensors", "*.json", "*.txt"]  # also in subfolders
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(
    name: str, task: Task, revision: str | None = None, cache_folder: str | None = None
) -> Source:
    """Find a model's folder, downloading it if the name is a hub's. See `resolve`.

    A commit that is complete in the cache is used without a request to the hub.
    """
    if name == TINY:
        folder = _BUNDLED / _TINY_FOLDERS[task]
        return Source(folder, "", "install quernstone again", "install quernstone again")
    path = Path(name).expanduser()
    if path.is_dir():
        copy = (
            "copy it from where the other files came from; for a model of the hub: "
            f"`hf download ORGANISATION/MODEL --local-dir {path}`"
        )
        return Source(path.resolve(), "", copy, copy)
    if path.is_file():
        msg = f"`{name}` is a file; name the folder that holds it, `{path.parent}`"
        if path.suffix == ".gguf":
            msg = f"`{name}` is a GGUF file; use the checkpoint with safetensors that it came from"
        raise ModelLoadError(msg)
    if name.startswith(MODELSCOPE):
        return _from_modelscope(name.removeprefix(MODELSCOPE), revision, cache_folder)
    return _from_hub(name, revision, cache_folder)


def is_bundled(folder: Path) -> bool:
    """Return True for the folders that `tiny` stands for."""
    return folder.parent == _BUNDLED


def _from_hub(name: str, revision: str | None, cache_folder: str | None) -> Source:
    # Imported here because it takes half a second and only hub ids need it.
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    command = f"hf download {name}{_options(revision, cache_folder)}"
    fetch = _fetch(snapshot_download, name, revision, cache_folder)
    try:
        folder = _complete_in_cache(fetch, revision, LocalEntryNotFoundError) or fetch()
        return _snapshot(folder, command, "--force-download")
    except HFValidationError as error:
        raise ModelLoadError(
            f"`{name}` is neither an existing folder, nor `tiny`, nor a hub id like `org/model`, "
            f"nor `{MODELSCOPE}org/model`"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        # Several versions ask the hub about a pinned commit even if it is in the cache.
        with suppress(LocalEntryNotFoundError):
            return _snapshot(fetch(local_files_only=True), command, "--force-download")
        raise ModelLoadError(
            f"`{name}` is not a local folder and could not be fetched from the hub at "
            f"{constants.ENDPOINT}: {error}. "
            f"Online, `{command}` fills the cache. Offline, pass the path of a downloaded folder, "
            "or `tiny` to try things out. Where the hub is out of reach, set `HF_ENDPOINT` to a "
            f"mirror, or use `{MODELSCOPE}{name}`"
        ) from error


def _from_modelscope(name: str, revision: str | None, cache_folder: str | None) -> Source:
    from huggingface_hub import constants  # noqa: PLC0415 - see `_from_hub`

    try:
        from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415
        from modelscope_hub.errors import HubError  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("modelscope", "modelscope") from error

    command = f"modelscope download {name}{_options(revision, cache_folder, '--cache_dir')}"
    fetch = _fetch(snapshot_download, name, revision, cache_folder)
    try:
        folder = _complete_in_cache(fetch, revision, HubError)
        # `HF_HUB_OFFLINE` applies to both hubs.
        folder = folder or fetch(local_files_only=constants.HF_HUB_OFFLINE)
        return _snapshot(folder, command, "--force")
    except (HubError, OSError, ValueError) as error:
        with suppress(HubError):
            return _snapshot(fetch(local_files_only=True), command, "--force")
        raise ModelLoadError(
            f"`{name}` could not be fetched from ModelScope: {error}. Online, `{command}` fills "
            "the cache. Offline, pass the path of a downloaded folder"
        ) from error


def _complete_in_cache(
    fetch: Callable[..., Any], revision: str | None, missing: type[Exception]
) -> Path | None:
    """Return the folder of a pinned commit if it is complete in the cache."""
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    with suppress(missing, ModelLoadError):
        folder = Path(fetch(local_files_only=True))
        check_files(_snapshot(folder, "", ""))
        return folder
    return None


def _snapshot(path: str | Path, command: str, force: str) -> Source:
    folder = Path(path)
    # A snapshot's folder is named after its commit, or on ModelScope maybe after a branch.
    commit = folder.name if _COMMIT.fullmatch(folder.name) else ""
    return Source(folder, commit, f"run `{command}`", f"run `{command} {force}`")


def _fetch(
    download: Callable[..., Any], name: str, revision: str | None, cache_folder: str | None
) -> Callable[..., Any]:
    fetch = partial(download, name, revision=revision, allow_patterns=_HUB_FILES)
    return partial(fetch, cache_dir=cache_folder) if cache_folder else fetch


def _options(revision: str | None, cache_folder: str | None, cache: str = "--cache-dir") -> str:
    options = f" --revision {revision}" if revision else ""
    return options + (f" {cache} {cache_folder}" if cache_folder else "")
