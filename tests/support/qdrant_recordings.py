"""Requests and answers recorded from a real Qdrant server, and the collections they found."""

import copy
import json
import re
import uuid
from pathlib import Path

import httpx
import numpy as np

FIXTURES = Path(__file__).parents[1] / "qdrant" / "fixtures"
SINGLE = json.loads((FIXTURES / "recorded-1.18.3.json").read_text())
CLUSTER = json.loads((FIXTURES / "recorded-1.18.3-cluster.json").read_text())
CUT = re.compile(r"\.\.\. (\d+) (numbers|in all)")
STRICT = re.compile("Limit exceeded|Exact search disabled|Index required|Rate limiting")
POINTS = 40

REC, STRICT_MODE = (
    next(example["request"] for example in SINGLE["PUT /collections/NAME 200"] if found(example))
    for found in (
        lambda example: "sparse_vectors" in example["request"],
        lambda example: "strict_mode_config" in example["request"],
    )
)


def expanded(value):
    """Fill up a list that the recording cut."""
    if isinstance(value, dict):
        return {key: expanded(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    cut = CUT.fullmatch(value[-1]) if value and isinstance(value[-1], str) else None
    parts = [expanded(part) for part in (value[:-1] if cut else value)]
    for number in range(len(parts), int(cut[1]) if cut else 0):
        part = copy.deepcopy(parts[number % 2])
        if isinstance(part, dict) and "id" in part:
            part["id"] = number if isinstance(part["id"], int) else str(uuid.UUID(int=number))
        elif isinstance(part, str):
            part = str(uuid.UUID(int=number))
        parts.append(part)
    return parts


class World:
    """Collections in the state that the recorded requests found."""

    def __init__(self, server):
        self.server, self.http = server, httpx.Client(base_url=server.url, timeout=20)

    def clear(self):
        """Delete all collections, and their aliases with them."""
        for name in list(self.server.collections):
            self.done("DELETE", f"/collections/{name}")

    def send(self, method, path, body=None):
        return self.http.request(method, path, json=body)

    def done(self, method, path, body=None):
        answer = self.send(method, path, body)
        assert answer.status_code == 200, answer.text

    def build_rec(self):
        """Replace all collections by one with named vectors, indexes and an alias."""
        self.clear()
        self.done("PUT", "/collections/rec", REC)
        schemas = [
            example["request"]
            for example in SINGLE["PUT /collections/NAME/index?wait=true 200"]
            if example["request"]["field_name"] != "quernstone.key"
        ]
        for schema in schemas:
            self.done("PUT", "/collections/rec/index?wait=true", schema)
        self.done(
            "PUT", "/collections/rec/vectors/new", {"dense": {"size": 8, "distance": "Cosine"}}
        )
        upsert = SINGLE["PUT /collections/NAME/points?wait=true 200"][0]["request"]
        payload = upsert["points"][0]["payload"]
        self.done("PUT", "/collections/rec/points?wait=true", {
            "points": [
                {
                    "id": str(uuid.UUID(int=n)),
                    "vector": {
                        "dense": np.random.default_rng(n).normal(size=64).tolist(),
                        "prefix": np.random.default_rng(n).normal(size=16).tolist(),
                        "bm25": {"indices": [n % 7, 7 + n % 7], "values": [1.0, 0.5]},
                    },
                    "payload": expanded(payload) | {"year": n, "tag": f"t{n % 5}", "x": n / 7},
                }
                for n in range(POINTS)
            ]
        })  # fmt: skip
        self.done("POST", "/collections/aliases", {
            "actions": [{"create_alias": {"collection_name": "rec", "alias_name": "rec_alias"}}]
        })  # fmt: skip

    def build_strict(self, spend):
        self.done("PUT", "/collections/strict", STRICT_MODE)
        for _ in range(spend):
            points = [{"id": n, "vector": {"dense": [1.0] * 64}} for n in range(40)]
            self.done("PUT", "/collections/strict/points?wait=true", {"points": points})

    def build_plain(self, request, result):
        """Hold the points that an answer names, and others up to the end of its page."""
        self.done("PUT", "/collections/plain", {"vectors": {"size": 64, "distance": "Cosine"}})
        if not result:
            return
        rows = {point["id"]: point["payload"] for point in result["points"][:2]}
        last = uuid.UUID(list(rows)[-1]).int
        if result["next_page_offset"]:
            more = range(last + 1, last + 1 + request["limit"] - len(rows))
            rows |= {str(uuid.UUID(int=number)): {} for number in more}
            rows[result["next_page_offset"]] = {}
        points = [{"id": i, "vector": [0.5] * 64, "payload": row} for i, row in rows.items()]
        self.done("PUT", "/collections/plain/points?wait=true", {"points": points})

    def prepare(self, method, path, request, answer):
        """Build the collection of a request; return its name."""
        error = answer["status"].get("error", "") if isinstance(answer["status"], dict) else ""
        if "doesn't exist" in error or (method == "DELETE" and path.endswith("NAME")):
            return "nope"
        if method == "PUT" and path.endswith("NAME"):
            self.build_rec()
            return "rec_alias" if "Alias" in error else "rec" if "already" in error else "created"
        text = json.dumps(request)
        if STRICT.search(error) or '"u"' in text:
            self.build_strict(2 if "Operation requires" in error else 0)
            return "strict"
        if "batch" in (request or {}) and "operations" not in request:
            vectors = request["batch"]["vectors"]
            named = vectors if isinstance(vectors, dict) else {"": vectors}
            sizes = {name: rows[0] for name, rows in expanded(named).items() if name != "bm25"}
            params = {name: {"size": len(row), "distance": "Cosine"} for name, row in sizes.items()}
            sparse = {"sparse_vectors": {"bm25": {}}} if "bm25" in named else {}
            self.done("PUT", "/collections/loaded", {"vectors": params, **sparse})
            return "loaded"
        plain = "quernstone" in text or '"with_payload": []' in text or "4838" in text
        if plain and method == "POST" and "/delete" not in path:
            self.build_plain(request, answer["result"])
            return "plain"
        self.build_rec()
        return "rec"
