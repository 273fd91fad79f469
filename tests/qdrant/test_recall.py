"""The recall of short and of quantized vectors, on a smaller scale than benchmarks/recall.py."""

import pytest
from benchmarks.recall import SETTINGS, Precomputed, measure
from benchmarks.texts import chunks_and_questions

from quernstone import Embedder


@pytest.fixture(scope="module")
def rows():
    # At 10 MB of vectors, which is 10,240 of 256 numbers, Edge begins to index and to quantize.
    chunks, questions = chunks_and_questions(10_500, 150, size=80, packages=())
    questions = list(dict.fromkeys(questions))
    with Embedder("tiny", dtype="float32") as model:
        embedder = Precomputed(model, chunks, questions)
    return {
        name: measure(name, SETTINGS[name], chunks, questions, embedder)
        for name in ("full", "pair 64", "binary", "scalar")
    }


@pytest.mark.slow
def test_a_pair_finds_what_full_vectors_find_in_less_than_half_the_memory(rows):
    assert rows["pair 64"].recall >= 0.99 * rows["full"].recall
    assert rows["pair 64"].ram < 0.5 * rows["full"].ram


@pytest.mark.slow
def test_rescored_binary_vectors_find_nearly_all(rows):
    assert rows["binary"].recall >= 0.97 * rows["full"].recall
    assert rows["binary"].ram < 0.15 * rows["full"].ram


@pytest.mark.slow
def test_full_and_scalar_vectors_find_nearly_all(rows):
    assert rows["full"].recall > 0.97
    assert rows["scalar"].recall >= 0.99 * rows["full"].recall
