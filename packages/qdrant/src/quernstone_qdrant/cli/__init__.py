"""The commands that `quernstone-qdrant` adds to `quern`, one module each."""
