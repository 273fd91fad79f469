"""Templates cut for one tokenizer, so that their parts can be tokenized on their own.

The tokens of the parts are those of the complete prompt. A text is only cut next to a control
token, or where byte-level pre-tokenizers end a word whatever surrounds it: before a space that
follows something else, and between a letter or a digit and a mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from quernstone.encoding.templates import QUERY, PairTemplate, end_of_places, fill
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import ConfigError
from quernstone.types import TokenArray

_CUT = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=[\n!-/:-@\[-^`{-~])")

_EMPTY = np.empty(0, dtype=np.int32)


class PairFrame:
    """The text around queries and documents, cut for a tokenizer."""

    def __init__(
        self, template: PairTemplate, tokenizer: Tokenizer, ignored: int | None = None
    ) -> None:
        """Cut a template.

        Args:
            template: The template.
            tokenizer: The checkpoint's.
            ignored: A token id that is dropped at the end of a prompt: a classification head
                reads the last token that is not padding.

        Raises:
            ConfigError: There is no place to cut between the query and the document.
        """
        self._tokenizer = tokenizer
        parts = tokenizer.split_control(template.prefix)
        last = parts.pop() if not tokenizer.is_control(parts[-1]) else ""
        cut = _last_cut(last)
        end = end_of_places(last)
        if cut is None and 0 < end < len(last):
            raise ConfigError(
                f"no place to cut {last!r} of the template's prefix after the query, because "
                "tokens may cross all of it; put a word, or a mark and a space, or a control token "
                "between query and document"
            )
        cut = end if cut is None else cut
        self._lead = last[cut:]
        parts += [last[:cut]] if cut else []
        self._head = self._merged(parts)
        place = next(index for index, part in enumerate(parts) if QUERY in part)
        before = parts[place].partition(QUERY)[0]
        before = before[: _last_cut(before) or 0]
        self._stem = self._merged([*parts[:place], *([before] if before else [])])
        ending = tokenizer.split_control(template.suffix)
        first = ending.pop(0) if ending and not tokenizer.is_control(ending[0]) else ""
        found = _CUT.search(first, 1)
        end = found.start() if found else len(first)
        self._tail, rest = first[:end], first[end:]
        self.tail = tokenizer.ids([self._tail])[0] if self._tail else _EMPTY
        """Tokens of the start of the suffix, which is tokenized with the document."""
        suffix = tokenizer.frame_ids(rest + "".join(ending)) if rest or ending else _EMPTY
        while len(suffix) and suffix[-1] == ignored:
            suffix = suffix[:-1]
        self.suffix = suffix
        """Tokens of the rest of the suffix."""

    def stem(self, instruction: str) -> TokenArray:
        """Return the tokens that all pairs of an instruction start with. Shape: (tokens,)."""
        return self._joined(self._stem, [("", instruction)])[0]

    def heads(self, heads: Sequence[tuple[str, str]]) -> list[TokenArray]:
        """Return the tokens before the documents of each query and instruction."""
        return self._joined(self._head, heads)

    def body(self, document: str) -> str:
        """Return the text that is tokenized with a document."""
        return f"{self._lead}{document}{self._tail}"

    def _merged(self, parts: Sequence[str]) -> list[str | TokenArray]:
        """Return the parts, with the tokens of neighbouring fixed ones."""
        merged: list[str | TokenArray] = []
        for fixed, group in groupby(parts, key=lambda part: not end_of_places(part)):
            texts = list(group)
            merged += [self._tokenizer.frame_ids("".join(texts))] if fixed else texts
        return merged

    def _joined(
        self, parts: Sequence[str | TokenArray], heads: Sequence[tuple[str, str]]
    ) -> list[TokenArray]:
        columns = [
            self._tokenizer.ids([fill(part, *head) for head in heads])
            if isinstance(part, str)
            else [part] * len(heads)
            for part in parts
        ]
        if not columns:
            return [_EMPTY] * len(heads)
        return [np.concatenate(row) for row in zip(*columns, strict=True)]


def _last_cut(text: str) -> int | None:
    """Return the last place to cut a text after the places of a template, if there is one."""
    start = end_of_places(text)
    return max((match.start() for match in _CUT.finditer(text, start + 1)), default=None)
