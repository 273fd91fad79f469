"""The adapters under mteb's own check of models, and the exact strings that reach the engine."""

import json
from concurrent.futures import Future
from pathlib import Path

import mteb
import numpy as np
import pytest
from tokenizers import Tokenizer

from quernstone import Embedder, Reranker
from quernstone.encoding.prompts import RERANK_PREFIX
from quernstone.errors import ConfigError
from quernstone.evaluation.adapters import CandidateSearch, CrossEncoder, Encoder, model_name
from quernstone.runtime.worker import Worker

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GOLDEN = Path(__file__).parent / "golden_strings.json"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
def test_mock_run_of_the_encoder(engine, official):
    with Embedder("tiny", engine=engine, dtype="float32") as embedder:
        passed_all_tasks(Encoder(embedder, official), 28)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
def test_mock_run_of_the_cross_encoder(engine, official):
    with Reranker("tiny", engine=engine, dtype="float32", template="eval") as reranker:
        passed_all_tasks(CandidateSearch(CrossEncoder(reranker, official)), 9)


def passed_all_tasks(model, least):
    results = mteb.mock_run(model)
    failed = {name: one for name, one in results.items() if type(one).__name__ == "TaskError"}
    assert failed == {}
    done = [name for name, one in results.items() if type(one).__name__ == "TaskResult"]
    assert len(done) >= least
    assert results.all_passed


@pytest.fixture
def submitted(monkeypatch):
    """Record the token ids that engines get; the engine's results are arbitrary."""
    seen = []

    def submit(self, sequences, offset=0):
        for one in sequences:
            shared = [] if one.prefix is None else one.prefix.ids.tolist()
            seen.append(shared + one.ids.tolist())
        rows = np.random.default_rng(len(sequences)).normal(size=(len(sequences), self.width))
        answer = Future()
        answer.set_result(rows.astype(np.float32))
        return answer

    monkeypatch.setattr(Worker, "submit", submit)
    return seen


def short(text):
    """Beginning and end of a long text; nothing happens in the middle."""
    return text if len(text) <= 160 else f"{text[:120]} ... {text[-30:]}"


def run_quietly(model, task):
    mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)


@pytest.mark.slow
def test_the_strings_of_every_type_under_both_protocols(
    checkpoints, submitted, tasks, official, mteb_rules
):
    """Compare the first string of each model call, decoded from the engine's token ids."""
    folder = checkpoints("embedding-0.6b", layers=1, width=16)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    noted = []

    class Noting(Encoder):
        def embed(self, texts, instruction):
            start = len(submitted)
            vectors = super().embed(texts, instruction)
            noted.append(short(tokenizer.decode(submitted[start], skip_special_tokens=False)))
            return vectors

    found = {"official": {}, "mteb": {}}
    with Embedder(str(folder), dtype="float32") as embedder:
        for rules in (official, mteb_rules):
            for task in tasks():
                noted.clear()
                run_quietly(Noting(embedder, rules), task)
                name = f"{task.metadata.type}: {task.metadata.name}"
                found[rules.name][name] = list(dict.fromkeys(noted))
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("template", ["card", "eval"])
def test_reranked_pairs_token_for_token(template, checkpoints, submitted, tasks, official):
    """The two official renderings, spelled out here, through the official tokenizer."""
    folder = checkpoints("reranker-0.6b", layers=1, width=16)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    [task] = tasks("LocalReranking")
    with Reranker(str(folder), dtype="float32", template=template) as reranker:
        run_quietly(CandidateSearch(CrossEncoder(reranker, official)), task)
    task.load_data()
    split = task.dataset["default"]["test"]
    query, first = split["queries"]["text"][0], int(split["top_ranked"]["q0"][0][1:])
    document = split["corpus"]["text"][first]
    instruction = "Given a sentence, find the meaning of its main word"
    gap, turns = {"card": ("\n", 1), "eval": ("\n\n", 2)}[template]
    expected = (
        RERANK_PREFIX
        + f"<Instruct>: {instruction}{gap}<Query>: {query}{gap}<Document>: {document}"
        + "<|im_end|>\n" * turns
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert submitted[0] == tokenizer.encode(expected, add_special_tokens=False).ids


def test_each_query_brings_its_instruction(checkpoints, submitted, tasks, official, mteb_rules):
    folder = checkpoints("reranker-0.6b", layers=1, width=16)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    [task] = tasks("LocalInstructionReranking")

    def heads(rules):
        del submitted[:]
        with Reranker(str(folder), dtype="float32", template=rules.template) as reranker:
            run_quietly(CandidateSearch(CrossEncoder(reranker, rules)), task)
        texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in submitted]
        bodies = [text[len(RERANK_PREFIX) :].split("<Document>")[0] for text in texts]
        return list(dict.fromkeys(bodies))[:2]

    assert heads(official) == [
        f"<Instruct>: {instruction}\n\n<Query>: pivot joint\n\n"
        for instruction in (task.WIDE, task.NARROW)
    ]
    assert heads(mteb_rules) == [
        f"<Instruct>: {instruction}\n<Query>: pivot joint {instruction}\n"
        for instruction in (task.WIDE, task.NARROW)
    ]


def test_a_text_that_repeats_is_embedded_once(embedder, official):
    before = embedder.usage.inputs
    vectors = Encoder(embedder, official).embed(["rain", "a mill", "rain"], "")
    assert embedder.usage.inputs == before + 2
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(
        vectors, embedder.embed_documents(["rain", "a mill", "rain"]), atol=1e-6
    )


def test_a_large_corpus_without_candidates_is_refused(reranker, official, tasks, monkeypatch):
    monkeypatch.setattr("quernstone.evaluation.adapters.MAX_EXHAUSTIVE", 199)
    search = CandidateSearch(CrossEncoder(reranker, official))
    with pytest.raises(ConfigError, match="200 documents are too many to score for every query"):
        run_quietly(search, tasks("LocalRetrieval")[0])


def test_names_of_models(tmp_path):
    (tmp_path / "mine").mkdir()
    assert model_name("Qwen/Qwen3-Embedding-0.6B") == "Qwen/Qwen3-Embedding-0.6B"
    assert model_name("tiny") == "quernstone/tiny"
    assert model_name(str(tmp_path / "mine")) == "local/mine"
