"""The vLLM engine: paged attention, quantized weights, models split over several GPUs.

It gets the token ids of Quernstone's prompts, so that templates, truncation and the pooled token
match the torch engine. vLLM computes in a separate process, which ends with the engine.
"""

from __future__ import annotations

import difflib
import multiprocessing.connection
import multiprocessing.spawn
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch

from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.padding import whole_ids
from quernstone.engines.placement import choose_dtype
from quernstone.errors import ConfigError, EngineError, ModelLoadError, NonFiniteError
from quernstone.types import Dtype, Encoded, EngineConfig, EngineInfo, Float32Array

# vLLM splits each call into steps of `max_num_batched_tokens`. The last step is only partly filled,
# so a call should have several; but other callers wait until it ends.
_STEPS_PER_BATCH = 4

# vLLM's default, 92 % of the machine's memory, suits a dedicated GPU. This holds
# 37,000 tokens of the 0.6B model in bfloat16 and 29,000 of 8B.
_CPU_CACHE_BYTES = 4 << 30

# Prefixes are cached in full blocks. vLLM's default of 128 tokens on a CPU exceeds the prompt of a
# short query, 74 tokens, which would be computed again for every document.
_CPU_BLOCK_TOKENS = 32

# The time for the engine's processes to end before they are killed.
_SHUTDOWN_SECONDS = 30

# For vLLM's processes, unless the environment says otherwise.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",  # disables telemetry
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may hang
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch",
    "PYTHONWARNINGS": "ignore",
}

# vLLM's form of the reranker: one class, whose weights are those of `yes` minus those of `no`.
_RERANKER_CONFIG = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}

# Engines start one after another, because vLLM measures the free memory when it starts, and
# `_processes_of_vllm` changes state of the whole process.
_starting = threading.Lock()

_OWN_ARGUMENTS = {"model", "dtype", "revision"}
_FIXED = {"convert", "pooler_config", "runner", "skip_tokenizer_init", "tokenizer"}


class VllmEngine:
    """Engine that runs Qwen3, and other decoders that pool their last token, with vLLM."""

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint,
        tokenization: Tokenizer,  # noqa: ARG002 - vLLM finds the ids of `no` and `yes` itself
    ) -> None:
        self._reranks = config.task == "rerank"
        if self._reranks:
            _check_reranker(checkpoint, config.head_rows)
        with _processes_of_vllm():
            import vllm  # noqa: PLC0415 - reads its log level when it is imported
            from vllm.platforms import current_platform  # noqa: PLC0415

            arguments = _arguments(config, checkpoint, current_platform)
            try:
                self._llm = vllm.LLM(**arguments)
            except (ValueError, NotImplementedError) as error:
                msg = f"vLLM does not accept these settings for `{checkpoint.folder}`: {error}"
                raise ConfigError(msg) from error
            except RuntimeError as error:
                raise ModelLoadError(
                    f"vLLM cannot load `{checkpoint.folder}`; its own messages above say why. If "
                    "it lacks memory, lower `gpu_memory_utilization`, `kv_cache_memory_bytes` or "
                    f"`max_model_len` in `engine_options` ({error})"
                ) from error
        core = self._llm.llm_engine.engine_core
        self._workers: list[Any] = []
        if _is_another_process(core):
            _report_death(core)
            self._workers = _workers(core)
        # Raw numbers: vectors are normalized after they are cut, and a sigmoid rounds to 0 and 1.
        self._pooling = vllm.PoolingParams(use_activation=False)
        self.width = 2 if self._reranks else self._llm.model_config.embedding_size
        step = self._llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
        self.info = EngineInfo(
            engine="vllm",
            device=config.device if ":" in config.device else current_platform.device_type,
            dtype=arguments["dtype"],
            attention="vllm",
            max_batch_tokens=config.max_batch_tokens or _STEPS_PER_BATCH * step,
            max_length=self._llm.model_config.max_model_len,
            shares_prefixes=bool(arguments["enable_prefix_caching"]),
            prefix_sharing="vLLM caches common starts, by the block, if `enable_prefix_caching`",
        )

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """See `Engine.run`.

        A reranker's row is [0, margin]: vLLM computes the difference of the two logits in one.
        """
        from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415

        if precise and self.info.dtype != "float32":
            detail = f'and vLLM computes only in {self.info.dtype}; use `dtype="float32"`'
            raise NonFiniteError(0, detail)
        prompts = [{"prompt_token_ids": whole_ids(sequence).tolist()} for sequence in batch]
        task = "classify" if self._reranks else "embed"
        try:
            outputs = self._llm.encode(prompts, self._pooling, pooling_task=task, use_tqdm=False)
        except EngineDeadError as error:
            raise EngineError(
                "vLLM's engine process has ended, as it does after any error, such as running out "
                "of memory; its own messages above say why. Create a new embedder or reranker"
            ) from error
        rows = torch.stack([output.outputs.data for output in outputs]).float().numpy()
        if not self._reranks:
            return np.asarray(rows, dtype=np.float32)
        return np.concatenate((np.zeros_like(rows), rows), axis=1)

    def close(self) -> None:
        """See `Engine.close`. Ends vLLM's processes and waits for them."""
        core = self._llm.llm_engine.engine_core
        core.shutdown(timeout=_SHUTDOWN_SECONDS)
        if _is_another_process(core):
            # It frees the last tensors it received when it ends. If the interpreter is shutting
            # down by then, this aborts the process (seen in 0.32).
            core.output_queue_thread.join(_SHUTDOWN_SECONDS)
        _end(self._workers)
        self._llm.renderer.shutdown()
        del self._llm


def _is_another_process(core: Any) -> bool:
    """Return False with VLLM_ENABLE_V1_MULTIPROCESSING=0."""
    from vllm.v1.engine.core_client import SyncMPClient  # noqa: PLC0415

    return isinstance(core, SyncMPClient)


def _report_death(core: Any) -> None:
    """Make a running call fail if the engine's process is killed.

    vLLM 0.32 notices this, but `SyncMPClient.get_output` waits forever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415

    sentinels = [process.sentinel for process in core.resources.engine_manager.processes]

    def watch() -> None:
        multiprocessing.connection.wait(sentinels)
        core.resources.engine_dead = True
        core.outputs_queue.put(EngineDeadError())

    threading.Thread(target=watch, name="quernstone-vllm-watch", daemon=True).start()


def _workers(core: Any) -> list[Any]:
    """Return the processes that the engine's process started."""
    psutil = import_module("psutil")  # vLLM needs it
    engines = [psutil.Process(process.pid) for process in core.resources.engine_manager.processes]
    return [worker for engine in engines for worker in engine.children(recursive=True)]


def _end(workers: Sequence[Any]) -> None:
    """Wait for processes, and kill those that do not end.

    If the engine's process was killed, a worker may wait forever for its answer (seen in 0.32).
    """
    _, left = import_module("psutil").wait_procs(workers, timeout=_SHUTDOWN_SECONDS)
    for worker in left:
        worker.kill()


def _check_reranker(checkpoint: Checkpoint, head_rows: Sequence[int]) -> None:
    if not checkpoint.is_qwen3 or checkpoint.architecture != "Qwen3ForCausalLM":
        raise ConfigError(
            f"the vllm engine reranks with Qwen3-Reranker, and `{checkpoint.name}` is a "
            f'{checkpoint.architecture}; use `engine="sentence-transformers"`'
        )
    if head_rows:
        raise ConfigError(
            "the vllm engine only supports the answers `no` and `yes`, but this template or model "
            f'has others (token ids {list(head_rows)}); use `engine="torch"`'
        )


def _arguments(config: EngineConfig, checkpoint: Checkpoint, platform: Any) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`: the user's options, and those that are fixed."""
    options = config.options if isinstance(config.options, Mapping) else {}
    _check_options(options)
    arguments: dict[str, Any] = {
        "max_model_len": -1,  # as long as the model and the memory allow
        "load_format": "safetensors",  # never pickles
        "use_tqdm_on_load": False,
        "enable_prefix_caching": True,
    }
    if platform.is_cpu():
        arguments["block_size"] = _CPU_BLOCK_TOKENS
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    arguments |= options
    if config.task == "rerank":
        arguments["hf_overrides"] = {**arguments.get("hf_overrides", {}), **_RERANKER_CONFIG}
    return arguments | {
        "model": str(checkpoint.folder),
        "runner": "pooling",
        "convert": "classify" if config.task == "rerank" else "embed",
        "pooler_config": {"seq_pooling_type": "LAST"},
        "dtype": _dtype(config.dtype, platform),
        **_device(config.device, platform),
    }


def _check_options(options: Mapping[str, object]) -> None:
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415

    known = set(EngineArgs.__dataclass_fields__)
    for name in options:
        if name in _OWN_ARGUMENTS:
            msg = f"`{name}` is not an engine option: pass it to `Embedder` or `Reranker` itself"
        elif name in _FIXED:
            msg = f"`{name}` cannot be set in `engine_options`: the vllm engine depends on it"
        elif name == "trust_remote_code":
            reason = "code that comes with a checkpoint is never run"
            msg = f"`{name}` cannot be set in `engine_options`: {reason}"
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            msg = f"vLLM has no engine option `{name}`{hint}"
        else:
            continue
        raise ConfigError(msg)
    if not isinstance(options.get("hf_overrides", {}), Mapping):
        raise ConfigError("`hf_overrides` in `engine_options` must be a mapping")


def _device(name: str, platform: Any) -> dict[str, Any]:
    """Convert a device: vLLM's build determines the type, `device_ids` the index."""
    kind, _, place = name.partition(":")
    if kind not in ("auto", platform.device_type) or (place and not place.isdigit()):
        raise ConfigError(
            f"this build of vLLM runs on {platform.device_type!r}, but `device` is {name!r}; use "
            '`device="auto"`'
        )
    return {"device_ids": [int(place)]} if place else {}


def _dtype(name: Dtype, platform: Any) -> str:
    """Resolve `auto` like the torch engine: bfloat16 where the hardware supports it."""
    if name == "auto" and not platform.is_cpu():
        return "bfloat16" if torch.bfloat16 in platform.supported_dtypes else "float32"
    return str(choose_dtype(name, torch.device("cpu"))).removeprefix("torch.")


@contextmanager
def _processes_of_vllm() -> Iterator[None]:
    """Silence the processes that vLLM starts, and keep them from running the user's script.

    A spawned process imports the main module of its parent, which would run a script without
    `if __name__ == "__main__"` again. vLLM's processes do not need that module, so it is removed
    from the preparation data of those that this thread starts.
    """
    with _starting:
        missing = {name: text for name, text in _ENVIRONMENT.items() if name not in os.environ}
        original = multiprocessing.spawn.get_preparation_data
        thread = threading.get_ident()

        def without_main(name: str) -> dict[str, Any]:
            data = original(name)
            if threading.get_ident() == thread:
                data.pop("init_main_from_name", None)
                data.pop("init_main_from_path", None)
            return data

        os.environ.update(missing)
        multiprocessing.spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original
            for name in missing:
                os.environ.pop(name, None)
