"""Check the files of a model folder, without reading the weights.

Only JSON, text and safetensors are ever read. No pickles, no remote code.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from quernstone.errors import ModelLoadError

MODULES = "modules.json"
"""The file in which sentence-transformers lists a model's modules and their folders."""

PROMPTS = "config_sentence_transformers.json"
"""The file in which sentence-transformers stores a model's prompts."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_DIGEST_BYTES = 1 << 20
# The safetensors library refuses longer headers.
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder, and how to repair it."""

    folder: Path
    commit: str
    """Commit of a hub snapshot; empty if the folder does not say."""
    if_missing: str
    """How to get a file that is missing, for error messages."""
    if_damaged: str
    """How to replace a damaged file, for error messages."""


def check_files(source: Source) -> None:
    """Raise `ModelLoadError` unless the folder holds a complete model."""
    folder = source.folder
    has_config = (folder / "config.json").is_file()
    if not has_config:
        msg = f"`{folder}` holds no `config.json`, so it is not a model folder; {source.if_missing}"
        raise ModelLoadError(msg)
    # Models for sentence-transformers may keep the tokenizer elsewhere, or in another format.
    if not any((folder / name).is_file() for name in ("tokenizer.json", MODULES)):
        raise ModelLoadError(
            f"`{folder}` holds no `tokenizer.json`, so it is not a complete model folder; "
            f"{source.if_missing}"
        )
    for path in _files(folder, "*.json", "*.safetensors"):
        if fault := pointer_fault(path):
            raise ModelLoadError(fault)
    for path in _all_weights(source):
        _check_length(path, source.if_damaged)


def pointer_fault(path: Path) -> str:
    """Describe the fault if the file is only a pointer of Git LFS; return "" otherwise."""
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start != _LFS_POINTER:
        return ""
    return (
        f"`{path}` is a Git LFS pointer of {path.stat().st_size} bytes and not the file "
        f"itself; run `git lfs install && git lfs pull` in `{path.parent}`"
    )


def weight_names(folder: Path) -> list[str]:
    """Return the names of the decoder's files: `model.safetensors`, or the shards of the index."""
    return [_SINGLE] if (folder / _SINGLE).is_file() else _shards(folder)


def weight_files(folder: Path) -> list[Path]:
    """Return the decoder's weights."""
    names = weight_names(folder)
    if not names:
        raise ModelLoadError(
            f"`{folder}` holds neither `{_SINGLE}` nor `{_INDEX}`; weights in other formats are "
            "not supported"
        )
    return [folder / name for name in names]


def content_digest(folder: Path, *, modules: bool) -> str:
    """Hash a checkpoint without reading gigabytes; copies of it have equal digests.

    Covers the name, the size, the first and the last mebibyte of `config.json`, `tokenizer.json`
    and each weight file. With `modules` it also covers the prompts and the configuration of
    sentence-transformers' modules, which official Qwen3 checkpoints do not need.
    """
    digest = hashlib.sha256()
    paths = [folder / "config.json", folder / "tokenizer.json", *_files(folder, "*.safetensors")]
    if modules:
        paths += [folder / name for name in (MODULES, PROMPTS, "sentence_bert_config.json")]
        paths += [path for each in _module_folders(folder) for path in sorted(each.glob("*.json"))]
    for path in filter(Path.is_file, paths):
        size = path.stat().st_size
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}:{size}:".encode() + file.read(_DIGEST_BYTES))
            file.seek(max(0, size - _DIGEST_BYTES))
            digest.update(file.read())
    return f"sha256-{digest.hexdigest()[:16]}"


def join_digests(*digests: str) -> str:
    """Return one digest in place of several."""
    return f"sha256-{hashlib.sha256('+'.join(digests).encode()).hexdigest()[:16]}"


def _files(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of the model and of its sentence-transformers modules, sorted."""
    folders = [folder, *_module_folders(folder)]
    return sorted({path for each in folders for pattern in patterns for path in each.glob(pattern)})


def _module_folders(folder: Path) -> Iterator[Path]:
    for module in read_modules(folder):
        name = module.get("path")
        if isinstance(name, str) and name and (folder / name).is_dir():
            yield folder / name


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of `modules.json`, or an empty list if the file holds no list."""
    try:
        modules = orjson.loads((folder / MODULES).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return []
    return [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ModelLoadError: It is missing, or holds anything else.
    """
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        msg = f"`{path.parent}` holds no `{path.name}`, so it is not a model folder"
        raise ModelLoadError(msg) from error
    except orjson.JSONDecodeError as error:
        raise ModelLoadError(f"`{path}` is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"`{path}` holds a {type(value).__name__}, expected an object")
    return value


def _all_weights(source: Source) -> list[Path]:
    """Return the safetensors of a model and its modules, after checking that none is missing."""
    folder = source.folder
    shards = _shards(folder)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ModelLoadError(
            f"`{folder / missing[0]}` is missing: `{_INDEX}` names {len(shards)} shards, of "
            f"which {len(missing)} {'is' if len(missing) == 1 else 'are'} missing "
            f"({', '.join(missing)}); {source.if_missing}"
        )
    found = _files(folder, "*.safetensors")
    if not found:
        raise ModelLoadError(_no_weights(source))
    loose = [path.name for path in found if _SHARD.fullmatch(path.name)]
    if loose and not shards and not (folder / _SINGLE).is_file():
        raise ModelLoadError(
            f"`{folder}` holds shards such as `{loose[0]}` but no `{_INDEX}`, which lists their "
            f"tensors; {source.if_missing}"
        )
    return found


def _shards(folder: Path) -> list[str]:
    """Return the files that the index names; none without an index."""
    index = folder / _INDEX
    if not index.is_file():
        return []
    try:
        weight_map = orjson.loads(index.read_bytes())["weight_map"]
        return sorted(set(weight_map.values()))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"`{index}` is not an index of safetensors: {error!r}") from error


def _no_weights(source: Source) -> str:
    folder = source.folder
    pickles = sorted({path for pattern in _PICKLES for path in folder.glob(pattern)})
    if not pickles:
        return (
            f"`{folder}` holds neither `{_SINGLE}` nor `{_INDEX}`; only safetensors are "
            f"read, never pickles; {source.if_missing}"
        )
    return (
        f"`{folder}` holds `{pickles[0].name}` and no safetensors. Only safetensors are read, "
        "never pickles, which run code when they are opened. If you trust the file, convert it "
        "once with transformers: `AutoModel.from_pretrained(folder).save_pretrained(folder)`, or "
        "`AutoModelForCausalLM` for a reranker"
    )


def _check_length(path: Path, remedy: str) -> None:
    """Compare a safetensors file's length with its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if 0 < length <= min(size, _LONGEST_HEADER) else b""
    try:
        tensors = orjson.loads(header)
        ends = [entry["data_offsets"][1] for key, entry in tensors.items() if key[:2] != "__"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelLoadError(
            f"`{path}` cannot be read as safetensors: its {size} bytes do not start with a "
            f"complete header; {remedy}"
        ) from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelLoadError(
            f"`{path}` cannot be read as safetensors: it has {size} of {expected} bytes, so a "
            f"download was cut short; {remedy}"
        )
