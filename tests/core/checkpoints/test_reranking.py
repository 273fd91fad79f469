"""Templates of the caller, stored answers and chat templates, against the libraries."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tests.support.rerankers import (
    CHAT,
    ENGINES,
    MESSAGES,
    PAIRS,
    QWENS,
    TINY,
    classifier,
    converted,
    logit_score,
    module,
    write,
)
from transformers import AutoTokenizer, Qwen3ForCausalLM

from quernstone import ConfigError, ModelLoadError, PairTemplate, RemoteOptions, Reranker
from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.engines import vllm


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY, tmp_path / "model")


# ----------------------------------------------------------------------------- shared prefixes


@pytest.mark.parametrize("labels", [0, 1, 2])
def test_sharing_and_packing_do_not_change_scores(folder, labels):
    """Zero labels: the answers of a language model."""
    template = CHAT if labels else replace(CHAT, positive="1", temperature=5.0)
    name = str(classifier(folder, labels) if labels else folder)
    options = {"template": template, "dtype": "float32", "device": "cpu"}
    with Reranker(name, **options) as reranker:
        info, shared = reranker.info, reranker.score(PAIRS)
        alone = [reranker.score([pair])[0] for pair in PAIRS]
        ranked = reranker.rerank_many([PAIRS[0][0]], [[text for _, text in PAIRS[:4]]])[0]
    assert (info.shares_prefixes, info.prefix_sharing[:19]) == (True, "attention is causal")
    np.testing.assert_allclose(shared, alone, atol=2e-6)
    np.testing.assert_allclose([shared[each.index] for each in ranked], [r.score for r in ranked],
                               atol=2e-6)  # fmt: skip
    with Reranker(name, prefix_sharing=False, **options) as reranker:
        assert not reranker.info.shares_prefixes
        assert "`prefix_sharing=False`" in reranker.info.prefix_sharing
        np.testing.assert_allclose(shared, reranker.score(PAIRS), atol=2e-6)


def test_bidirectional_models_never_share_and_say_so(folder):
    write(folder, "config.json", use_bidirectional_attention=True)
    options = {"template": CHAT, "dtype": "float32", "device": "cpu"}
    with Reranker(str(folder), **options) as reranker, Reranker("tiny", **options) as causal:
        assert not reranker.info.shares_prefixes
        assert reranker.info.prefix_sharing.startswith("attention is bidirectional")
        scores = reranker.score(PAIRS)
        np.testing.assert_allclose(scores, [reranker.score([p])[0] for p in PAIRS], atol=2e-6)
        assert np.abs(scores - causal.score(PAIRS)).max() > 1e-3


@pytest.mark.parametrize("engine", ["transformers", "sentence-transformers"])
def test_engines_that_pad_say_that_they_do_not_share(engine):
    with Reranker("tiny", engine=engine) as reranker:
        assert not reranker.info.shares_prefixes
        assert "from its first token" in reranker.info.prefix_sharing


# ----------------------------------------------------------------------- templates of the caller


@pytest.mark.parametrize("engine", ENGINES)
def test_a_template_of_the_caller_equals_transformers(folder, engine):
    """The form of zerank-2: one answer, sigmoid(logit / 5)."""
    template = replace(CHAT, positive="true", temperature=5.0)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for query, document in PAIRS:
        ids = tokenizer(template.render(query, document, ""), return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logit = model(ids).logits[0, -1, tokenizer.convert_tokens_to_ids("true")]
        expected.append((logit / 5).sigmoid())
    with Reranker(
        str(folder), template=template, engine=engine, dtype="float32", device="cpu"
    ) as reranker:
        np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=2e-6)
        again = pickle.loads(pickle.dumps(reranker))
    with again, Reranker(str(folder), template=CHAT) as other:
        assert again.template == template
        assert again.fingerprint == reranker.fingerprint
        assert again.fingerprint != other.fingerprint


def test_answers_are_single_tokens(folder):
    for word in ("quernstones grind", ""):
        with pytest.raises(ConfigError, match=r"has \d tokens|is empty; pass one token"):
            Reranker(str(folder), template=PairTemplate(prefix="{query}: ", positive=word))
    with pytest.raises(ConfigError, match="no place to cut"):
        Reranker(str(folder), template=PairTemplate(prefix="{query}\n"))


def test_servers_refuse_a_template():
    options = RemoteOptions(endpoint="http://127.0.0.1:9", dialect="vllm", rendered_by="client")
    with pytest.raises(ConfigError, match='a `PairTemplate` is not possible with `engine="remote'):
        Reranker("m", engine="remote", template=CHAT, engine_options=options)


def test_vllm_refuses_other_answers(folder):
    files = resolve(str(folder), "rerank")
    vllm._check_reranker(files, ())
    with pytest.raises(ConfigError, match=r"only supports the answers `no` and `yes`.*ids \[5\]"):
        vllm._check_reranker(files, (5,))


# --------------------------------------------------------------------- stored answers and prompts


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("answers", "activation"),
    [
        (("true",), "linear.Identity"),  # like zerank-2
        (("true",), "activation.Sigmoid"),
        (("1", "0"), None),  # like mxbai-rerank-v2
        (("1", "0"), "linear.Identity"),
    ],
)
def test_stored_answers_equal_sentence_transformers(folder, engine, answers, activation):
    content = "| trim" if activation else ""
    chat = MESSAGES.replace("CONTENT", content)
    logit_score(folder, *answers, chat=chat, activation=activation, add_generation_prompt=True)
    pairs = [*PAIRS, (" padded\n", "\n text "), ("{{ 1 }}", "{query} {instruction}")]
    theirs = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    expected = theirs.predict(pairs)
    with Reranker(str(folder), engine=engine, dtype="float32", device="cpu") as reranker:
        assert reranker.template == PairTemplate(
            prefix=CHAT.prefix,
            suffix=CHAT.suffix,
            score="logit" if activation == "linear.Identity" else "probability",
            strip=bool(activation),
        )
        np.testing.assert_allclose(reranker.score(pairs), expected, atol=2e-6, rtol=2e-6)
        with pytest.raises(ConfigError, match="has no place for an instruction"):
            reranker.rerank("a", ["b"], instruction="Find code")
    with Reranker("tiny", dtype="float32", device="cpu") as original:
        assert reranker.fingerprint.split(";")[3:] != original.fingerprint.split(";")[3:]


@pytest.mark.parametrize("activation", [None, "linear.Identity"])
def test_a_reranker_that_stores_qwens_prompt_is_qwens(folder, activation):
    logit_score(folder, "yes", "no", chat=QWENS, activation=activation)
    theirs = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    with (
        Reranker(str(folder), dtype="float32", device="cpu") as reranker,
        Reranker("tiny", dtype="float32", device="cpu") as original,
    ):
        assert (reranker.template, reranker.instruction) == ("card", DEFAULT_INSTRUCTION)
        scores = original.score(PAIRS, "Find code")
        np.testing.assert_array_equal(reranker.score(PAIRS, "Find code"), scores)
        sigmoid = theirs.predict(PAIRS, prompt="Find code", activation_fn=torch.nn.Sigmoid())
        np.testing.assert_allclose(scores, sigmoid, atol=2e-6)
    assert resolve(str(folder), "rerank").likely_task == "rerank"


def test_a_default_prompt_is_the_instruction(folder):
    logit_score(folder, "1", "0", chat=QWENS)
    prompts = {"prompts": {"code": "Find code"}, "default_prompt_name": "code"}
    write(folder, "config_sentence_transformers.json", **prompts)
    theirs = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    with Reranker(str(folder), dtype="float32", device="cpu") as reranker:
        assert reranker.instruction == "Find code"
        np.testing.assert_allclose(reranker.score(PAIRS), theirs.predict(PAIRS), atol=2e-6)


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_without_a_chat_template_a_pair_is_two_texts(folder, prompt):
    """The tokenizer puts a token after each text, and the last one is padding."""
    classifier(folder, 1, pad_token_id=24940)
    spec = json.loads((folder / "tokenizer.json").read_text())
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    parts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [parts[0], token],
        "pair": [parts[0], token, parts[1], token],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [24940], "tokens": ["<|endoftext|>"]}
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    if prompt:
        modules = [module(0, "", "base.modules.transformer.Transformer")]
        (folder / "modules.json").write_text(json.dumps(modules))
        write(
            folder,
            "sentence_bert_config.json",
            transformer_task="sequence-classification",
            modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
            module_output_name="scores",
        )
        stored = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
        write(folder, "config_sentence_transformers.json", model_type="CrossEncoder", **stored)
    theirs = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    with Reranker(str(folder), dtype="float32", device="cpu") as reranker:
        assert reranker.format_pair("a", "b") == f"{prompt or ''}a<|endoftext|>b<|endoftext|>"
        np.testing.assert_allclose(reranker.score(PAIRS), theirs.predict(PAIRS), atol=2e-6)


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
         "does not put one query before one document"),
        ("{{ messages[1].content }} of {{ messages[0].content }}",
         "does not put one query before one document"),
        ("{{ messages[0].content }}: {{ messages[1].content | upper }}", "does not put one query"),
        ("{{ messages[0].content }}: {{ messages[1].content | truncate(99) }}", "changes queries"),
        ("{{ messages[0].content }}: {{ messages[1].content | replace('word', 'x') }}", "changes"),
        ("{{ raise_exception('only users') }}", "refuses a pair: only users"),
        ("{{ strftime_now('%Y') }}", "cannot render a pair: 'strftime_now' is undefined"),
        ("{% if %}", "cannot render a pair: "),
    ],
)  # fmt: skip
def test_a_chat_template_that_is_no_pair_needs_a_template(folder, chat, reason):
    converted(folder, "difference")
    write(folder, "tokenizer_config.json", chat_template=chat)
    with pytest.raises(ModelLoadError, match=rf"{reason}.*; pass `template=\"card\"` for a conv"):
        Reranker(str(folder))
    with Reranker(str(folder), template="card") as reranker:
        assert reranker.template == "card"


def test_other_modules_of_a_reranker_are_left_to_sentence_transformers(folder):
    logit_score(folder, "yes", "no", chat=QWENS)
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["type"] = "sentence_transformers.base.modules.dense.Dense"
    write(folder, "1_LogitScore/config.json", in_features=256, out_features=1)
    path.write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"`type` in `modules\.json` is .* other modules than a"):
        Reranker(str(folder), engine="torch")
    modules[1]["type"] = "custom.Score"
    path.write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match="needs code that comes with the model"):
        Reranker(str(folder))
