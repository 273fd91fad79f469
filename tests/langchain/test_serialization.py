"""`dumpd` and `load` of LangChain: the settings come back, and no secret goes out."""

import json

import pytest
from langchain_core.load import dumpd, dumps, load

from langchain_quernstone import QuernstoneCrossEncoder, QuernstoneEmbeddings, QuernstoneReranker
from quernstone import PairTemplate, RemoteOptions

KEY = "a-secret-key"
TEMPLATE = PairTemplate(prefix="{query}:", positive="yes", temperature=5.0)
REMOTE = {"endpoint": "http://gpu-box:8000", "dialect": "vllm"}
NAMESPACES = ["langchain_quernstone"]
CASES = [
    (QuernstoneEmbeddings, {"model": "tiny", "dimensions": 64, "instruction": "Find mills"}),
    (QuernstoneReranker, {"model": "tiny", "top_n": None, "score_threshold": 0.5}),
    (QuernstoneReranker, {"model": "tiny", "template": TEMPLATE}),
    (QuernstoneCrossEncoder, {"model": "tiny", "template": "eval"}),
]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_settings_come_back(kind, settings):
    original = kind(**settings)
    found = load(json.loads(dumps(original)), allowed_objects=[kind], valid_namespaces=NAMESPACES)
    assert type(found) is kind
    assert found == original


@pytest.mark.parametrize("kind", [QuernstoneEmbeddings, QuernstoneReranker, QuernstoneCrossEncoder])
@pytest.mark.parametrize(
    "options", [{**REMOTE, "api_key": KEY}, RemoteOptions(**REMOTE, basic_auth=f"me:{KEY}")]
)
def test_a_key_is_never_written(kind, options):
    original = kind(model="tiny", engine="remote", engine_options=options)
    written = dumps(original)
    assert KEY not in written
    found = load(json.loads(written), allowed_objects=[kind], valid_namespaces=NAMESPACES)
    assert found.engine_options == REMOTE


def test_options_of_a_library_are_not_written():
    original = QuernstoneEmbeddings(model="tiny", engine_options={"token": KEY})
    written = dumpd(original)
    assert written["type"] == "not_implemented"
    assert KEY not in json.dumps(written)
