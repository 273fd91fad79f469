"""Turn records into points: chunks, payload layouts, ids and hashes, BM25, dead letters."""
