"""`quern serve` as a process: it starts, answers, and stops as an orchestrator expects."""

import signal
import time
from threading import Thread

import httpx
import pytest
from tests.support.serving import is_ready, start


def test_running_requests_finish_after_sigterm(tmp_path):
    socket, keys = tmp_path / "quern.sock", tmp_path / "keys"
    keys.write_text("# the web workers\nfirst-key\n\nsecond-key\n")
    log = tmp_path / "log"
    process = start(log, "--embed", "tiny", "--uds", str(socket), "--api-key-file", str(keys))
    client = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)),
        base_url="http://quern",
        headers={"Authorization": "Bearer second-key"},
        timeout=30,
    )
    while not is_ready(client):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    answers = []
    texts = [f"{number} grain " * 50 for number in range(300)]

    def request():
        answers.append(client.post("/v1/embeddings", json={"input": texts}))

    thread = Thread(target=request)
    thread.start()
    while "quern_waiting_tokens 0.0" in client.get("/metrics").text:
        pass
    process.send_signal(signal.SIGTERM)
    thread.join()
    process.wait(timeout=15)
    assert [answer.status_code for answer in answers] == [200]
    assert len(answers[0].json()["data"]) == 300
    assert "second-key" not in log.read_text()
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no model to serve: pass --embed MODEL, --rerank MODEL, or both"),
        (["--embed", "/no/such/model"], 1, "/no/such/model"),
        (["--embed", "tiny", "--max-wait", "0"], 2, "--max-wait is 0.0"),
    ],
)
def test_what_cannot_be_served_ends_with_one_line(tmp_path, arguments, code, words):
    log = tmp_path / "log"
    assert start(log, *arguments).wait(timeout=60) == code
    assert words in log.read_text()
    assert "Traceback" not in log.read_text()
