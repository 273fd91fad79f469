"""`TextEncoder`: inputs for engines that add the prompt, tokenize and cut themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from quernstone.encoding.checks import check_texts
from quernstone.encoding.encoder import Encode, EncodedBatch
from quernstone.encoding.templates import AnyTemplate, PairTemplate
from quernstone.pairs import InstructedPair
from quernstone.types import RerankTemplate, TextInput


class TextEncoder:
    """Encoder that wraps inputs as `TextInput`s. It rejects the same inputs as `TokenEncoder`.

    It does not cut texts, because only the engine knows how many tokens they have. The engine gets
    `max_length` and `truncate` in its `EngineConfig`.
    """

    def encode_documents(self, texts: Sequence[str], *, offset: int = 0) -> EncodedBatch:
        """Wrap texts without an instruction."""
        check_texts(texts, offset)
        return EncodedBatch([TextInput(text) for text in texts])

    def encode_queries(
        self, texts: Sequence[str], instruction: str, *, offset: int = 0
    ) -> EncodedBatch:
        """Wrap queries with their instruction."""
        check_texts(texts, offset)
        return EncodedBatch([TextInput(text, instruction) for text in texts])

    def encode_pairs(
        self, pairs: Sequence[InstructedPair], template: AnyTemplate, *, offset: int = 0
    ) -> EncodedBatch:
        """Wrap pairs with their instructions and template."""
        check_texts([query for query, _, _ in pairs], offset, "query")
        check_texts([document for _, document, _ in pairs], offset, "document")
        name: RerankTemplate = template if isinstance(template, str) else "card"
        custom = template if isinstance(template, PairTemplate) else None
        return EncodedBatch(
            [TextInput(text, task, query, name, custom) for query, text, task in pairs]
        )

    def pair_encoder(self, template: AnyTemplate) -> Encode[InstructedPair]:
        """Return `encode_pairs` for one template."""
        return partial(self.encode_pairs, template=template)
