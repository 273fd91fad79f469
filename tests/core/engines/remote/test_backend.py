"""Requests: how many inputs, how many at once, who waits, and who stops waiting."""

import asyncio
import gc
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tests.support.embedding_server import MODEL, Fault, score, vector

from quernstone import (
    ClosedError,
    ConfigError,
    Embedder,
    InputError,
    RemoteOptions,
    RemoteRequestError,
    Reranker,
)
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.types import TextInput


def inputs(texts):
    return [TextInput(text) for text in texts]


def sizes(stub, after=1):
    """Inputs of each request, without the probe."""
    return sorted(len(request.body["input"]) for request in stub.received[after:])


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, []), (1, [1]), (64, [64]), (65, [32, 33]), (200, [50, 50, 50, 50])],
)
def test_requests_are_full_and_even(count, wanted, serve, connect):
    stub = serve()
    backend = connect(stub)
    texts = [f"text {n}" for n in range(count)]
    rows = backend.submit(inputs(texts)).result(10)
    assert rows.shape == (count, 8)
    assert rows.tolist() == [vector(text) for text in texts]
    assert sizes(stub) == wanted


def test_the_number_of_inputs_can_be_set(serve, connect):
    stub = serve()
    connect(stub, max_inputs=3).submit(inputs("abcdefg")).result(10)
    assert sizes(stub) == [1, 3, 3]


def test_a_request_keeps_to_its_bytes_and_a_longer_text_goes_alone(serve, connect):
    stub = serve()
    backend = connect(stub, request_bytes=1000)
    texts = ["a" * 400, "b" * 400, "c" * 400, "d" * 5000, "\n" * 400, "é" * 400, "e"]
    assert backend.submit(inputs(texts)).result(10).tolist() == [vector(text) for text in texts]
    sent = sorted("".join(text[0] for text in one.body["input"]) for one in stub.received[1:])
    assert sent == ["\n", "ab", "c", "d", "ée"]  # as JSON a line break has two bytes, as é has


def test_requests_run_side_by_side_up_to_the_limit(serve, connect):
    stub = serve()
    backend = connect(stub, max_inputs=1, max_concurrency=3)
    stub.rule = lambda path, body: Fault(wait=0.1)
    texts = [str(n) for n in range(9)]
    futures = [backend.submit(inputs(texts)) for _ in range(2)]
    for future in futures:
        assert future.result(10).tolist() == [vector(text) for text in texts]
    assert stub.most_active == 3


def test_waiting_for_a_slot_does_not_count_against_the_deadline(serve, connect):
    stub = serve()
    backend = connect(stub, max_inputs=1, max_concurrency=1, timeout=5, deadline=0.5)
    stub.rule = lambda path, body: Fault(wait=0.1)
    texts = [str(n) for n in range(9)]
    assert len(backend.submit(inputs(texts)).result(10)) == 9


def test_many_threads_get_their_own_rows(serve, connect):
    backend = connect(serve())
    wrong = []

    def call(seed):
        for turn in range(5):
            texts = [f"{seed} {turn} {n}" for n in range(seed + 1)]
            if backend.submit(inputs(texts)).result(20).tolist() != [vector(t) for t in texts]:
                wrong.append((seed, turn))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cancelled_future_stops_its_requests(serve, connect):
    stub = serve()
    backend = connect(stub, max_inputs=1, max_concurrency=2)
    stub.rule = lambda path, body: Fault(wait=0.3) if "slow" in body["input"][0] else None
    future = backend.submit(inputs(["slow"] * 40))
    while len(stub.received) < 3:
        time.sleep(0.005)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(5)
    assert backend.submit(inputs(["next"])).result(10).tolist() == [vector("next")]
    time.sleep(0.3)
    assert len(stub.received) <= 1 + 4 + 1  # the probe, what was under way, the next


def test_the_first_error_stops_the_other_requests(serve, connect):
    stub = serve()
    backend = connect(stub, max_inputs=1, max_concurrency=1)
    stub.rule = lambda path, body: Fault(403) if body["input"] == ["bad"] else Fault(wait=0.01)
    with pytest.raises(RemoteRequestError):
        backend.submit(inputs(["a", "bad", *["more"] * 50])).result(10)
    time.sleep(0.1)
    assert len(stub.received) <= 4


def test_closing_finishes_what_was_submitted(serve, connect):
    stub = serve()
    backend = connect(stub, max_inputs=1)
    stub.rule = lambda path, body: Fault(wait=0.05)
    future = backend.submit(inputs("abc"))
    backend.close()
    assert future.result(0).tolist() == [vector(text) for text in "abc"]
    with pytest.raises(ClosedError):
        backend.submit(inputs("a"))
    backend.close()


def test_a_start_that_fails_leaves_no_thread_behind(serve, connect):
    stub = serve()
    stub.fail_next(Fault(403))
    with pytest.raises(RemoteRequestError):
        connect(stub)
    names = [thread.name for thread in threading.enumerate()]
    assert "quernstone-remote" not in names


# ------------------------------------------------------- the same, as users of the package see it


def options(stub, **settings):
    return RemoteOptions(endpoint=stub.url, dialect=stub.dialect, **settings)


def unit(text, dimensions=8):
    cut = np.array(vector(text)[:dimensions])
    return cut / np.linalg.norm(cut)


def test_an_embedder_cuts_and_normalises_what_the_server_sends(serve):
    stub = serve("vllm")
    with Embedder(MODEL, engine="remote", engine_options=options(stub)) as embedder:
        assert embedder.dimensions == 8
        rows = embedder.embed_documents(["a", "b"])
        assert rows == pytest.approx(np.stack([unit("a"), unit("b")]), abs=1e-6)
        asked = f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:a"
        assert embedder.embed_query("a") == pytest.approx(unit(asked), abs=1e-6)
        assert embedder.info.engine == "remote"
        assert embedder.info.device == stub.url
    assert "dimensions" not in stub.received[-1].body


def test_a_mapping_and_an_async_caller_do_as_well(serve):
    stub = serve("tei")
    settings = {"endpoint": stub.url, "dialect": "tei"}
    with Embedder(MODEL, engine="remote", engine_options=settings) as embedder:

        async def run():
            return await asyncio.gather(*(embedder.aembed_query(str(n), "") for n in range(20)))

        found = asyncio.run(run())
    assert np.stack(found) == pytest.approx(np.stack([unit(str(n)) for n in range(20)]), abs=1e-6)


def test_an_async_caller_that_stops_waiting_cancels_its_requests(serve):
    stub = serve()
    with Embedder(MODEL, engine="remote", engine_options=options(stub)) as embedder:
        stub.rule = lambda path, body: Fault(wait=0.2)

        async def run():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(embedder.aembed_documents(["a"]), 0.05)

        asyncio.run(run())
        stub.rule = lambda path, body: None
        assert embedder.embed_documents(["b"]) == pytest.approx(unit("b")[None], abs=1e-6)


def test_a_long_list_whose_caller_stops_waiting_is_not_sent_to_its_end(serve):
    stub = serve()
    one_by_one = options(stub, max_inputs=1, max_concurrency=1)
    with Embedder(MODEL, engine="remote", engine_options=one_by_one) as embedder:
        stub.rule = lambda path, body: Fault(wait=0.1)

        async def run():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(embedder.aembed_documents(["a"] * 100), 0.3)

        asyncio.run(run())
    assert len(stub.received) < 50


def test_a_reranker_ranks_by_what_the_server_scores(serve):
    stub = serve("vllm")
    documents = [f"document {n}" for n in range(30)]
    with Reranker(
        MODEL, engine="remote", engine_options=options(stub, rendered_by="server")
    ) as reranker:
        ranked = reranker.rerank("q", documents, top_n=5)
    wanted = [score(f"{DEFAULT_INSTRUCTION}|q", document) for document in documents]
    order = sorted(range(30), key=lambda index: -wanted[index])[:5]
    assert [one.index for one in ranked] == order
    assert [one.score for one in ranked] == pytest.approx([wanted[index] for index in order])


def test_embedders_of_equal_options_share_one_connection(serve):
    stub = serve()
    one = Embedder(MODEL, engine="remote", engine_options=options(stub))
    two = Embedder(MODEL, engine="remote", engine_options=options(stub))
    other = Embedder(MODEL, engine="remote", engine_options=options(stub, timeout=9))
    assert len(stub.received) == 2  # one probe for each connection
    one.close()
    assert two.embed_documents(["a"]) == pytest.approx(unit("a")[None], abs=1e-6)
    two.close()
    other.close()
    gc.collect()


def test_what_the_server_decides_cannot_be_asked_for_here(serve):
    stub = serve()
    with pytest.raises(ConfigError, match="`dtype` is 'float32', but with"):
        Embedder(MODEL, engine="remote", dtype="float32", engine_options=options(stub))


def test_an_input_that_the_server_refuses_is_named_in_a_stream(serve):
    stub = serve()
    stub.rule = lambda path, body: Fault(422) if "bad" in body["input"] else None
    texts = [str(n) for n in range(3000)]
    texts[2500] = "bad"
    with (
        Embedder(MODEL, engine="remote", engine_options=options(stub)) as embedder,
        pytest.raises(InputError) as caught,
    ):
        list(embedder.stream(texts))
    assert caught.value.index == 2500
