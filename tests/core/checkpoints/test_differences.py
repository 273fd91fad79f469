"""A model folder is obeyed or refused: no field of its files is ignored without a reason."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import quernstone
from quernstone import ConfigError, Embedder, ModelLoadError, Reranker, engines
from quernstone.checkpoints.checkpoint import resolve
from quernstone.checkpoints.texts import DOCUMENT_PROMPTS

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"
PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@pytest.fixture
def tiny(tmp_path):
    """A copy of the tiny embedding model, and a function that changes one of its JSON files."""
    folder = shutil.copytree(TINY / "embedding", tmp_path / "model")

    def change(file="config.json", **fields):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **fields}))
        return str(folder)

    change.folder = folder
    return change


def change_modules(folder, *types):
    path = folder / "modules.json"
    modules = json.loads(path.read_text())[:2]
    for place, name in enumerate(types, 2):
        part = f"{place}_{name.rpartition('.')[2]}"
        (folder / part).mkdir()
        modules.append({"idx": place, "name": str(place), "path": part, "type": name})
    path.write_text(json.dumps(modules))
    return str(folder)


def change_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    change(spec)
    path.write_text(json.dumps(spec))
    return str(folder)


# --------------------------------------------------------------------------- refused by name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_map", {"AutoModel": "modeling_voyage.VoyageQwen3BidirectionalEmbedModel"}),
        ("architectures", ["JinaForRanking"]),
        ("architectures", ["VoyageQwen3BidirectionalEmbedModel"]),
        ("architectures", ["Qwen3ForTokenClassification"]),
        ("embedding_head", 512),
    ],
)
def test_what_no_library_implements_is_refused(tiny, field, value):
    name = tiny(**{field: value})
    for engine in ("auto", "torch", "transformers", "sentence-transformers", "vllm"):
        with pytest.raises(ModelLoadError, match=f"`{field}` in `config.json` is"):
            Embedder(name, engine=engine)
    with pytest.raises(ModelLoadError, match=f"`{field}` in `config.json` is"):
        Reranker(name)


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
def test_other_decoders_with_code_of_their_own_are_refused(tiny, family):
    name = tiny(model_type=family, architectures=["AnyModel"], auto_map={"AutoModel": "m.Model"})
    with pytest.raises(ModelLoadError, match=r"`auto_map` in `config\.json` is"):
        Embedder(name)


def test_modules_with_code_of_their_own_are_refused(tiny):
    name = change_modules(tiny.folder, "custom_st.Projector")
    with pytest.raises(ModelLoadError, match=r"`type` in `modules\.json` is 'custom_st"):
        Embedder(name)


# ------------------------------------------------------------- obeyed by a library, and said


def append_nothing(tiny):
    """Like a model that sentence-transformers trained from Qwen3's base model."""
    tiny("config_sentence_transformers.json", prompts={"query": "", "document": ""})
    return change_tokenizer(tiny.folder, lambda spec: spec.update(post_processor=None))


def append_another_token(spec):
    """Append `<|im_end|>` after `<|endoftext|>`."""
    template = spec["post_processor"]
    template["special_tokens"]["<|im_end|>"] = {
        "id": "<|im_end|>", "ids": [24942], "tokens": ["<|im_end|>"]
    }  # fmt: skip
    for kind in ("single", "pair"):
        template[kind].append({"SpecialToken": {"id": "<|im_end|>", "type_id": 0}})


def end_in_im_end(spec):
    text = json.dumps(spec["post_processor"]).replace("<|endoftext|>", "<|im_end|>")
    spec["post_processor"] = json.loads(text.replace("24940", "24942"))


def add_a_word(spec):
    last = max(token["id"] for token in spec["added_tokens"])
    spec["added_tokens"].append(
        {**spec["added_tokens"][0], "id": last, "content": "quern", "special": False}
    )


OBEYED_BY_SENTENCE_TRANSFORMERS = {
    "max pooling": lambda t: t("1_Pooling/config.json", pooling_mode="max"),
    "two poolings": lambda t: t("1_Pooling/config.json", pooling_mode=["mean", "lasttoken"]),
    "default prompt": lambda t: t(
        "config_sentence_transformers.json", prompts={"query": PROMPT}, default_prompt_name="query"
    ),
    "no final token": append_nothing,
    "two final tokens": lambda t: change_tokenizer(t.folder, append_another_token),
    "an added word": lambda t: change_tokenizer(t.folder, add_a_word),
    "lowercase": lambda t: t("sentence_bert_config.json", do_lower_case=True),
}


@pytest.mark.parametrize("name", OBEYED_BY_SENTENCE_TRANSFORMERS)
def test_what_a_folder_says_is_obeyed(tiny, name, caplog):
    folder = OBEYED_BY_SENTENCE_TRANSFORMERS[name](tiny)
    for engine in ("torch", "transformers", "vllm"):
        with pytest.raises(ConfigError, match=f'the {engine} .* use `engine="sentence-tr'):
            Embedder(folder, engine=engine)
    if name == "an added word":
        return  # transformers checks the size of the table
    from sentence_transformers import SentenceTransformer

    texts = ["A Quern grinds grain", "it rains"]
    caplog.set_level(logging.INFO, "quernstone")
    with Embedder(folder, dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "sentence-transformers"
        assert "` in `" in embedder.info.reason
        ours = np.concatenate([embedder.embed_documents(texts), embedder.embed_queries(texts)])
        width = embedder.dimensions
        fingerprint = embedder.fingerprint
    assert "runs on the sentence-transformers engine: `" in caplog.text
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32})
    theirs = np.concatenate([model.encode(texts, prompt=""), model.encode_query(texts)])
    theirs = theirs[:, :width] / np.linalg.norm(theirs[:, :width], axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    with Embedder("tiny", dtype="float32", device="cpu") as official:
        assert fingerprint.split(";revision=")[1] != official.fingerprint.split(";revision=")[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("quantization_config", {"quant_method": "gptq"}),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e6}),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e6}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6, "x": 1}),
        ("rope_parameters", {"rope_theta": 1e6, "partial_rotary_factor": 0.5}),
        ("rope_parameters", {"full_attention": {"rope_type": "yarn", "factor": 2.0}}),
        ("use_sliding_window", True),
    ],
)
def test_another_forward_pass_goes_to_transformers(tiny, field, value):
    checkpoint = resolve(tiny(**{field: value}), "embed")
    assert engines.choose_engine("auto", checkpoint) == "transformers"
    assert engines.choose_engine("sentence-transformers", checkpoint) == "sentence-transformers"
    with pytest.raises(ConfigError, match=f'`{field}`.*; use `engine="transformers"`'):
        engines.choose_engine("torch", checkpoint)
    assert not engines.takes_text("sentence-transformers", checkpoint, "embed")


def test_a_classification_head_is_for_rerankers(tiny):
    (tiny.folder / "modules.json").unlink()
    name = tiny(architectures=["Qwen3ForSequenceClassification"])
    checkpoint = resolve(name, "rerank")
    assert engines.choose_engine("auto", checkpoint, "rerank") == "torch"
    with pytest.raises(ConfigError, match="it scores by a classification head"):
        engines.choose_engine("vllm", checkpoint, "rerank")
    with pytest.raises(ModelLoadError, match="its architecture is another"):
        engines.choose_engine("auto", resolve(name, "embed"), "embed")


def prompts(query, document="", name="document", default=None):
    fields = {"prompts": {"query": query, name: document}, "default_prompt_name": default}
    return lambda t: t("config_sentence_transformers.json", **fields)


@pytest.mark.parametrize(
    "change",
    [
        prompts(PROMPT + " "),
        prompts("Instruct: Find code\nQuestion: "),
        prompts("query: ", "passage: ", "passage"),
        prompts(PROMPT, "Document: ", "corpus"),
        prompts(""),
        prompts("query: ", "passage: ", "passage", default="passage"),
        lambda t: change_tokenizer(t.folder, end_in_im_end),
    ],
)
def test_prompts_and_the_final_token_are_obeyed_by_our_engine(tiny, change):
    from sentence_transformers import SentenceTransformer

    name, texts = change(tiny), ["A Quern grinds grain", "it rains", ""]
    with Embedder(name, dtype="float32", device="cpu") as embedder:
        assert embedder.info.engine == "torch"
        queries, documents = embedder.embed_queries(texts), embedder.embed_documents(texts)
        fingerprint = embedder.fingerprint
        rendered = [embedder.format_query(texts[0]), embedder.format_document(texts[0])]
    model = SentenceTransformer(name, device="cpu", model_kwargs={"dtype": torch.float32})
    stored = next(filter(None, (model.prompts.get(n) for n in DOCUMENT_PROMPTS)), "")
    np.testing.assert_allclose(queries, model.encode_query(texts), atol=2e-6)
    np.testing.assert_allclose(documents, model.encode(texts, prompt=stored), atol=2e-6)
    assert rendered == [model.prompts["query"] + texts[0], stored + texts[0]]
    with Embedder("tiny", dtype="float32", device="cpu") as official:
        assert fingerprint != official.fingerprint


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config_sentence_transformers.json", {"prompts": {"query": PROMPT + " "}}),
        ("config_sentence_transformers.json", {"prompts": {"query": PROMPT, "document": "d: "}}),
        ("1_Pooling/config.json", {"pooling_mode": "mean"}),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
    ],
)
def test_an_edit_of_prompts_or_pooling_changes_the_fingerprint(tiny, file, fields):
    with Embedder(tiny()) as before:
        expected = before.fingerprint, before.digest
    with Embedder(tiny(file, **fields)) as after:
        assert after.fingerprint != expected[0]
        assert after.digest != expected[1]


def test_an_instruction_replaces_that_of_the_stored_prompt(tiny):
    name = prompts("Instruct: Find code\nQuestion: ")(tiny)
    with Embedder(name) as embedder:
        assert embedder.instruction == "Find code"
        assert embedder.format_query("a", "Find text") == "Instruct: Find text\nQuestion: a"


def test_a_prompt_without_a_place_for_an_instruction_refuses_one(tiny):
    name = prompts("query: ")(tiny)
    with pytest.raises(ConfigError, match="puts 'query: ' before every query, which has no place"):
        Embedder(name, instruction="Find code")
    with Embedder(name) as embedder, pytest.raises(ConfigError, match="no place"):
        embedder.embed_query("a", "Find code")


def test_an_empty_query_prompt_is_obeyed(tiny):
    name = tiny("config_sentence_transformers.json", prompts={"query": "", "document": ""})
    with Embedder(name, dtype="float32") as embedder:
        assert (embedder.info.engine, embedder.instruction) == ("torch", "")


def test_the_first_revisions_of_qwen_appended_nothing(tiny):
    name = change_tokenizer(tiny.folder, lambda spec: spec.update(post_processor=None))
    with Embedder(name, dtype="float32") as embedder, Embedder("tiny", dtype="float32") as right:
        np.testing.assert_array_equal(embedder.embed_query("a"), right.embed_query("a"))


def test_a_model_saved_again_by_sentence_transformers_is_still_qwens(tmp_path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(TINY / "embedding"), device="cpu").save(str(tmp_path))
    assert resolve(str(tmp_path), "embed").differences == ()


@pytest.mark.parametrize("field", ["hidden_size", "num_key_value_heads", "head_dim", "rope_theta"])
def test_a_field_without_a_common_default_is_required(tiny, field):
    with pytest.raises(ModelLoadError, match=f"`{field}` is None"):
        Embedder(tiny(**{field: None}))
