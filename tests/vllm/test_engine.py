"""What is vLLM's own: options, processes, and how they end."""

import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from quernstone import (
    ConfigError,
    Embedder,
    EngineError,
    ModelLoadError,
    NonFiniteError,
)

psutil = pytest.importorskip("psutil")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs this")
pytestmark = pytest.mark.slow


def descendants():
    """Processes started from here, without the one that Python keeps until the end."""
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if "multiprocessing.resource_tracker" not in " ".join(process.cmdline())
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 2}, "no engine option `tensor_parallel`; did you mean"),
        ({"xyzzy": 2}, "no engine option `xyzzy`$"),
        ({"dtype": "float32"}, "`dtype` is not an engine option: pass it to `Embedder`"),
        ({"runner": "generate"}, "`runner` cannot be set"),
        ({"trust_remote_code": True}, "code that comes with a checkpoint is never run"),
        ({"hf_overrides": "rope"}, "`hf_overrides` in `engine_options` must be a mapping"),
        ({"max_model_len": 10**9}, "vLLM does not accept these settings.*max_model_len"),
        ({"block_size": "many"}, "vLLM does not accept these settings.*block_size"),
    ],
)
def test_options_that_can_never_work(options, message):
    before = descendants()
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        Embedder("tiny", engine="vllm", engine_options=options)
    assert descendants() <= before


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tpu", "cpu:x"])
def test_a_device_that_this_build_of_vllm_does_not_run_on(device):
    with pytest.raises(ConfigError, match=r"this build of vLLM runs on 'cpu'"):
        Embedder("tiny", engine="vllm", device=device)


def test_an_unknown_dtype():
    with pytest.raises(ConfigError, match="unknown dtype 'int3'"):
        Embedder("tiny", engine="vllm", dtype="int3")


def test_too_little_memory_to_load(engine_options, capfd):
    with pytest.raises(ModelLoadError, match="kv_cache_memory_bytes"):
        Embedder(
            "tiny", engine="vllm", engine_options=engine_options | {"kv_cache_memory_bytes": 1000}
        )
    printed = capfd.readouterr()
    assert "not enough GPU memory available" in printed.err  # on a CPU, too: vLLM's own words
    assert printed.out == ""


def still_running(processes):
    """Names of those that have not ended after a minute: two cores may be busy."""
    _, left = psutil.wait_procs(processes, timeout=60)
    return [each.name() for each in left if each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def overflowing(checkpoints, tmp_path):
    """A model whose last layer exceeds float16."""
    folder = shutil.copytree(checkpoints("embedding-0.6b"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors")
    return str(folder)


@pytest.mark.timeout(200)
def test_what_goes_wrong_in_a_running_engine(overflowing, engine_options):
    before = descendants()
    embedder = Embedder(overflowing, engine="vllm", dtype="float16", engine_options=engine_options)
    ours = descendants() - before

    with pytest.raises(NonFiniteError, match="vLLM computes only in float16") as caught:
        embedder.embed_documents(["a", "b"])
    assert caught.value.index == 0

    for process in ours:
        if "EngineCore" in " ".join(process.cmdline()):
            process.kill()
    for _ in range(2):
        with pytest.raises(EngineError, match="vLLM's engine process has ended"):
            embedder.embed_query("a quern")
    embedder.close()
    assert still_running(ours) == []


@pytest.mark.timeout(250)
def test_a_script_without_a_main_guard_that_never_closes(tmp_path, engine_options):
    script = tmp_path / "script.py"
    script.write_text(f"""\
import os, psutil
from quernstone import Embedder
print("once")
embedder = Embedder("tiny", engine="vllm", engine_options={engine_options!r})
print(embedder.embed_query("a quern").shape, embedder.info.dtype, embedder.info.max_length)
print(*[child.pid for child in psutil.Process().children(recursive=True)])
print([name for name in os.environ if "LOG" in name])
""")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    once, result, pids, environment = done.stdout.splitlines()
    assert once == "once"
    assert result.startswith("(256,) ")
    assert len(pids.split()) >= 2
    left = [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]
    assert still_running(left) == []
    assert environment == "[]"
    assert done.stderr == ""
