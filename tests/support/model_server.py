"""A server on the loopback that really runs a checkpoint, with exactly one thing broken.

It is written with transformers and the checkpoint's own tokenizer file, as servers are, and uses
nothing of ours but the chat template that our documentation tells people to give to vLLM.
"""

import base64
import json
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jinja2
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM

from quernstone.engines.remote.template import chat_template

FAULTS = {
    "mean": "averages the states of all tokens",
    "default prompt": "adds a prompt before every text",
    "padding": "pads on the right, and takes the state of the padding",
    "renumbered": "sorts, and numbers its answers in that order",
    "no template": "joins the query and the document",
    "another template": "renders a prompt of its own",
    "ignores instruction": "has a template without the instruction",
    "swapped": "answers P(no)",
}
PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@lru_cache(maxsize=4)
def load(folder, task, dtype):
    loader = AutoModel if task == "embed" else AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=dtype).eval()


class ModelServer:
    """Use as a context manager. Speaks `openai`, `vllm` and `tei`, whatever it is asked."""

    def __init__(
        self, folder, task, *, fault=None, dtype=torch.float32, name="model", ids=True, says=None
    ):
        assert fault is None or fault in FAULTS
        self.folder, self.task, self.fault, self.name = folder, task, fault, name
        self.takes_ids, self.says = ids, says
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = load(folder, task, dtype)
        template = chat_template()
        if fault == "ignores instruction":
            template = template.replace("instruction or instruct or ", "")
        if fault == "another template":
            template = 'Query: {{ messages[0]["content"] }}\nDocument: {{ messages[1]["content"] }}'
            template += "\nRelevant (yes/no): {{ instruction }}"
        self.template = jinja2.Environment().from_string(template)
        self._lock = threading.Lock()  # torch in one thread at a time

    def __enter__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: two of them wait for each other

            def do_GET(self):
                self.answer(server.get(self.path))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    self.answer(server.post(self.path, body))

            def answer(self, found):
                status, value = (200, found) if found is not None else (404, {"error": "no"})
                if isinstance(value, tuple):
                    status, value = value
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()

    # ------------------------------------------------------------------------------- answers

    def get(self, path):
        if path == "/v1/models" and self.says != "tei":
            owner = "vllm" if self.says == "vllm" else "other"
            card = {"id": self.name, "object": "model", "owned_by": owner, "max_model_len": 2048}
            return {"object": "list", "data": [card]}
        if path == "/info" and self.says == "tei":
            pooling = "mean" if self.fault == "mean" else "last_token"
            return {
                "model_id": self.name,
                "model_sha": None,
                "model_dtype": "float32",
                "model_type": {"embedding": {"pooling": pooling}},
                "max_input_length": 2048,
                "max_client_batch_size": 32,
            }
        return None

    def post(self, path, body):
        if path in ("/v1/embeddings", "/embed") and self.task == "embed":
            return self.embeddings(path, body)
        if self.task == "rerank" and path in ("/v1/rerank", "/score"):
            return self.reranked(path, body)
        if self.task == "rerank" and path == "/classify":
            scores = [self.probability(self.ids(text)) for text in body["input"]]
            return {"data": [{"index": i, "probs": [p]} for i, p in enumerate(scores)]}
        return None

    def embeddings(self, path, body):
        given = body["input" if path == "/v1/embeddings" else "inputs"]
        texts = [given] if isinstance(given, str) else given
        if not self.takes_ids and any(isinstance(text, list) for text in texts):
            return 422, {"error": "input must be text"}
        if self.fault == "renumbered":
            texts = sorted(texts, key=len)
        sequences = [text if isinstance(text, list) else self.ids(text) for text in texts]
        vectors = self.vectors(sequences)
        if path == "/embed":
            return [vector.tolist() for vector in vectors]
        encoded = body.get("encoding_format") == "base64"
        data = [
            {
                "index": index,
                "object": "embedding",
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if encoded
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "model": self.name, "data": data}

    def reranked(self, path, body):
        if path == "/v1/rerank":
            pairs = [(body["query"], document) for document in body["documents"]]
        else:
            pairs = list(zip(body["text_1"], body["text_2"], strict=True))
        scores = [self.pair(query, text, body.get("instruction")) for query, text in pairs]
        if path == "/score":
            return {"data": [{"index": i, "score": s} for i, s in enumerate(scores)]}
        results = [{"index": i, "relevance_score": s} for i, s in enumerate(scores)]
        results.sort(key=lambda result: -result["relevance_score"])  # as vLLM does
        if self.fault == "renumbered":
            results = [{**result, "index": index} for index, result in enumerate(results)]
        return {"model": self.name, "results": results}

    # --------------------------------------------------------------------------- computation

    def ids(self, text):
        front = PROMPT if self.fault == "default prompt" else ""
        return self.tokenizer.encode(front + text).ids

    def pair(self, query, document, instruction):
        if self.fault == "no template":
            return self.probability(self.tokenizer.encode(query, document).ids)
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        prompt = self.template.render(messages=messages, instruction=instruction, instruct=None)
        return self.probability(self.ids(prompt))

    def probability(self, ids):
        no, yes = (self.tokenizer.token_to_id(word) for word in ("no", "yes"))
        with torch.inference_mode():
            output = self.model(torch.tensor([ids]), logits_to_keep=1)
        p_no, p_yes = torch.softmax(output.logits[0, -1, [no, yes]].double(), dim=0).tolist()
        return p_no if self.fault == "swapped" else p_yes

    def vectors(self, sequences):
        longest = max(map(len, sequences))
        vectors = []
        for ids in sequences:
            if self.fault == "padding":
                ids = ids + [self.tokenizer.token_to_id("<|endoftext|>")] * (longest - len(ids))
            with torch.inference_mode():
                states = self.model(torch.tensor([ids])).last_hidden_state[0].float().numpy()
            vector = states.mean(axis=0) if self.fault == "mean" else states[-1]
            vectors.append(vector / np.linalg.norm(vector))
        return vectors
