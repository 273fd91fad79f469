"""Real engines of vLLM, in a virtual environment of their own: `make test-vllm`."""

import os

import pytest

# without it every engine binds its threads to the same core
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="session")
def engine_options():
    """What starts fast and fits on a small machine: no compiler, little memory."""
    return {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
