"""`quern collection prune`, `info`, `verify` and `repair`."""

import os

import orjson
from qdrant_client import QdrantClient
from tests.qdrant.cli.conftest import texts


def test_prune_deletes_what_is_gone_from_this_folder_only(quern, docs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "z.txt").write_text("Another folder.")
    quern("load", docs, "-c", "docs")
    quern("load", other, "-c", "docs")
    (docs / "a.txt").unlink()
    (other / "z.txt").unlink()
    (other / "y.txt").write_text("The other folder.")
    counted = quern("collection", "prune", docs, "-c", "docs", "--dry-run")
    assert counted.stdout == "docs in qdrant-data: 1 points would be deleted\n"
    assert len(texts()) == 5
    report = orjson.loads(quern("load", docs, "-c", "docs", "--prune", "--json").stdout)
    assert (report["pruned"], report["skipped"]) == (1, 3)
    assert texts() == ["# Bread\n\nBread is made of grain.", "Another folder.", "Rain falls.",
                       "Snow falls."]  # fmt: skip
    unknown = quern("collection", "prune", other, "-c", "docs")
    assert unknown.exit_code == 2
    assert "none of the first 1 documents" in unknown.stderr
    quern("load", other, "-c", "docs")
    pruned = quern("collection", "prune", other, "-c", "docs", "--json")
    assert orjson.loads(pruned.stdout)["pruned"] == 1
    everything = quern("load", other, "-c", "docs", "--prune-all", "--json")
    assert orjson.loads(everything.stdout)["pruned"] == 3
    assert texts() == ["The other folder."]


def test_collection_info_and_verify(quern, docs):
    quern("load", docs, "-c", "docs")
    info = quern("collection", "info", "-c", "docs")
    assert info.stdout.startswith("docs in qdrant-data: 4 points, green, ")
    assert "  vector: 64 numbers, Cosine\n" in info.stdout
    assert "  prompts: document='{text}', query='Instruct: " in info.stdout
    good = quern("collection", "verify", "-c", "docs")
    assert good.exit_code == 0, good.output
    assert (
        "4 points read, 4 vectors checked, 4 texts embedded again (least cosine 1.0" in good.stdout
    )
    assert good.stdout.endswith("the collection matches its records\n")

    client = QdrantClient(path="qdrant-data")
    point = client.scroll("docs", limit=1)[0][0]
    client.set_payload("docs", payload={"page_content": "forged"}, points=[point.id])
    client.close()
    bad = quern("collection", "verify", "-c", "docs", "--re-embed", 0, "--json")
    assert bad.exit_code == 1
    report = orjson.loads(bad.stdout)
    assert (report["passed"], report["failures"], report["embedded"]) == (False, 1, 0)
    assert point.id in report["problems"][0]
    tried = quern("collection", "repair", "-c", "docs", "--dry-run", "--json")
    assert orjson.loads(tried.stdout)["payloads"] == 1
    repaired = quern("collection", "repair", "-c", "docs")
    assert repaired.exit_code == 0
    assert repaired.stdout.startswith("docs: 4 points read; 1 payloads, 0 BM25 vectors and 0 short")
    assert quern("collection", "verify", "-c", "docs", "--re-embed", 0).exit_code == 0

    client = QdrantClient(path="qdrant-data")
    client.set_payload("docs", payload={"quernstone": {}}, points=[point.id])
    client.close()
    broken = quern("collection", "repair", "-c", "docs")
    assert broken.exit_code == 1
    assert "1 points cannot be repaired" in broken.stdout
    assert point.id in broken.stdout
    for command in (("info",), ("verify",), ("repair",), ("prune", docs)):
        missing = quern("collection", *command, "-c", "docs", "--path", "nowhere")
        assert missing.exit_code == 2
        assert not os.path.exists("nowhere")
