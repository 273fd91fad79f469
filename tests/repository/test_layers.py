"""Imports point down the layers, and no two modules import each other."""

from pathlib import Path

import pytest
from tests.support.imports import Graph, circles, import_graph

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "quernstone": "packages/core/src",
    "quernstone_qdrant": "packages/qdrant/src",
    "langchain_quernstone": "packages/langchain/src",
    "llama_index": "packages/llamaindex/src",
}

# From the ground up. A module may import from its own layer and from those before it; the
# package's `__init__` only re-exports, so it stands outside.
LAYERS = {
    "quernstone": [
        ["types", "errors", "lazy"],
        ["batching", "pairs", "progress"],
        ["encoding", "checkpoints", "tables"],
        ["attention", "kernels"],
        ["qwen3"],
        ["engines"],
        ["runtime"],
        ["embedder", "reranker", "model"],
        ["doctor", "bench", "evaluation", "testing", "frameworks", "serve"],
        ["cli"],
    ],
    "quernstone_qdrant": [
        ["errors"],
        ["documents"],
        ["settings", "overrides", "filters", "embedders"],
        [
            "sources",
            "targets",
            "store",
            "writes",
            "retry",
            "provenance",
            "identity",
            "reconcile",
            "chunk_sizes",
        ],
        [
            "checks",
            "loading",
            "verify",
            "repair",
            "report",
            "searching",
            "opened",
            "embedder_choice",
        ],
        ["loader", "searcher", "migration"],
        ["ray", "ray_rows"],
        ["cli"],
    ],
}


def upward_imports(graph: Graph, package: str, layers: list[list[str]]) -> list[str]:
    """Return the imports that point up, as `importer -> imported`."""
    level = {room: number for number, rooms in enumerate(layers) for room in rooms}

    def level_of(module: str) -> int | None:
        room = module.removeprefix(package).split(".")[1:2]
        return level[room[0]] if room else None

    found = []
    for module, imported in graph.items():
        for other in imported:
            here, there = level_of(module), level_of(other)
            if here is not None and there is not None and there > here:
                found.append(f"{module} -> {other}")
    return sorted(found)


@pytest.fixture(scope="module", params=FOLDERS)
def package(request):
    return request.param


@pytest.fixture(scope="module")
def graph(package):
    return import_graph(ROOT / FOLDERS[package], package)


def test_no_import_circles(graph):
    assert circles(graph) == []


@pytest.mark.parametrize("package", LAYERS, scope="module")
def test_imports_point_down(graph, package):
    assert upward_imports(graph, package, LAYERS[package]) == []


def test_core_has_at_most_ten_modules_beside_its_folders():
    modules = list((ROOT / "packages/core/src/quernstone").glob("*.py"))
    assert len(modules) <= 10, sorted(module.name for module in modules)


def test_nothing_imports_an_adapter():
    for package in ("quernstone", "quernstone_qdrant"):
        for path in (ROOT / FOLDERS[package]).rglob("*.py"):
            assert "import langchain_quernstone" not in path.read_text()
            assert "from langchain_quernstone" not in path.read_text()


def test_the_graph_sees_imports_under_type_checking_and_inside_functions(tmp_path):
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "roof.py").write_text("def build():\n    from house import cellar\n")
    (folder / "cellar.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.roof import build\n"
    )
    graph = import_graph(tmp_path, "house")
    assert circles(graph) == [["house.cellar", "house.roof"]]
    assert upward_imports(graph, "house", [["cellar"], ["roof"]]) == ["house.cellar -> house.roof"]
