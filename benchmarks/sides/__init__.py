"""The compared ways to embed and to rerank; each runs in a `benchmarks.child.Child`."""
