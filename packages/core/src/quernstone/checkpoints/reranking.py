"""Read how a reranker renders pairs and answers: templates, labels, answer tokens, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quernstone.checkpoints.chat import pair_template, read_chat_template, read_variables
from quernstone.checkpoints.files import PROMPTS, read_json, read_modules
from quernstone.encoding.templates import (
    OFFICIAL,
    QUERY,
    AnyTemplate,
    PairTemplate,
    full_template,
)
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import ConfigError, ModelLoadError
from quernstone.types import Task

_POSITIVE = {"yes", "true", "relevant", "positive", "1", "label_1"}
_NEGATIVE = {
    "no",
    "false",
    "irrelevant",
    "not_relevant",
    "negative",
    "0",
    "label_0",
}

_WAYS_OUT = (
    'pass `template="card"` for a conversion of Qwen3-Reranker, `PairTemplate(prefix="{query}")` '
    "for a model of query and document without a text between them, or another `PairTemplate`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerFiles:
    """The files that define the prompt and the answers of a reranker."""

    config: Mapping[str, Any]
    """The contents of `config.json`."""
    module_folder: Path
    """As for `Checkpoint`."""
    tokenizer_folder: Path
    """As for `Checkpoint`."""


def read_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the labels of a classification head; none for a language model."""
    if not str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        return ()
    names = config.get("id2label")
    if names:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(f"LABEL_{index}" for index in range(config.get("num_labels") or 2))


def read_answers(folder: Path) -> tuple[int, ...]:
    """Return the token ids of the stored answers: the negative one, if any, and the positive one.

    Empty without a `LogitScore` module.
    """
    for module in read_modules(folder):
        if str(module.get("type")).rpartition(".")[2] == "LogitScore":
            config = read_json(folder / str(module["path"]) / "config.json")
            ids = (config.get("false_token_id"), config["true_token_id"])
            return tuple(int(each) for each in ids if each is not None)
    return ()


def is_cross_encoder(folder: Path) -> bool:
    """Return True if sentence-transformers stored a folder as a reranker."""
    return _stored(folder).get("model_type") == "CrossEncoder" or bool(read_answers(folder))


def choose_rendering(
    name: str,
    task: Task,
    files: RerankerFiles | None,
    tokenizer: Tokenizer | None,
    template: AnyTemplate | None,
    *,
    exact_server: bool = False,
) -> tuple[AnyTemplate, tuple[int, ...]]:
    """Return the template of a model, and the rows of its head; see the two functions below.

    Without `files` a server has the model, and without a `tokenizer` a library renders its pairs.
    An `exact_server` is a `quern serve`, which has any template.

    Raises:
        ConfigError: The template is not possible.
    """
    if task == "rerank" and files and tokenizer:
        chosen = choose_template(files, template, tokenizer)
        return chosen, head_rows(files, chosen, tokenizer)
    if template is None:
        return "card", ()
    if files:
        raise ConfigError(
            f"`{name}` is not a Qwen3-Reranker: it reads only the query and the document, so leave "
            "out `instruction` and `template`"
        )
    if isinstance(template, PairTemplate) and not exact_server:
        raise ConfigError(
            'a `PairTemplate` is not possible with `engine="remote"` and this dialect: the answers '
            "and the score are those of the server; use a local engine or a `quern serve`, or the "
            "template `card` or `eval`"
        )
    return template, ()


def choose_template(
    files: RerankerFiles, given: AnyTemplate | None, tokenizer: Tokenizer
) -> AnyTemplate:
    """Return the template of a reranker: the given one, else the stored one, else `card`.

    A name gives the prompt only: a classification head keeps its stored activation. The answers
    `no` and `yes` are always scored as on the card of Qwen3-Reranker: by P(yes).

    Args:
        files: The files of a decoder.
        given: The caller's template.
        tokenizer: The checkpoint's.

    Raises:
        ModelLoadError: What is stored cannot be used.
    """
    if isinstance(given, PairTemplate):
        return given
    config, folder = files.config, files.module_folder
    labels = read_labels(config)
    if given is not None and not labels:
        return given
    if not labels and not is_cross_encoder(folder):
        return "card"
    stored = _stored(folder)
    found = OFFICIAL[given] if given else _stored_prompt(files, stored)
    if labels or not _are_no_and_yes(read_answers(folder), tokenizer):
        found = _scored(found, _activation(stored, config), labels, config.get("problem_type"))
    return next((name for name, official in OFFICIAL.items() if found == official), found)


def head_rows(files: RerankerFiles, template: AnyTemplate, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the rows of a reranker's head: of the negative answer, if any, and the positive one.

    Empty for `no` and `yes`, the answers of Qwen3-Reranker.

    Raises:
        ConfigError: An answer of the template is not one token, or not one of the labels.
        ModelLoadError: The labels do not say which one is the positive answer.
    """
    is_named, labels = isinstance(template, str), read_labels(files.config)
    template = full_template(template)
    if labels:
        return _label_rows(labels, template)
    if template.positive is None:
        rows = () if is_named else read_answers(files.module_folder)
    else:
        names = (template.negative, template.positive)
        rows = tuple(tokenizer.answer_id(name) for name in names if name is not None)
    return () if _are_no_and_yes(rows, tokenizer) else rows


def _are_no_and_yes(rows: tuple[int, ...], tokenizer: Tokenizer) -> bool:
    try:
        return rows == tokenizer.no_and_yes()
    except ModelLoadError:  # other families may have no such tokens
        return False


def _stored_prompt(files: RerankerFiles, stored: Mapping[str, Any]) -> PairTemplate:
    folder = files.module_folder
    prompts = stored.get("prompts") or {}
    default = str(prompts.get(stored.get("default_prompt_name")) or "")
    source = read_chat_template(files.tokenizer_folder)
    # Modules that do not say so were stored by releases that rendered no messages.
    inputs = _read(folder, "sentence_bert_config.json").get("modality_config") or ()
    if source is None or (read_modules(folder) and "message" not in inputs):
        return _plain_pair(files.tokenizer_folder, default)
    try:
        return pair_template(source, read_variables(files.tokenizer_folder, folder), default)
    except ModelLoadError as error:
        msg = f"`{folder}` does not say how it renders a pair: {error}; {_WAYS_OUT}"
        raise ModelLoadError(msg) from error


def _plain_pair(folder: Path, prompt: str) -> PairTemplate:
    """Return the rendering of a tokenizer's pair: two texts, and the tokens around them."""
    path = folder / "tokenizer.json"
    processor = (read_json(path) if path.is_file() else {}).get("post_processor") or {}
    text = ""
    for part in processor.get("processors") or [processor]:
        for item in part.get("pair") or ():
            is_text = "Sequence" in item
            text += f"\x00{item['Sequence']['id']}" if is_text else str(item["SpecialToken"]["id"])
    before, first, rest = (text or "\x00A\x00B").partition("\x00A")
    between, second, after = rest.partition("\x00B")
    if not first or not second:
        raise ModelLoadError(f"`{path}` does not put a query before a document; {_WAYS_OUT}")
    return PairTemplate(prefix=f"{before}{prompt}{QUERY}{between}", suffix=after)


def _activation(stored: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the stored activation, a class in `torch.nn`. Releases stored it in several places."""
    found = (
        stored.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )
    return str(found).rpartition(".")[2] if found else None


def _scored(
    template: PairTemplate, activation: str | None, labels: Sequence[str], problem: str | None
) -> PairTemplate:
    """Return a template with the score function of the stored activation."""
    if activation not in (None, "Sigmoid", "Identity"):
        raise ModelLoadError(
            f"the stored activation {activation!r} is not one of Sigmoid and Identity; pass a "
            "`PairTemplate` with the score function of the model"
        )
    if len(labels) == 2:
        own = activation == "Sigmoid" or problem == "multi_label_classification"
        return replace(template, positive=_positive(labels)) if own else template
    return replace(template, score="logit") if activation == "Identity" else template


def _label_rows(labels: Sequence[str], template: PairTemplate) -> tuple[int, ...]:
    if template.positive is not None:
        names = [name for name in (template.negative, template.positive) if name is not None]
        for name in names:
            if name not in labels:
                known = ", ".join(map(repr, labels))
                raise ConfigError(f"the classification head has no label {name!r}, but {known}")
        return tuple(labels.index(name) for name in names)
    if len(labels) == 1:
        return (0,)
    if len(labels) > 2:
        raise ModelLoadError(
            f"the model has {len(labels)} labels; a reranker has one score. Name the labels that "
            "it is computed from as `positive` and `negative` of a `PairTemplate`"
        )
    positive = labels.index(_positive(labels))
    return (1 - positive, positive)


def _positive(labels: Sequence[str]) -> str:
    first, second = (label.lower() for label in labels)
    if first in _NEGATIVE and second in _POSITIVE:
        return labels[1]
    if first in _POSITIVE and second in _NEGATIVE:
        return labels[0]
    raise ModelLoadError(
        f"the labels {', '.join(map(repr, labels))} do not say which is the positive one; name "
        "them as `positive` and `negative` of a `PairTemplate`"
    )


def _stored(folder: Path) -> dict[str, Any]:
    """Return the settings of sentence-transformers, which it reads if there are modules."""
    return _read(folder, PROMPTS) if read_modules(folder) else {}


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return read_json(path) if path.is_file() else {}
