"""The torch engine, which runs Qwen3 on packed sequences."""
