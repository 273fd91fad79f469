"""The site: its pages, its links, and the list of pages for language models."""

import subprocess

import pytest
from website import links, llms, stage

ROOT = stage.ROOT
LISTED = [path for _, path in llms.pages(llms.configuration()["nav"])]


def test_llms_txt_is_what_make_docs_writes():
    assert (ROOT / "docs" / "llms.txt").read_text() == llms.render()


def test_the_navigation_lists_every_page_once():
    pages = {
        str(page.relative_to(stage.DOCS))
        for page in stage.DOCS.rglob("*.md")
        if page.relative_to(stage.DOCS).parts[0] not in stage.NOT_PUBLISHED
    }
    assert sorted(path for path in LISTED if "repository/" not in path) == sorted(pages)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\nRead [this](a.md) first. Then that.", "Read this first."),
        (
            "---\ntitle: X\n---\n\n# T\n\n```sh\nls\n```\n\nA page\nof two lines:\n\n- a",
            "A page of two lines",
        ),
        ("# T\n\n第一句。第二句。", "第一句。"),
        ("# T\n\n[English](../a.md) | 简体中文\n\n第一句。第二句。", "第一句。"),
        ("# T\n\nEnglish | [简体中文](zh/a.md)\n\nFirst. Second.", "First."),
        ("# Title\n", ""),
    ],
    ids=["link", "front matter and code", "Chinese", "translated", "original", "empty"],
)
def test_the_first_sentence_of_a_page(text, expected):
    assert llms.first_sentence(text) == expected


def test_links_out_of_docs_lead_to_pages_of_the_site(tmp_path):
    stage.stage(tmp_path / "site", LISTED)
    service = (tmp_path / "site" / "serving.md").read_text()
    assert "](repository/deploy/Dockerfile.md)" in service
    page = (tmp_path / "site" / "repository/deploy/Dockerfile.md").read_text()
    assert page.startswith("# deploy/Dockerfile\n\n````docker\n")
    contributing = (tmp_path / "site" / "repository" / "CONTRIBUTING.md").read_text()
    assert "](../architecture.md)" in contributing
    assert not (tmp_path / "site" / "capabilities").exists()


def test_links_within_code_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage, "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text("pass\n")
    lines = ["[a](../code.py)", "`[b](../code.py)`", "```", "[c](../code.py)", "```"]
    (tmp_path / "docs" / "page.md").write_text("\n".join(lines))
    stage.stage(tmp_path / "site", [])
    lines[0] = "[a](repository/code.py.md)"
    assert (tmp_path / "site" / "page.md").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="b.html">', None),
        ('<a href="b.html#here">', None),
        ('<a href="folder/">', None),
        ('<a href="https://example.org">', None),
        ('<a href="c.html">', "a.html: c.html leads nowhere"),
        ('<a href="b.html#there">', "a.html: b.html#there names no anchor"),
        ('<script src="https://example.org/x.js">', "a.html: https://example.org/x.js is loaded"),
        ('<img src="b.png">', "a.html: b.png leads nowhere"),
    ],
    ids=["page", "anchor", "folder", "elsewhere", "no page", "no anchor", "script", "image"],
)
def test_faults_of_links(tmp_path, html, fault):
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h2 id="here">')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text("")
    found = links.faults(tmp_path)
    assert len(found) == (fault is not None)
    assert fault is None or found[0].startswith(fault)


@pytest.mark.slow
def test_the_site_builds_and_documents_the_public_classes():
    subprocess.run(["make", "docs"], cwd=ROOT, check=True)
    site = ROOT / llms.configuration()["site_dir"]
    for page, name in (
        ("core", "quernstone.Embedder.embed_documents"),
        ("langchain", "langchain_quernstone.QuernstoneReranker.compress_documents"),
        ("llamaindex", "llama_index.postprocessor.quernstone.QuernstoneRerank"),
        ("qdrant", "quernstone_qdrant.QdrantSearcher.search"),
    ):
        assert f'id="{name}"' in (site / "api" / page / "index.html").read_text()
    assert (site / "loading.md").read_text().startswith("# Loading documents into Qdrant")
