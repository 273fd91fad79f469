"""Vectors that differ only by rounding pass; others do not."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.qdrant.conftest import WordEmbedder

from quernstone.types import unit_prefix
from quernstone_qdrant.checks.vectors import VectorCheck
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.settings import CollectionSettings

DATATYPES = ("float32", "float16", "uint8")


def make_check(datatype, dimensions, size):
    settings = CollectionSettings(vector="dense", prefix=size, datatype=datatype)
    provenance = Provenance.of(WordEmbedder(dimensions=dimensions), "docs")
    return VectorCheck(replace(provenance, settings=settings)), settings


def store(settings, vectors, size):
    """Return the vectors as a server with this datatype returns them."""
    stored = settings.encode(vectors)
    if settings.datatype == "float16":
        stored = stored.astype(np.float16).astype(np.float32)
    rounded = unit_prefix(vectors, size) * np.float32(1 + 2**-22)
    return [{"dense": full, "prefix": short} for full, short in zip(stored, rounded, strict=True)]


def unit_vectors(rng, count, dimensions, spread):
    """Return unit vectors; with a large `spread`, few values are much larger than the others."""
    rows = rng.standard_normal((count, dimensions)) * np.exp(
        spread * rng.standard_normal((count, dimensions))
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([64, 256, 1024]), st.sampled_from([0.0, 1.0, 2.0]))
def test_rounded_vectors_pass(datatype, seed, dimensions, spread):
    check, chosen = make_check(datatype, dimensions, dimensions // 4)
    rows = unit_vectors(np.random.default_rng(seed), 20, dimensions, spread)
    for vectors in store(chosen, rows, dimensions // 4):
        assert check.problems(vectors) == []


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([64, 256, 1024]))
def test_the_prefix_of_another_vector_is_found(datatype, seed, dimensions):
    check, chosen = make_check(datatype, dimensions, dimensions // 4)
    rows = unit_vectors(np.random.default_rng(seed), 20, dimensions, 0.0)
    stored = store(chosen, rows, dimensions // 4)
    for vectors, other in pairwise(stored):
        assert check.problems({**vectors, "prefix": other["prefix"]})


@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_a_prefix_of_another_precision_is_found(datatype):
    """A prefix that was rounded to 8 bits is wrong, although its cosine is 0.9999."""
    check, chosen = make_check(datatype, 256, 64)
    (vectors,) = store(chosen, unit_vectors(np.random.default_rng(0), 1, 256, 0.0), 64)
    coarse = np.round(vectors["prefix"] * 127) / 127
    coarse = (coarse / np.linalg.norm(coarse)).astype(np.float32)
    assert coarse @ vectors["prefix"] > 0.999
    assert check.problems({**vectors, "prefix": coarse})
