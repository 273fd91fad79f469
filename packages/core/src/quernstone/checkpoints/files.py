"""Where a model's files come from: the package, a folder, the Hugging Face hub or ModelScope.

Only data is ever fetched and read: JSON, text and safetensors. No pickles, no remote code.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from quernstone.errors import MissingExtraError, ModelLoadError
from quernstone.types import Task

TINY = "tiny"
MODELSCOPE = "modelscope:"
"""What the name of a model on ModelScope begins with: `modelscope:Qwen/Qwen3-Embedding-0.6B`."""

MODULES = "modules.json"
"""The file in which sentence-transformers lists a model's modules and their folders."""

_TINY_FOLDERS: dict[Task, str] = {"embed": "embedding", "rerank": "reranker"}
_HUB_FILES = ["*.safetensors", "*.json", "*.txt"]  # in subfolders, too
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_DIGEST_BYTES = 1 << 20
# what the safetensors library itself refuses to read
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder, and how it got there."""

    folder: Path
    commit: str
    """Commit of a hub snapshot; empty where the folder does not say."""
    if_missing: str
    """What a user does to get a file that is not there."""
    if_damaged: str
    """What a user does to replace a file."""


def locate(name: str, task: Task, revision: str | None = None) -> Source:
    """Find a model's folder, downloading it if the name is a hub's.

    Args:
        name: `tiny`, a local folder, a hub id such as `Qwen/Qwen3-Embedding-0.6B`, or
            `modelscope:` and an id.
        task: Which of the two bundled models `tiny` means.
        revision: Branch, tag or commit of a hub id. A commit that the cache holds in full is used
            without asking the hub.

    Raises:
        ModelLoadError: There is no such model, or it cannot be fetched.
        MissingExtraError: `modelscope:` without the package.
    """
    if name == TINY:
        folder = Path(__file__).parent / "tiny" / _TINY_FOLDERS[task]
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
        return _from_modelscope(name.removeprefix(MODELSCOPE), revision)
    return _from_hub(name, revision)


def check_files(source: Source) -> None:
    """Look for what makes a folder no complete model, without reading the weights.

    Raises:
        ModelLoadError: A file is missing, cut short, a Git LFS pointer, or in a format that is
            not read; the error says which one and how to get it.
    """
    folder = source.folder
    adapter = folder / "adapter_config.json"
    config = folder / "config.json"
    if adapter.is_file() and not config.is_file():
        msg = (
            f"`{folder}` holds a PEFT adapter and not a model; merge it into its base model "
            "(`merge_and_unload()`, then `save_pretrained()`) and name that folder"
        )
        raise ModelLoadError(msg)
    if not config.is_file():
        msg = f"`{folder}` holds no `config.json`, so it is not a model folder; {source.if_missing}"
        raise ModelLoadError(msg)
    # what sentence-transformers loads may keep its tokenizer elsewhere, or in another form
    if not any((folder / name).is_file() for name in ("tokenizer.json", MODULES)):
        msg = (
            f"`{folder}` holds no `tokenizer.json`, so it is not a complete model folder; "
            f"{source.if_missing}"
        )
        raise ModelLoadError(msg)
    for path in _files(folder, "*.json", "*.safetensors"):
        _refuse_pointer(path)
    for path in _weight_files(source):
        _check_length(path, source.if_damaged)


def content_digest(folder: Path) -> str:
    """Tells checkpoints apart, wherever they lie, without reading gigabytes.

    Hashes the configuration and the tokenizer, and of each weight file the name, the size, the
    first and the last bytes: a snapshot of the hub and a copy of its files have one digest.
    """
    digest = hashlib.sha256()
    paths = [folder / "config.json", folder / "tokenizer.json", *_files(folder, "*.safetensors")]
    for path in paths:
        if not path.is_file():
            continue
        size = path.stat().st_size
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}:{size}:".encode() + file.read(_DIGEST_BYTES))
            file.seek(max(0, size - _DIGEST_BYTES))
            digest.update(file.read())
    return f"sha256-{digest.hexdigest()[:16]}"


# ---------------------------------------------------------------------------------- the hubs


def _from_hub(name: str, revision: str | None) -> Source:
    # huggingface_hub takes half a second to import and is needed for hub ids only
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    command = f"hf download {name}{_option(revision)}"
    fetch = partial(snapshot_download, name, revision=revision, allow_patterns=_HUB_FILES)
    try:
        if pinned := _whole_in_cache(fetch, revision, LocalEntryNotFoundError):
            return _snapshot(pinned, command, "--force-download")
        return _snapshot(fetch(), command, "--force-download")
    except HFValidationError as error:
        msg = (
            f"`{name}` is neither an existing folder, nor `tiny`, nor a hub id like `org/model`, "
            f"nor `{MODELSCOPE}org/model`"
        )
        raise ModelLoadError(msg) from error
    except (HfHubHTTPError, OSError) as error:
        # some versions ask the hub about a pinned commit although the cache holds it
        with suppress(LocalEntryNotFoundError):
            return _snapshot(fetch(local_files_only=True), command, "--force-download")
        msg = (
            f"`{name}` is not a local folder and could not be fetched from the hub: {error}. "
            f"Online, `{command}` fills the cache. Offline, pass the path of a downloaded folder, "
            "or `tiny` to try things out. Where the hub is out of reach, set `HF_ENDPOINT` to a "
            f"mirror, or use `{MODELSCOPE}{name}`"
        )
        raise ModelLoadError(msg) from error


def _from_modelscope(name: str, revision: str | None) -> Source:
    from huggingface_hub import constants  # noqa: PLC0415 - see `_from_hub`

    try:
        from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415
        from modelscope_hub.errors import HubError  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("modelscope", "modelscope") from error

    command = f"modelscope download {name}{_option(revision)}"
    fetch = partial(snapshot_download, name, revision=revision, allow_patterns=_HUB_FILES)
    try:
        if pinned := _whole_in_cache(fetch, revision, HubError):
            return _snapshot(pinned, command, "--force")
        # one switch for both hubs
        return _snapshot(fetch(local_files_only=constants.HF_HUB_OFFLINE), command, "--force")
    except (HubError, OSError, ValueError) as error:
        with suppress(HubError):
            return _snapshot(fetch(local_files_only=True), command, "--force")
        msg = (
            f"`{name}` could not be fetched from ModelScope: {error}. Online, `{command}` fills "
            "the cache. Offline, pass the path of a downloaded folder"
        )
        raise ModelLoadError(msg) from error


def _whole_in_cache(
    fetch: Callable[..., Any], revision: str | None, missing: type[Exception]
) -> Path | None:
    """The folder of a pinned commit, when nothing is left to ask a hub for."""
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    with suppress(missing, ModelLoadError):
        folder = Path(fetch(local_files_only=True))
        check_files(_snapshot(folder, "", ""))
        return folder
    return None


def _snapshot(path: str | Path, command: str, force: str) -> Source:
    folder = Path(path)
    # a snapshot's folder is named after its commit; ModelScope may name it after a branch
    commit = folder.name if _COMMIT.fullmatch(folder.name) else ""
    return Source(folder, commit, f"run `{command}`", f"run `{command} {force}`")


def _option(revision: str | None) -> str:
    return f" --revision {revision}" if revision else ""


# --------------------------------------------------------------------------------- the files


def _files(folder: Path, *patterns: str) -> list[Path]:
    """Files of the model and of its sentence-transformers modules, sorted."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    for module in _module_folders(folder):
        found.update(path for pattern in patterns for path in module.glob(pattern))
    return sorted(found)


def _module_folders(folder: Path) -> Iterator[Path]:
    path = folder / MODULES
    with suppress(FileNotFoundError, orjson.JSONDecodeError):
        modules = orjson.loads(path.read_bytes())
        for module in modules if isinstance(modules, list) else ():
            name = module.get("path") if isinstance(module, dict) else None
            if isinstance(name, str) and name and (folder / name).is_dir():
                yield folder / name


def _weight_files(source: Source) -> list[Path]:
    """The safetensors of a model, all of which are there."""
    folder = source.folder
    index = folder / _INDEX
    if index.is_file():
        shards = _shards(index)
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            msg = (
                f"`{folder / missing[0]}` is missing: `{_INDEX}` names {len(shards)} shards, of "
                f"which {len(missing)} {'is' if len(missing) == 1 else 'are'} not there "
                f"({', '.join(missing)}); {source.if_missing}"
            )
            raise ModelLoadError(msg)
    found = _files(folder, "*.safetensors")
    if not found:
        raise ModelLoadError(_no_weights(source))
    loose = [path.name for path in found if _SHARD.fullmatch(path.name)]
    if loose and not index.is_file() and not (folder / "model.safetensors").is_file():
        msg = (
            f"`{folder}` holds shards such as `{loose[0]}` and no `{_INDEX}`, which says what is "
            f"in them; {source.if_missing}"
        )
        raise ModelLoadError(msg)
    return found


def _shards(index: Path) -> list[str]:
    try:
        weight_map = orjson.loads(index.read_bytes())["weight_map"]
        return sorted(set(weight_map.values()))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        msg = f"`{index}` is not an index of safetensors: {error!r}"
        raise ModelLoadError(msg) from error


def _no_weights(source: Source) -> str:
    folder = source.folder
    pickles = sorted({path for pattern in _PICKLES for path in folder.glob(pattern)})
    if not pickles:
        return (
            f"`{folder}` holds neither `model.safetensors` nor `{_INDEX}`; only safetensors are "
            f"read, never pickles; {source.if_missing}"
        )
    return (
        f"`{folder}` holds `{pickles[0].name}` and no safetensors. Only safetensors are read, "
        "never pickles, which run code when they are opened. If you trust the file, convert it "
        "once with transformers: `AutoModel.from_pretrained(folder).save_pretrained(folder)`, or "
        "`AutoModelForCausalLM` for a reranker"
    )


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        msg = (
            f"`{path}` is a Git LFS pointer of {path.stat().st_size} bytes and not the file "
            f"itself; run `git lfs install && git lfs pull` in `{path.parent}`"
        )
        raise ModelLoadError(msg)


def _check_length(path: Path, remedy: str) -> None:
    """Compare a safetensors file's length with what its header promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if 0 < length <= min(size, _LONGEST_HEADER) else b""
    try:
        tensors = orjson.loads(header)
        ends = [entry["data_offsets"][1] for key, entry in tensors.items() if key[:2] != "__"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError) as error:
        msg = (
            f"`{path}` cannot be read as safetensors: its {size} bytes do not begin with a whole "
            f"header; {remedy}"
        )
        raise ModelLoadError(msg) from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        msg = (
            f"`{path}` cannot be read as safetensors: it has {size} of {expected} bytes, so a "
            f"download was cut short; {remedy}"
        )
        raise ModelLoadError(msg)
