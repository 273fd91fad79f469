"""A server on the loopback interface that speaks every dialect, and misbehaves on request.

Its vectors and scores are functions of the texts, so that a test sees at once when a result comes
back for another input. The answers have the shapes of the real servers, with all fields.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WIDTH = 8
MODEL = "stub-model"


def vector(text, width=WIDTH):
    """Numbers that belong to a text. A float32 holds them exactly."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[place] - 128) / 128 or 0.5 for place in range(width)]


def score(query, document):
    """A probability that belongs to a pair of texts. A float32 holds it exactly."""
    digest = hashlib.sha256(f"{query}\0{document}".encode()).digest()
    return (int.from_bytes(digest[:2], "big") + 1) / (2**16 + 1)


@dataclass
class Fault:
    """Fault that replaces a correct answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """JSON, or bytes to send as they are."""
    change: Callable[[Any], Any] | None = None
    """Changes a good answer."""
    wait: float = 0.0
    """Seconds before the answer."""
    drip: float = 0.0
    """Seconds between the bytes of the answer."""
    cut: int | None = None
    """Bytes of the body after which the connection ends, although more were announced."""
    reset: bool = False
    """End the connection with a reset instead of a farewell."""


@dataclass
class Received:
    path: str
    body: Any
    headers: dict[str, str]


class StubServer:
    """Use as a context manager.

    `faults` are used up one per POST; `rule` is asked about every POST, and returns a fault or
    None.
    """

    def __init__(self, dialect="openai", *, key=None, model=MODEL, max_model_len=8192):
        self.dialect, self.key, self.model = dialect, key, model
        self.max_model_len = max_model_len
        self.faults = deque()
        self.rule = lambda path, body: None
        self.received = []
        self.gets = []
        self._ids = {}
        self.active = self.most_active = 0
        self._lock = threading.Lock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"stub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail_next(self, *faults):
        self.faults.extend(faults)

    def answer_get(self, path):
        if self.dialect == "vllm" and path == "/v1/models":
            card = {"id": self.model, "object": "model", "root": f"/models/{self.model}"}
            return {"object": "list", "data": [{**card, "max_model_len": self.max_model_len}]}
        if self.dialect == "tei" and path == "/info":
            return {
                "model_id": self.model,
                "model_sha": "abc123",
                "model_dtype": "float16",
                "model_type": {"embedding": {"pooling": "last_token"}},
                "max_input_length": 4096,
                "max_client_batch_size": 32,
                "version": "1.9.3",
            }
        return None

    def answer_post(self, path, body):
        """The good answer, or None where this server has no such path."""
        if self.dialect == "vllm" and path in ("/tokenize", "/detokenize"):
            return self._tokenize(body) if path == "/tokenize" else self._detokenize(body)
        made = _ANSWERS.get((self.dialect, path.removeprefix("/proxy")))
        return made(body) if made else None

    def _tokenize(self, body):
        """Split into tokens: a token is a word with the white space before it."""
        assert body["add_special_tokens"] is False
        words = re.findall(r"\s*\S+|\s+$", body["prompt"])
        with self._lock:
            ids = [self._ids.setdefault(word, len(self._ids)) for word in words]
        limit = self.max_model_len
        return {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None}

    def _detokenize(self, body):
        words = list(self._ids)
        return {"prompt": "".join(words[token] for token in body["tokens"])}


def _openai_embeddings(body):
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector(text)) if as_base64 else vector(text),
        }
        for index, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0}
    return {"id": "embd-1", "object": "list", "model": body["model"], "data": data, "usage": usage}


def _sglang_embeddings(body):
    assert "encoding_format" not in body
    return _openai_embeddings(body)


def _tei_embed(body):
    assert set(body) == {"inputs", "truncate", "normalize"}
    return [vector(text) for text in body["inputs"]]


def _cohere_rerank(body):
    results = [
        {"index": index, "relevance_score": score(body["query"], text)}
        for index, text in enumerate(body["documents"])
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": "07734bd2", "results": results, "meta": meta}


def _jina_rerank(body):
    assert body["return_documents"] is False
    answer = _cohere_rerank(body)
    return {"model": body["model"], "usage": {"total_tokens": 9}, "results": answer["results"]}


def _infinity_rerank(body):
    results = _cohere_rerank(body)["results"]
    return {
        "object": "rerank",
        "results": [{**result, "document": None} for result in results],
        "model": body["model"],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "id": "infinity-1",
        "created": 1700000000,
    }


def _vllm_rerank(body):
    query = f"{body['instruction']}|{body['query']}"
    results = [
        {
            "index": index,
            "document": {"text": text, "multi_modal": None},
            "relevance_score": score(query, text),
        }
        for index, text in enumerate(body["documents"])
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"id": "score-1", "model": body["model"], "usage": usage, "results": results}


def _vllm_score(body):
    instruction = body["instruction"]
    firsts, seconds = body["text_1"], body["text_2"]
    assert len(firsts) == len(seconds)
    data = [
        {
            "index": index,
            "object": "score",
            "score": score(f"{instruction}|{first}", second),
        }
        for index, (first, second) in enumerate(zip(firsts, seconds, strict=True))
    ]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"id": "score-1", "object": "list", "model": body["model"], "data": data, "usage": usage}


def _vllm_classify(body):
    data = []
    for index, prompt in enumerate(body["input"]):
        head, colon, rest = prompt.partition("<Document>:")
        probs = [score(head + colon, rest)]
        data.append({"index": index, "label": "LABEL_0", "probs": probs, "num_classes": 1})
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"id": "classify-1", "object": "list", "created": 1, "data": data, "usage": usage}


def _tei_rerank(body):
    assert set(body) == {"query", "texts", "truncate", "raw_scores"}
    ranks = [
        {"index": index, "score": score(body["query"], text)}
        for index, text in enumerate(body["texts"])
    ]
    return sorted(ranks, key=lambda rank: -rank["score"])


def _sglang_rerank(body):
    query = f"{body['instruct']}|{body['query']}"
    ranks = [
        {
            "score": score(query, text),
            "document": None,
            "index": index,
            "meta_info": {"prompt_tokens": 9},
        }
        for index, text in enumerate(body["documents"])
    ]
    return sorted(ranks, key=lambda rank: -rank["score"])


def _sglang_score(body):
    assert body["label_token_ids"] == [2152, 9693]
    assert body["apply_softmax"] is True
    yes = [score(body["query"], item) for item in body["items"]]
    rows = [[1 - p, p] for p in yes]
    return {"scores": rows, "model": body["model"], "usage": None, "object": "scoring"}


_ANSWERS = {
    ("openai", "/v1/embeddings"): _openai_embeddings,
    ("vllm", "/v1/embeddings"): _openai_embeddings,
    ("vllm", "/v1/rerank"): _vllm_rerank,
    ("vllm", "/score"): _vllm_score,
    ("vllm", "/classify"): _vllm_classify,
    ("tei", "/embed"): _tei_embed,
    ("tei", "/rerank"): _tei_rerank,
    ("infinity", "/embeddings"): _openai_embeddings,
    ("infinity", "/rerank"): _infinity_rerank,
    ("sglang", "/v1/embeddings"): _sglang_embeddings,
    ("sglang", "/v1/rerank"): _sglang_rerank,
    ("sglang", "/v1/score"): _sglang_score,
    ("cohere", "/v2/rerank"): _cohere_rerank,
    ("jina", "/v1/rerank"): _jina_rerank,
}


def _base64(numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that leaves early is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets: the second does not wait
    stub: StubServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.stub.gets.append(self.path)
        answer = self.stub.answer_get(self.path)
        if answer is None:
            self._send(Fault(404, body={"detail": "Not Found"}), None)
        else:
            self._send(Fault(), answer)

    def do_POST(self):
        stub = self.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub._lock:
            stub.received.append(Received(self.path, body, dict(self.headers)))
            stub.active += 1
            stub.most_active = max(stub.most_active, stub.active)
            fault = stub.faults.popleft() if stub.faults else None
        try:
            fault = fault or stub.rule(self.path, body) or Fault()
            if stub.key and self.headers.get("Authorization") != f"Bearer {stub.key}":
                # as OpenAI does it, which repeats the wrong key
                sent = self.headers.get("Authorization", "nothing")
                fault = Fault(401, body={"error": {"message": f"Incorrect key provided: {sent}"}})
            answer = stub.answer_post(self.path, body) if fault.status == 200 else None
            if fault.status == 200 and answer is None:
                fault = Fault(404, body={"detail": "Not Found"})
            time.sleep(fault.wait)
            self._send(fault, answer)
        finally:
            with stub._lock:
                stub.active -= 1

    def _send(self, fault, answer):
        if fault.change is not None:
            answer = fault.change(answer)
        if fault.body is not None:
            answer = fault.body
        payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in fault.headers.items():
            self.send_header(name, value)
        if fault.reset and fault.cut is None:
            self._reset()
            return
        self.end_headers()
        if fault.cut is not None:
            self.wfile.write(payload[: fault.cut])
            self.wfile.flush()
            if fault.reset:
                self._reset()
            else:
                self.close_connection = True
            return
        if fault.drip:
            for byte in payload:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.drip)
            return
        self.wfile.write(payload)

    def _reset(self):
        # lingering for no time makes the kernel send RST
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
