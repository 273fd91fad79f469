"""Public models, what is known of their files, and the table of them in docs/models.md.

    python -m tests.support.public_models docs/models.md

writes the table. No hub could be reached when it was written: apart from Qwen's own, no file of
these models has been seen. `says` repeats the named source.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.support.rerankers import MESSAGES, logit_score
from transformers import AutoConfig

import quernstone
from quernstone import ConfigError, ModelLoadError
from quernstone.checkpoints.checkpoint import resolve
from quernstone.engines import choose_engine

BEGIN, END = "<!-- public models -->", "<!-- end of public models -->"
TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"

# hidden size, heads, heads of keys and values, size of a head
_SHAPES = {
    "Qwen3-0.6B": (1024, 16, 8, 128),
    "Qwen3-1.7B": (2048, 16, 8, 128),
    "Qwen3-4B": (2560, 32, 8, 128),
    "Qwen3-8B": (4096, 32, 8, 128),
    "Qwen3-14B": (5120, 40, 8, 128),
    "Qwen2-0.5B": (896, 14, 2, 64),
    "Qwen2-1.5B": (1536, 12, 2, 128),
    "Qwen2-7B": (3584, 28, 4, 128),
    "EuroBERT-210m": (768, 12, 12, 64),
    "Mistral-7B": (4096, 32, 8, 128),
    "Llama-3.2-1B": (2048, 32, 8, 64),
    "Llama-3.1-8B": (4096, 32, 8, 128),
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_FIELDS = {
    "Llama-3.2-1B": {"rope_parameters": {**_LLAMA3, "factor": 32.0}},
    "Llama-3.1-8B": {"rope_parameters": {**_LLAMA3, "factor": 8.0}},
    "Mistral-7B": {"sliding_window": None},
    "EuroBERT-210m": {"bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3, "pad_token_id": 2},
}
_CODE = {"auto_map": {"AutoModel": "modeling.Model"}}
_JINA_V5 = {
    "model_type": "jina_embeddings_v5",
    "architectures": ["JinaEmbeddingsV5Model"],
    "auto_map": {
        "AutoConfig": "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
        "AutoModel": "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
    },
    "task_names": ["retrieval", "text-matching", "clustering", "classification"],
}
_JINA_PROMPTS = {"query": "Query: ", "document": "Document: "}
_JINA_SAYS = "the prompts `Query: ` and `Document: `"
_JINA_ADAPTERS = f"type `jina_embeddings_v5`, four LoRA adapters, {_JINA_SAYS}"
_BOTH_WAYS = {"use_bidirectional_attention": True}
_SPACED = "Instruct: Given a query, retrieve relevant passages\nQuery: "
_QWENS = "Instruct: Given a query, retrieve relevant passages\nQuery:"


@dataclass(frozen=True)
class PublicModel:
    """A published model, as far as it is known."""

    name: str
    base: str
    """A key of `_SHAPES`, or the name of an architecture that has none."""
    says: str
    source: str
    config: dict = field(default_factory=dict)
    """Fields of `config.json` that the source states or implies."""
    pooling: str = "lasttoken"
    prompts: dict = field(default_factory=dict)
    task: str = "embed"
    scores_logit: bool = False
    """True for sentence-transformers' `LogitScore` of one answer, after a chat template."""

    @property
    def kind(self):
        """The `model_type`."""
        return self.config.get("model_type") or self.base.partition("-")[0].lower()

    @property
    def key(self):
        """Equal for models of one shape whose files say the same."""
        return json.dumps(
            [self.base, self.config, self.pooling, self.prompts, self.task, self.scores_logit]
        )


_OURS = "tests/support/checkpoints.py"
_MIRROR = "the small files, in a public copy on GitHub"
_ONLY_PROMPT = "the prompt for queries `Instruct: {task}\\nQuery:`"
_SPACE = "the prompt for queries `Instruct: {task}\\nQuery: `, with a space"

MODELS = [
    PublicModel("Qwen/Qwen3-Embedding-0.6B", "Qwen3-0.6B", "", _OURS),
    PublicModel("Qwen/Qwen3-Embedding-4B", "Qwen3-4B", "", _OURS),
    PublicModel("Qwen/Qwen3-Embedding-8B", "Qwen3-8B", "", _OURS),
    PublicModel("Qwen/Qwen3-Reranker-0.6B", "Qwen3-0.6B", "", _OURS, task="rerank"),
    PublicModel("Qwen/Qwen3-Reranker-4B", "Qwen3-4B", "", _OURS, task="rerank"),
    PublicModel("Qwen/Qwen3-Reranker-8B", "Qwen3-8B", "", _OURS, task="rerank"),
    *(
        PublicModel(f"Octen/Octen-Embedding-{size}", f"Qwen3-{size}",
                    f"{_ONLY_PROMPT}, and a space before documents", "mteb",
                    prompts={"query": _QWENS, "document": " "})
        for size in ("0.6B", "4B", "8B")
    ),
    PublicModel("litillabs/litil-embed-0.6b", "Qwen3-0.6B",
                f"{_ONLY_PROMPT}, and a space before documents", "mteb",
                prompts={"query": _QWENS, "document": " "}),
    *(
        PublicModel(name, f"Qwen3-{size}", _ONLY_PROMPT, "mteb", prompts={"query": _QWENS})
        for name, size in (
            ("AQ-MedAI/Diver-Retriever-0.6B", "0.6B"), ("AQ-MedAI/Diver-Retriever-1.7B", "1.7B"),
            ("AQ-MedAI/Diver-Retriever-4B-1020", "4B"), ("ICT-TIME-and-Querit/BOOM_4B_v1", "4B"),
            ("Hanno-Labs/dinghy-law-0.6b-v1", "0.6B"), ("Hanno-Labs/dinghy-law-4b-v1", "4B"),
        )
    ),
    *(
        PublicModel(f"codefuse-ai/F2LLM-v2-{size}", f"Qwen3-{size}", _SPACE, "mteb",
                    prompts={"query": _SPACED})
        for size in ("0.6B", "1.7B", "4B", "8B", "14B")
    ),
    PublicModel("microsoft/harrier-oss-v1-0.6b", "Qwen3-0.6B", _ONLY_PROMPT, "mteb",
                prompts={"query": _QWENS}),
    PublicModel("jinaai/jina-embeddings-v5-text-small", "Qwen3-0.6B", _JINA_ADAPTERS,
                "mteb, vLLM", _JINA_V5, prompts=_JINA_PROMPTS),
    PublicModel("jinaai/jina-embeddings-v5-text-nano", "EuroBERT-210m",
                f"{_JINA_ADAPTERS}, bidirectional", _MIRROR, {**_JINA_V5, "is_decoder": False},
                prompts=_JINA_PROMPTS),
    *(
        PublicModel(f"jinaai/jina-embeddings-v5-text-small-{name}", "Qwen3-0.6B",
                    f"the adapter for {name}, merged; {_JINA_SAYS}", "vLLM's recipes",
                    {"task_names": _JINA_V5["task_names"]}, prompts=_JINA_PROMPTS)
        for name in _JINA_V5["task_names"]
    ),
    *(
        PublicModel(f"jinaai/jina-reranker-{version}", "Qwen3-0.6B",
                    "architecture `JinaForRanking`: listwise, with a projector", "vLLM, mteb",
                    {"architectures": ["JinaForRanking"]}, task="rerank")
        for version in ("v3", "v3.5")
    ),
    *(
        PublicModel(f"perplexity-ai/pplx-embed-v1-{size}", f"Qwen3-{size.upper()}",
                    "bidirectional, pools the mean, code of its own", "TEI, mteb",
                    {**_BOTH_WAYS, **_CODE}, "mean")
        for size in ("0.6b", "4b")
    ),
    PublicModel("voyageai/voyage-4-nano", "Qwen3-0.6B",
                "architecture `VoyageQwen3BidirectionalEmbedModel`: bidirectional, a linear head",
                "vLLM", {"architectures": ["VoyageQwen3BidirectionalEmbedModel"], **_CODE}, "mean"),
    *(
        PublicModel(f"BidirLM/BidirLM-{size}-Embedding", f"Qwen3-{size}",
                    "bidirectional, pools the mean, code of its own", "mteb",
                    {**_BOTH_WAYS, **_CODE}, "mean")
        for size in ("0.6B", "1.7B")
    ),
    PublicModel("zeroentropy/zembed-1", "Qwen3-4B", "code of its own", "mteb", _CODE),
    *(
        PublicModel(f"zeroentropy/{name}", base, "a chat template, code of its own", "mteb, vLLM",
                    _CODE, task="rerank")
        for name, base in (("zerank-1", "Qwen3-4B"), ("zerank-1-small", "Qwen3-1.7B"))
    ),
    PublicModel("zeroentropy/zerank-2", "Qwen3-4B",
                "since May 2026: a chat template, and the raw logit of the answer `Yes`",
                "its model card, Superlinked's SIE", task="rerank", scores_logit=True),
    *(
        PublicModel(f"naver/splade-code-{name}", base,
                    "sparse vectors over the vocabulary, code of its own", "mteb",
                    {"architectures": ["Qwen3ForSplade"], **_CODE})
        for name, base in (("06B", "Qwen3-0.6B"), ("8B", "Qwen3-8B"))
    ),
    PublicModel("HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1.5", "Qwen2-0.5B",
                "the prompt for queries `Instruct: {task} \\n Query: `", "mteb",
                prompts={"query": _SPACED.replace("\n", " \n ")}),
    PublicModel("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "Qwen2-1.5B", _SPACE, "mteb",
                prompts={"query": _SPACED}),
    PublicModel("Alibaba-NLP/gte-Qwen2-7B-instruct", "Qwen2-7B",
                f"{_SPACE}; code of its own", "mteb", _CODE, prompts={"query": _SPACED}),
    PublicModel("Kingsoft-LLM/QZhou-Embedding", "Qwen2-7B", _ONLY_PROMPT, "mteb",
                prompts={"query": _QWENS}),
    PublicModel("NovaSearch/stella_en_1.5B_v5", "Qwen2-1.5B", "code of its own", "mteb", _CODE),
    PublicModel("mixedbread-ai/mxbai-rerank-base-v2", "Qwen2-0.5B",
                "answers with the tokens `0` and `1`: needs its template", "vLLM", task="rerank"),
    PublicModel("mixedbread-ai/mxbai-rerank-large-v2", "Qwen2-1.5B",
                "answers with the tokens `0` and `1`: needs its template", "vLLM", task="rerank"),
    PublicModel("intfloat/e5-mistral-7b-instruct", "Mistral-7B", _SPACE, "mteb",
                prompts={"query": _SPACED}),
    PublicModel("Salesforce/SFR-Embedding-Mistral", "Mistral-7B", _SPACE, "mteb",
                prompts={"query": _SPACED}),
    PublicModel("Linq-AI-Research/Linq-Embed-Mistral", "Mistral-7B", _SPACE, "mteb",
                prompts={"query": _SPACED}),
    PublicModel("nvidia/llama-nemotron-embed-1b-v2", "Llama-3.2-1B",
                "type `llama_bidirec`, pools the mean, code of its own", "vLLM",
                {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"],
                 **_CODE}, "mean"),
    PublicModel("nvidia/llama-embed-nemotron-8b", "Llama-3.1-8B",
                "type `llama_bidirec`, pools the mean, code of its own", "mteb",
                {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"],
                 **_CODE}, "mean"),
    *(
        PublicModel(name, "Ministral-3", "bidirectional, pools the mean, another decoder", "mteb",
                    {"model_type": "ministral3", "architectures": ["Ministral3Model"],
                     **_BOTH_WAYS}, "mean")
        for name in ("nvidia/Nemotron-3-Embed-1B-BF16", "malteos/most-embed-de",
                     "nlpai-lab/KURE-v3")
    ),
    *(
        PublicModel(f"Qwen/Qwen3-VL-Embedding-{size}", f"Qwen3-VL-{size}",
                    "images and text, another decoder", "mteb",
                    {"model_type": "qwen3_vl",
                     "architectures": ["Qwen3VLForConditionalGeneration"]})
        for size in ("2B", "8B")
    ),
    PublicModel("google/embeddinggemma-300m", "Gemma3-300m", "another decoder", "mteb",
                {"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}, "mean"),
    PublicModel("microsoft/harrier-oss-v1-270m", "Gemma3-270m", "another decoder", "mteb",
                {"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}),
]  # fmt: skip


def config_of(model):
    """Return the fields of a `config.json` of the model's shape, with one layer."""
    hidden, heads, kv_heads, head_dim = _SHAPES.get(model.base, (64, 4, 2, 16))
    family = model.base.partition("-")[0]
    return {
        "architectures": [f"{family}ForCausalLM" if model.task == "rerank" else f"{family}Model"],
        "model_type": model.kind,
        "vocab_size": 1024,
        "hidden_size": hidden,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": True,
        **_FIELDS.get(model.base, {}),
        **model.config,
    }


def write_folder(folder, model):
    """Write a folder that says what the model's files say, without usable weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(model)))
    (folder / "tokenizer.json").write_text(json.dumps(_small_tokenizer()))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    if model.scores_logit:
        chat = MESSAGES.replace("CONTENT", "")
        logit_score(folder, "yes", chat=chat, activation="linear.Identity",
                    add_generation_prompt=True)  # fmt: skip
    if model.task == "embed":
        shutil.copy(TINY / "modules.json", folder)
        for name in ("1_Pooling", "2_Normalize"):
            (folder / name).mkdir()
        width = config_of(model)["hidden_size"]
        pooling = {"word_embedding_dimension": width, "pooling_mode": model.pooling}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        stored = {"prompts": {"document": "", **model.prompts}} if model.prompts else {}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(stored))
    return folder


def _small_tokenizer():
    """Return the tiny model's tokenizer, reduced to characters and the answers of a reranker."""
    spec = json.loads((TINY / "tokenizer.json").read_text())
    words = [
        word
        for word in spec["model"]["vocab"]
        if word in (spec["model"]["unk_token"], "no", "yes")
        or (word.isascii() and len(word.removeprefix("##")) == 1)
    ]
    spec["model"]["vocab"] = {word: place for place, word in enumerate(words)}
    ids = {}
    for place, token in enumerate(spec["added_tokens"], len(words)):
        ids[token["content"]] = token["id"] = place
    for name, token in spec["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    return spec


def engine_of(model):
    """Return the name of the engine that `auto` chooses, or why there is none."""
    with tempfile.TemporaryDirectory() as parent:
        folder = write_folder(Path(parent) / "model", model)
        checkpoint = resolve(str(folder), model.task)
        try:
            engine = choose_engine("auto", checkpoint, model.task)
            if engine != "torch":  # a library has to know its type
                AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (ConfigError, ModelLoadError):
            fields = dict.fromkeys(d.field for d in checkpoint.differences if not d.engines)
            return f"refused: {', '.join(f'`{name}`' for name in fields)}"
        except ValueError:
            return f"refused: type `{model.kind}`"
        return f"`{engine}`"


def table():
    """Return the table in Markdown."""
    rows = ["| model | base | files say | source | engine | tested |", "|---" * 6 + "|"]
    for model in MODELS:
        engine = engine_of(model)
        says = model.says or "(Qwen's own files)"
        source = f"{model.source}; files not seen"
        if model.source in (_OURS, _MIRROR):
            source = "the files" if model.source == _OURS else model.source
        tested = "yes" if engine == "`torch`" else "no"
        name = f"`{model.name}`"
        rows.append(f"| {name} | {model.base} | {says} | {source} | {engine} | {tested} |")
    return "\n".join(rows) + "\n"


def replaced(page):
    """Return a page with its table replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(replaced(path.read_text()))
