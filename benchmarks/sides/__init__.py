"""Ways to embed and to rerank that are compared; each lives in a `benchmarks.child.Child`."""
