"""Advice for users who pass the settings of another library's class."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

_INSTRUCTION = "`instruction`, one sentence; the prompt around it and its place are built in"
_DOCUMENT = "not needed: documents get no prompt"
_BATCH = "`max_batch_tokens`, tokens per batch; by default it is chosen by the free memory"
_SERVER = '`engine="remote"` with `engine_options={"endpoint": "http://..."}`'
_KEY = '`engine="remote"` with `engine_options={"endpoint": ..., "api_key": ...}`'
_HUB_KEY = "the environment variable `HF_TOKEN`, which the hub's client reads"
_REMOTE = 'a field of `RemoteOptions`: `engine_options={"endpoint": ..., "timeout": ...}`'
_HEADERS = "`engine_options` with `api_key` or `basic_auth`; a proxy can add other headers"
_LIBRARY = (
    "`device` and `dtype`; for other arguments of a library's constructor, "
    '`engine="sentence-transformers"` with `engine_options={"model_kwargs": {...}}`'
)
_ENCODE = (
    "not needed: vectors have unit length, batches are planned by tokens (`max_batch_tokens`), "
    "queries get `instruction`, and `dimensions` cuts vectors"
)
_DEVICES = "`device`, such as `cuda:0,cuda:1` or `cuda:all`: the GPUs share one queue"
_TOKENIZER = "not needed: the tokenizer comes with the model"
_TEXTS = "not needed: texts, never token ids, are sent to a server"
_FILES = "not needed: it is read from the model's files"
_CACHE = "not needed: use `CacheBackedEmbeddings`, or the `cache` of an `IngestionPipeline`"
_OBJECT = "not needed: `model` is a name or a folder, and the engine is created from it"

ADVICE: Mapping[str, str] = {
    name: advice
    for names, advice in (
        (
            "query_instruction query_prompt query_prefix query_encode_kwargs",
            _INSTRUCTION,
        ),
        (
            "prompt prompts prompt_name default_prompt_name default_instruction task task_type",
            _INSTRUCTION,
        ),
        ("text_instruction embed_instruction document_prompt text_prefix doc_prefix", _DOCUMENT),
        ("passage_prompt document_instruction input_type", _DOCUMENT),
        (
            "model_kwargs additional_kwargs automodel_args config_kwargs cross_encoder_kwargs",
            _LIBRARY,
        ),
        ("encode_kwargs multi_process_encode_kwargs", _ENCODE),
        ("batch_size max_batch_size embed_batch_size chunk_size embedding_batch_size", _BATCH),
        ("normalize normalize_embeddings", "not needed: vectors always have unit length"),
        ("cache_dir download_dir", "`cache_folder`"),
        ("base_url api_base api_url url endpoint endpoint_url server_url", _SERVER),
        ("openai_api_base azure_endpoint nvidia_base_url deployment", _SERVER),
        ("client async_client http_client http_async_client async_http_client", _SERVER),
        ("api_key openai_api_key nvidia_api_key cohere_api_key voyage_api_key auth_token", _KEY),
        ("huggingfacehub_api_token hf_token token use_auth_token", _HUB_KEY),
        ("timeout request_timeout max_retries", _REMOTE),
        ("default_headers headers", _HEADERS),
        ("verify_ssl", "the environment variable `SSL_CERT_FILE`, a file of trusted certificates"),
        ("usage_telemetry_enabled", "not needed: there is no telemetry"),
        ("retry_min_seconds retry_max_seconds default_query reuse_client user_agent", _REMOTE),
        ("openai_api_version api_version openai_api_type openai_proxy", _REMOTE),
        ("openai_organization organization provider mode model_type", _REMOTE),
        ("top_k k topn num_results", "`top_n`"),
        ("threshold min_score relevance_threshold", "`score_threshold`"),
        ("truncate_dim dimension dim output_dimension output_dimensionality", "`dimensions`"),
        ("embedding_types", "not needed: vectors are float32"),
        ("torch_dtype", "`dtype`"),
        ("use_fp16 use_bf16", '`dtype`, such as `dtype="bfloat16"`; float16 overflows on 8B'),
        (
            "max_seq_length max_tokens max_tokens_per_doc embedding_ctx_length num_ctx",
            "`max_length`",
        ),
        ("truncate_text truncation", "`truncate`"),
        ("trust_remote_code", "not needed: no code from a model's folder is ever run"),
        ("show_progress_bar verbose", "`show_progress`"),
        ("multi_process parallel_process target_devices devices num_gpus parallel", _DEVICES),
        ("tokenizer tokenizer_name tokenizer_kwargs tokenizer_args", _TOKENIZER),
        ("pooling pooling_mode", "not needed: the model's files specify the pooling"),
        ("backend", "`engine`"),
        ("model_id repo_id model_path model_name_or_path", "`model`"),
        ("model_revision", "`revision`"),
        ("skip_empty check_embedding_ctx_length", "not needed: empty and long texts are embedded"),
        ("tiktoken_enabled tiktoken_model_name allowed_special disallowed_special", _TEXTS),
        ("embed_model cross_encoder", _OBJECT),
        ("embeddings_cache", _CACHE),
        ("modules similarity_fn_name model_card_data num_labels activation_fn", _FILES),
        ("keep_in_fp32_modules processor_kwargs", _FILES),
        ("local_files_only", "the environment variable `HF_HUB_OFFLINE=1`"),
        ("num_workers rate_limiter", "not needed: concurrent calls share batches"),
        ("prefix_metadata", "not needed: the score is `relevance_score`"),
    )
    for name in names.split()
}
"""Advice by name. A name that is a field of the class in question is not looked up."""


def settings_of(given: Any, fields: Iterable[str], *, model: str) -> Any:
    """Return the settings with the model under the name that a class uses.

    Args:
        given: Settings by name, as a user passed them; anything but a mapping is returned as is.
        fields: Names that the class knows.
        model: Name of the class's field for the model: `model` or `model_name`.

    Raises:
        ValueError: A setting has another name here, or is not needed; or `model` and `model_name`
            were both passed.
    """
    if not isinstance(given, Mapping):
        return given
    settings = dict(given)
    other = "model_name" if model == "model" else "model"
    if other in settings:
        if model in settings:
            raise ValueError("`model` and `model_name` are the same setting: pass one of them")
        settings[model] = settings.pop(other)
    known = {*fields, "model", "model_name"}
    lines = [line for name in settings if name not in known for line in _advice(name, known)]
    if lines:
        raise ValueError("; ".join(lines))
    return settings


def _advice(name: str, known: Collection[str]) -> list[str]:
    """Return advice on an unknown name, as one line; an empty list if nothing is close to it."""
    advice = ADVICE.get(name)
    if advice is None:
        close = get_close_matches(name, known, n=1, cutoff=0.8)
        return [f"`{name}` is unknown; did you mean `{close[0]}`?"] if close else []
    if advice.startswith("not needed"):
        return [f"`{name}` is {advice}"]
    setting = re.match(r"`(\w+)", advice)
    if setting and setting[1] not in known:
        return []  # such as `top_k` of an embedding model
    return [f"`{name}` is unknown here: use {advice}"]
