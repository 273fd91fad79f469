"""The commands that this distribution adds to `quern`: one module each."""
