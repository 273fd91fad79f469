"""Texts for engines that tokenise themselves: checked here, rendered and cut there."""

from __future__ import annotations

from collections.abc import Sequence

from quernstone.encoding.tokens import DocumentCache, check_texts
from quernstone.types import EncodedBatch, RerankTemplate, TextInput


class TextEncoder:
    """Makes `TextInput`s, where `Tokenization` makes token ids, and refuses the same inputs.

    Nothing is cut here: how many tokens a text has is known to the engine alone, which got
    `max_length` and `truncate` with its `EngineConfig`.
    """

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        max_length: int,  # noqa: ARG002 - see the class
        truncate: bool = True,  # noqa: ARG002
        offset: int = 0,
    ) -> EncodedBatch:
        """Wrap texts without an instruction."""
        check_texts(texts, offset)
        return EncodedBatch([TextInput(text) for text in texts])

    def encode_queries(
        self,
        texts: Sequence[str],
        instruction: str,
        *,
        max_length: int,  # noqa: ARG002
        truncate: bool = True,  # noqa: ARG002
        offset: int = 0,
    ) -> EncodedBatch:
        """Wrap queries with their instruction."""
        check_texts(texts, offset)
        return EncodedBatch([TextInput(text, instruction) for text in texts])

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        instruction: str | Sequence[str],
        template: RerankTemplate,
        *,
        max_length: int,  # noqa: ARG002
        truncate: bool = True,  # noqa: ARG002
        share_prefix: bool = True,  # noqa: ARG002 - what texts share, only the engine can know
        offset: int = 0,
        cache: DocumentCache | None = None,  # noqa: ARG002
    ) -> EncodedBatch:
        """Wrap (query, document) pairs."""
        check_texts([query for query, _ in pairs], offset, "query")
        check_texts([document for _, document in pairs], offset, "document")
        each = [instruction] * len(pairs) if isinstance(instruction, str) else instruction
        return EncodedBatch(
            [
                TextInput(document, own, query, template)
                for (query, document), own in zip(pairs, each, strict=True)
            ]
        )
