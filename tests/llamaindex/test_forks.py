"""Ingestion by processes that are forked from one that used the model."""

import os

import pytest
from tests.support.forks import run_program


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_pipeline_with_workers():
    run_program("""
import asyncio
import multiprocessing

import numpy as np
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.embeddings.quernstone import QuernstoneEmbedding

multiprocessing.set_start_method("fork")
model = QuernstoneEmbedding(model_name="tiny", dtype="float32")
texts = [f"a mill {number}" for number in range(6)]
expected = [model.get_text_embedding(text) for text in texts]
pipeline = IngestionPipeline(transformations=[model], disable_cache=True)
documents = [Document(text=text) for text in texts]
for nodes in (
    pipeline.run(documents=documents, num_workers=2),
    asyncio.run(pipeline.arun(documents=documents, num_workers=2)),
):
    found = {node.text: node.embedding for node in nodes}
    np.testing.assert_allclose([found[text] for text in texts], expected, atol=1e-6)
""")
