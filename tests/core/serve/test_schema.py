"""Whatever schemathesis makes of the OpenAPI document gets a documented answer, and never 500."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
POSTS = [
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/score",
    "/quernstone/v1",
    "/quernstone/v1/template",
]
GETS = ["/v1/models", "/quernstone/v1", "/health", "/metrics"]


@pytest.fixture(scope="module")
def document(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def check(document, path, mode, examples):
    """Send requests that fit the document, or do not, and check every answer."""
    operation = document[path]["POST"]

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case):
        case.call_and_validate(checks=CHECKS)

    send()


def test_the_document_has_all_paths(document):
    described = {
        (method, path) for path in document for method in document[path] if method != "parameters"
    }
    assert {path for _, path in described} == {*POSTS, *GETS}
    assert "$ref" not in json.dumps([document.raw_schema["paths"][path] for path in POSTS])


@pytest.mark.parametrize("mode", GenerationMode, ids=str)
@pytest.mark.parametrize("path", POSTS)
def test_no_request_breaks_the_server(document, path, mode):
    check(document, path, mode, examples=15)


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode, ids=str)
@pytest.mark.parametrize("path", POSTS)
def test_no_request_breaks_the_server_slow(document, path, mode):
    check(document, path, mode, examples=150)


@pytest.mark.parametrize("path", GETS)
def test_what_can_be_read(document, path):
    document[path]["GET"].Case().call_and_validate(checks=CHECKS)
