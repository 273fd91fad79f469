"""jina-embeddings-v5: its code is never run, and our engine computes the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModel

import quernstone
from quernstone import ConfigError, Embedder, ModelLoadError, Reranker

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT
TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
TEXTS = ["a quern is a hand mill", "grain", "", "it rains " * 40]
TASKS = ["retrieval", "text-matching", "clustering", "classification"]
PROMPTS = {"query": "Query: ", "document": "Document: "}
CODE = {
    "AutoConfig": "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
    "AutoModel": "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
}
SETTINGS = {"dtype": "float32", "device": "cpu"}
# The decoder of transformers, and what the files say besides: those of `nano` were seen, and what
# is known of `small` comes from vLLM's source code and from programs that load it.
KINDS = {"small": ("qwen3", {"head_dim": 32}), "nano": ("eurobert", {"is_decoder": False})}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def shared(tmp_path_factory, kind):
    """A random model in the layout of the repository, with one adapter per task."""
    folder = tmp_path_factory.mktemp("jina") / "jina-embeddings-v5"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("model.safetensors", "[12]_*"))
    base, fields = KINDS[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        base, vocab_size=24945, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2 if base == "qwen3" else 4,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **{"mask_token_id": 2} if base == "eurobert" else {},
        **{name: value for name, value in fields.items() if name == "head_dim"},
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    for seed, task in enumerate(TASKS):
        torch.manual_seed(seed)
        model = AutoModel.from_pretrained(folder)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear",
                          task_type="FEATURE_EXTRACTION", init_lora_weights=False)  # fmt: skip
        get_peft_model(model, lora).save_pretrained(folder / "adapters" / task)
    path = folder / "config.json"
    stored = {**json.loads(path.read_text()), "model_type": "jina_embeddings_v5", **fields}
    stored |= {"architectures": ["JinaEmbeddingsV5Model"], "auto_map": CODE, "task_names": TASKS}
    if kind == "nano":
        del stored["head_dim"], stored["classifier_pooling"]  # its `config.json` has neither
        stored |= {"bos_token": "<s>", "mask_token": "<|mask|>", "mask_token_id": 2}
    path.write_text(json.dumps(stored))
    modules = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer",
                "kwargs": ["task", "truncate_dim"]}]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": PROMPTS, "default_prompt_name": "document"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture
def model(shared, tmp_path):
    return shutil.copytree(shared, tmp_path / "model")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def by_peft(folder, kind, adapter, texts):
    """Do what the model's code does: a prompt, the adapter, the last token, normalize."""
    base, _ = KINDS[kind]
    fields = json.loads((folder / "config.json").read_text())
    fields = {k: v for k, v in fields.items() if k not in ("model_type", "auto_map")}
    config = AutoConfig.for_model(base, **fields)
    model = AutoModel.from_pretrained(folder, config=config, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, folder / "adapters" / adapter).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            states = model(input_ids=ids).last_hidden_state[0]
        yield torch.nn.functional.normalize(states[-1], dim=0).numpy()


@pytest.mark.parametrize("ending", ["final token", "none"])
@pytest.mark.parametrize("task", ["retrieval", "clustering"])
def test_prompts_and_the_adapter_of_a_task_are_obeyed(model, kind, task, ending):
    if ending == "none":
        change(model / "tokenizer.json", post_processor=None)
    with Embedder(str(model), adapter=task, **SETTINGS) as embedder:
        assert embedder.info.engine == "torch"
        assert "`model_type` in `config.json` is 'jina_embeddings_v5'" in embedder.info.reason
        assert embedder.info.shares_prefixes == (kind == "small")
        assert embedder.normalized
        rows = np.concatenate([embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS)])
    rendered = [prompt + text for prompt in PROMPTS.values() for text in TEXTS]
    np.testing.assert_allclose(rows, [*by_peft(model, kind, task, rendered)], atol=2e-6)


def test_a_task_has_to_be_chosen(model):
    with pytest.raises(ConfigError, match=r"choose one by `adapter`, 'classification' or 'clust"):
        Embedder(str(model))


def test_only_our_engine_runs_it(model):
    for engine in ("transformers", "sentence-transformers", "vllm"):
        with pytest.raises(ConfigError, match=r"`model_type` .* which is never run; use `e"):
            Embedder(str(model), adapter="", engine=engine)
    with pytest.raises(ModelLoadError, match="it is a model for embedding"):
        Reranker(str(model), adapter="retrieval")


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"auto_map": {**CODE, "AutoModel": "modeling_other.Model"}}),
        ("config.json", {"architectures": ["JinaEmbeddingsV6Model"]}),
        ("config.json", {"a_field_of_the_future": 1}),
    ],
)
def test_other_code_is_refused_by_name(model, file, fields):
    change(model / file, **fields)
    with pytest.raises(ModelLoadError, match=f"`{next(iter(fields))}` in `{file}` is"):
        Embedder(str(model), adapter="retrieval")


def test_another_module_is_refused_by_name(model):
    listed = json.loads((model / "modules.json").read_text())
    listed.append({"idx": 1, "name": "1", "path": "", "type": "custom_st.Projector"})
    (model / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ModelLoadError, match=r"`type` in `modules\.json` is 'custom_st"):
        Embedder(str(model), adapter="retrieval")


def test_code_of_a_repository_is_known_by_its_name(model):
    path = "jinaai/jina-embeddings-v5-text-small--"
    change(model / "config.json", auto_map={name: path + code for name, code in CODE.items()})
    with Embedder(str(model), adapter="retrieval", **SETTINGS) as embedder:
        assert embedder.info.engine == "torch"
