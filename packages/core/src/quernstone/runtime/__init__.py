"""Run a model for many callers: sessions, the shared worker, windows of large jobs."""
