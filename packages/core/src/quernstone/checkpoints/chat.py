"""Read a chat template as the prompt of a pair.

sentence-transformers renders a pair as messages with the roles `query` and `document`, and its
prompt as a `system` message. The template is rendered in jinja's sandbox, as in transformers, with
marked texts, which show where each of them is placed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from quernstone.checkpoints.files import read_json
from quernstone.encoding.templates import INSTRUCTION, QUERY, PairTemplate, fill
from quernstone.errors import ConfigError, ModelLoadError

_QUERY, _DOCUMENT, _INSTRUCTION = "quern0query", "quern1document", "quern2instruction"

# Texts that a template may treat differently from plain words.
_TEXTS = ("a", "two\nlines", "{{ 1 }} {% raw %} {query} <|im_end|>", "é 水 " + "word " * 2000 + ".")
_PADDED = "\n padded \n"

# Arguments of `apply_chat_template` that do not reach the template.
_NOT_VARIABLES = {"max_length", "padding", "restore_suffix", "return_tensors", "truncation"}

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def read_chat_template(folder: Path) -> str | None:
    """Return the source of a folder's chat template, if it has one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    stored = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(stored, list):
        named = {each["name"]: each["template"] for each in stored}
        return named.get("default")
    return stored or None


def read_variables(tokenizer_folder: Path, module_folder: Path) -> dict[str, Any]:
    """Return the variables of a model's chat template, besides the messages."""
    path = tokenizer_folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    tokens = {name: config.get(name) for name in _SPECIAL}
    special = {
        name: token["content"] if isinstance(token, Mapping) else token
        for name, token in tokens.items()
        if token
    }
    path = module_folder / "sentence_bert_config.json"
    given = (read_json(path) if path.is_file() else {}).get("processing_kwargs") or {}
    chosen = given.get("chat_template") or {}
    return special | {name: chosen[name] for name in chosen.keys() - _NOT_VARIABLES}


def pair_template(source: str, variables: Mapping[str, Any], instruction: str) -> PairTemplate:
    """Return the prompt that a chat template renders.

    Args:
        source: The chat template.
        variables: The values of its other variables.
        instruction: The stored default; empty to render no `system` message.

    Raises:
        ModelLoadError: It does not render one query and one document after it as they are.
    """
    try:
        return _found(partial(_render, source, variables, str), instruction)
    except (_NotAPairError, ConfigError) as error:
        reason = error
    try:
        return _found(partial(_render, source, variables, _structured), instruction)
    except (_NotAPairError, ConfigError):
        raise ModelLoadError(str(reason)) from reason


class _NotAPairError(Exception):
    pass


def _found(render: Callable[[str, str, str], str], instruction: str) -> PairTemplate:
    found = _split(render(_QUERY, _DOCUMENT, instruction))
    padded = render(_PADDED, _PADDED, instruction)
    if padded != found.render(_PADDED, _PADDED, instruction):
        found = replace(found, strip=True)
    pairs = [(_PADDED, _PADDED), *((query, text) for query in _TEXTS for text in _TEXTS)]
    for query, document in pairs:
        if render(query, document, instruction) != found.render(query, document, instruction):
            raise _NotAPairError("its chat template changes queries or documents")
    with_instruction = render(_QUERY, _DOCUMENT, _INSTRUCTION)
    if with_instruction.count(_INSTRUCTION) != 1:
        return found
    prefix = _split(with_instruction.replace(_INSTRUCTION, INSTRUCTION)).prefix
    before, _, after = prefix.partition(INSTRUCTION)
    if not found.prefix.startswith(before) or not found.prefix.endswith(after):
        return found
    default = found.prefix[len(before) : len(found.prefix) - len(after)]
    if QUERY in default or fill(prefix, QUERY, default) != found.prefix:
        return found
    return replace(found, prefix=prefix, instruction=default)


def _split(rendered: str) -> PairTemplate:
    prefix, mark, suffix = rendered.partition(_DOCUMENT)
    if not mark or prefix.count(_QUERY) != 1 or _QUERY in suffix or _DOCUMENT in suffix:
        raise _NotAPairError("its chat template does not put one query before one document")
    return PairTemplate(prefix=prefix.replace(_QUERY, QUERY), suffix=suffix)


def _render(
    source: str,
    variables: Mapping[str, Any],
    content: Callable[[str], object],
    query: str,
    document: str,
    instruction: str,
) -> str:
    # Every local engine installs jinja2, a requirement of torch; a client of a server does not.
    import jinja2  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    texts = {"system": instruction, "query": query, "document": document}
    messages = [
        {"role": role, "content": content(text)}
        for role, text in texts.items()
        if text or role != "system"
    ]
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(source).render(
            **{"tools": None, "documents": None, "add_generation_prompt": False, **variables},
            messages=messages,
        )
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
        raise _NotAPairError(f"its chat template cannot render a pair: {error}") from error


def _structured(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _raise(message: str) -> None:
    raise _NotAPairError(f"its chat template refuses a pair: {message}")
