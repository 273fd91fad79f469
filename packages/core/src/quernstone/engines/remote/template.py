"""The reranker's prompt as a chat template, for servers that render it themselves.

    python -m quernstone.engines.remote.template > qwen3_reranker.jinja

It is generated from `quernstone.encoding.prompts`, so it always matches the other engines. vLLM
calls the variable of the instruction `instruction`, SGLang `instruct`; both put the query into the
first message and the document into the second.
"""

from __future__ import annotations

import re
import sys

import orjson

from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, render_pair

_QUERY, _DOCUMENT, _INSTRUCTION = "\x01", "\x02", "\x03"


def chat_template() -> str:
    """Return the `card` template as one Jinja expression, because Jinja strips a final newline."""
    variables = {
        _QUERY: 'messages[0]["content"]',
        _DOCUMENT: 'messages[1]["content"]',
        _INSTRUCTION: f"(instruction or instruct or {_quoted(DEFAULT_INSTRUCTION)})",
    }
    parts = re.split(f"([{''.join(variables)}])", render_pair(_QUERY, _DOCUMENT, _INSTRUCTION))
    return "{{ " + " ~ ".join(variables.get(part) or _quoted(part) for part in parts) + " }}"


def _quoted(text: str) -> str:
    """Quote a string for Jinja, with the escapes of JSON.

    In single quotes, because SGLang identifies the model by `"yes" or "no"` in the template.
    """
    escaped = orjson.dumps(text).decode()[1:-1]
    return "'" + escaped.replace('\\"', '"').replace("'", "\\'") + "'"


if __name__ == "__main__":
    sys.stdout.write(chat_template())
