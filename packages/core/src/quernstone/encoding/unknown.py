"""Warn once when a bundled model reads a text in a script that it does not know.

The tiny models learned English. Their vocabulary splits other scripts into `[UNK]` and single
letters, whose vectors were never trained. `docs/tiny-models.md` says how much worse results are.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quernstone.encoding.tokenizer import Tokenizer
from quernstone.types import Task

logger = logging.getLogger("quernstone")

MOST = 0.5
"""Warn if more than this share of a text's tokens is unknown."""

# Characters of a text that are checked.
_CHARS = 2000
# Latin letters and general punctuation: a text without other characters is not tokenized again.
_OTHER_SCRIPT = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f]")

_USE_INSTEAD: dict[Task, str] = {
    "embed": "Qwen/Qwen3-Embedding-0.6B",
    "rerank": "Qwen/Qwen3-Reranker-0.6B",
}
_warned = threading.Event()


class UnknownTexts:
    """Detector of texts that a bundled model does not know; it warns once per process."""

    def __init__(self, tokenizer: Tokenizer, task: Task) -> None:
        """Use the tokenizer of the bundled model for a task."""
        self._tokenizer = tokenizer
        self._task = task

    @cached_property
    def _is_unknown(self) -> npt.NDArray[np.bool_]:
        """True for tokens that the model has not learned. Shape: (token ids,)."""
        vocabulary = self._tokenizer.vocabulary()
        unknown = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
        for piece, number in vocabulary.items():
            letter = piece.removeprefix("##")
            is_foreign = len(letter) == 1 and letter.isalpha() and not letter.isascii()
            unknown[number] = is_foreign or piece == "[UNK]"
        return unknown

    def share(self, text: str) -> float:
        """Return the share of a text's tokens that the model does not know, from 0 to 1."""
        if text.isascii() or not _OTHER_SCRIPT.search(text, 0, _CHARS):
            return 0.0
        [ids] = self._tokenizer.ids([text[:_CHARS]])
        return float(self._is_unknown[ids].mean()) if len(ids) else 0.0

    def check(self, inputs: Sequence[object], offset: int = 0) -> None:
        """Log a warning for the first input with a mostly unknown text, unless one was logged.

        Args:
            inputs: Texts, or pairs of a query and a document to rerank.
            offset: Position of the first input, for the index in the warning.
        """
        if _warned.is_set():
            return
        for index, item in enumerate(inputs):
            texts = item[:2] if isinstance(item, tuple) else (item,)
            share = max(self.share(str(text)) for text in texts)
            if share > MOST:
                _warned.set()
                logger.warning(
                    "`tiny` knows English only, and %.0f%% of the tokens of input %d are unknown "
                    "to it: its results for such texts are poor. For other languages use `%s`, or "
                    "4B or 8B, which know more than 100. This warning appears once per process",
                    100 * share,
                    offset + index,
                    _USE_INSTEAD[self._task],
                )
                return
