"""A task of every type that the four benchmarks have, on real texts that are available offline.

`quern eval run --tasks-file local_tasks.py` runs them. The texts: Debian's package descriptions in
English and Chinese and WordNet's glosses (tests/data/evaluation), the Lee corpus with its human
judgements of similarity (inside the package gensim), and the functions of Python's standard
library.
"""

import ast
import gzip
import json
import sysconfig
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change
from mteb.abstasks import (
    AbsTaskBitextMining,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskMultilabelClassification,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.task_metadata import TaskMetadata
from tests.support.syntax import parse

DATA = next(
    parent / "data" / "evaluation"
    for parent in Path(__file__).parents
    if (parent / "data" / "evaluation").is_dir()
)
SUBSETS = {"en": ["eng-Latn"], "zh": ["zho-Hans"]}


def described(name, kind, score, prompt=None, languages=("eng-Latn",), splits=("test",)):
    return TaskMetadata(
        name=name,
        description=f"{kind} on texts at hand",
        type=kind,
        main_score=score,
        prompt=prompt,
        dataset={"path": "local/none", "revision": "1"},
        eval_splits=list(splits),
        eval_langs=languages if isinstance(languages, dict) else list(languages),
        modalities=["text"],
        category="t2t",
    )


@cache
def rows(name):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def lee():
    """50 short news texts, and how similar people found any two of them, 0 to 1."""
    folder = Path(str(distribution("gensim").locate_file("gensim/test/test_data")))
    texts = (folder / "lee.cor").read_text(encoding="latin-1").strip().splitlines()
    upper = np.loadtxt(folder / "similarities0-1.txt")
    return texts, np.maximum(upper, upper.T)


@cache
def functions():
    """(docstring, body) of functions of the standard library."""
    found = {}
    for module in ("textwrap", "shutil", "statistics", "tempfile", "calendar", "heapq", "os"):
        for node in ast.walk(parse(Path(sysconfig.get_path("stdlib")) / f"{module}.py")):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if text and len(node.body) > 2 and len(text) > 30:
                body = "\n".join(ast.unparse(part) for part in node.body[1:])
                found[f"{module}.{node.name}"] = (text.split("\n\n")[0], body)
    return found


def corpus(texts):
    return Dataset.from_list([{"id": f"d{n}", "title": "", "text": t} for n, t in enumerate(texts)])


def queries(texts, **columns):
    return Dataset.from_dict({"id": [f"q{n}" for n in range(len(texts))], "text": texts, **columns})


class LocalRetrieval(AbsTaskRetrieval):
    """A package's synopsis finds its long description, in two languages."""

    metadata = described("LocalRetrieval", "Retrieval", "ndcg_at_10", languages=SUBSETS)

    def load_data(self, num_proc=None, **kwargs):
        some = rows("debian")[:60]
        self.dataset = {
            subset: {
                "test": {
                    "corpus": corpus([row[f"{subset}_long"] for row in rows("debian")]),
                    "queries": queries([row[subset] for row in some]),
                    "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(len(some))},
                    "top_ranked": None,
                }
            }
            for subset in self.hf_subsets
        }
        self.data_loaded = True


class LocalCodeRetrieval(AbsTaskRetrieval):
    """A docstring finds the body of its function."""

    metadata = described(
        "LocalCodeRetrieval",
        "Retrieval",
        "ndcg_at_10",
        {"query": "Given what a function does, find its code"},
    )

    def load_data(self, num_proc=None, **kwargs):
        pairs = list(functions().values())
        split = {
            "corpus": corpus([code for _, code in pairs]),
            "queries": queries([text for text, _ in pairs]),
            "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(len(pairs))},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class LocalReranking(AbsTaskRetrieval):
    """Which of ten glosses is that of the word in the sentence?"""

    metadata = described(
        "LocalReranking",
        "Reranking",
        "map_at_1000",
        "Given a sentence, find the meaning of its main word",
    )

    def load_data(self, num_proc=None, **kwargs):
        some = rows("wordnet")[::5]
        count = len(some)
        split = {
            "corpus": corpus([row["gloss"] for row in some]),
            "queries": queries([row["example"] for row in some]),
            "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(count)},
            "top_ranked": {
                f"q{n}": [f"d{(n + 7 * step) % count}" for step in range(10)] for n in range(count)
            },
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class LocalInstructionReranking(AbsTaskRetrieval):
    """Each query twice: asked widely, and with a domain left out, as FollowIR does."""

    metadata = described("LocalInstructionReranking", "InstructionReranking", "p-MRR")
    WIDE = "A meaning of the word is relevant"
    NARROW = "A meaning of the word is relevant unless it is about the human body"

    def load_data(self, num_proc=None, **kwargs):
        some = [row for row in rows("wordnet") if row["domain"].startswith("noun")][::9]
        body = [n for n, row in enumerate(some) if row["domain"] == "noun.body"]
        names, asked, instructions, relevant = [], [], [], {}
        self.left_out = {}
        for n in body:
            other = f"d{(n + 3) % len(some)}"
            for kind, instruction, right in (
                ("og", self.WIDE, {f"d{n}": 1, other: 1}),
                ("changed", self.NARROW, {other: 1}),
            ):
                names.append(f"q{n}-{kind}")
                asked.append(some[n]["word"])
                instructions.append(instruction)
                relevant[names[-1]] = right
            self.left_out[f"q{n}"] = [f"d{n}"]
        split = {
            "corpus": corpus([row["gloss"] for row in some]),
            "queries": Dataset.from_dict({"id": names, "text": asked, "instruction": instructions}),
            "relevant_docs": relevant,
            "top_ranked": {name: [f"d{n}" for n in range(len(some))] for name in names},
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def task_specific_scores(self, scores, qrels, results, hf_split, hf_subset):
        return evaluate_p_mrr_change(qrels, results, self.left_out, self.k_values)


class LocalSTS(AbsTaskSTS):
    """Pairs of news texts and what people said of their similarity."""

    metadata = described("LocalSTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 1

    def load_data(self, num_proc=None, **kwargs):
        texts, human = lee()
        first, second = np.triu_indices(len(texts), 1)
        columns = {
            "sentence1": [texts[n] for n in first],
            "sentence2": [texts[n] for n in second],
            "score": human[first, second].tolist(),
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class LocalPairClassification(AbsTaskPairClassification):
    """Do people find two news texts similar?"""

    metadata = described("LocalPairClassification", "PairClassification", "max_ap")

    def load_data(self, num_proc=None, **kwargs):
        texts, human = lee()
        first, second = np.triu_indices(len(texts), 1)
        columns = {
            "sentence1": [texts[n] for n in first],
            "sentence2": [texts[n] for n in second],
            "labels": (human[first, second] >= 0.5).astype(int).tolist(),
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class LocalSummarization(AbsTaskSummarization):
    """Other news texts as summaries of one, judged by people; the nearest stands for a good one."""

    metadata = described("LocalSummarization", "Summarization", "cosine_spearman")
    min_score, max_score = 0, 1

    def load_data(self, num_proc=None, **kwargs):
        texts, human = lee()
        near = np.argsort(-human, axis=1, kind="stable")[:, 1:]
        columns = {
            "text": texts,
            "human_summaries": [[texts[order[0]]] for order in near],
            "machine_summaries": [[texts[n] for n in order[1::6]] for order in near],
            "relevance": [human[row, order[1::6]].tolist() for row, order in enumerate(near)],
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    """The domain of a gloss."""

    metadata = described(
        "LocalClassification",
        "Classification",
        "accuracy",
        "Classify the meaning of a word by domain",
    )
    n_experiments = 3

    def load_data(self, num_proc=None, **kwargs):
        names = sorted({row["domain"] for row in rows("wordnet")})
        split = [
            Dataset.from_dict(
                {
                    "text": [row["gloss"] for row in some],
                    "label": [names.index(row["domain"]) for row in some],
                }
            )
            for some in (rows("wordnet")[::2], rows("wordnet")[1::2])
        ]
        self.dataset = DatasetDict(train=split[0], test=split[1])
        self.data_loaded = True


class LocalMultilabelClassification(AbsTaskMultilabelClassification):
    """The part of speech and the domain of a gloss."""

    metadata = described("LocalMultilabelClassification", "MultilabelClassification", "lrap")
    n_experiments = 2

    def load_data(self, num_proc=None, **kwargs):
        domains = sorted({row["domain"] for row in rows("wordnet")})

        def labels(row):
            return [domains.index(row["domain"]) + 2, int(row["domain"].startswith("verb"))]

        split = [
            Dataset.from_dict(
                {"text": [row["gloss"] for row in some], "label": [labels(row) for row in some]}
            )
            for some in (rows("wordnet")[::2], rows("wordnet")[1::2])
        ]
        self.dataset = DatasetDict(train=split[0], test=split[1])
        self.data_loaded = True


class LocalClustering(AbsTaskClustering):
    """Glosses by domain."""

    metadata = described("LocalClustering", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    n_clusters = 3

    def load_data(self, num_proc=None, **kwargs):
        columns = {
            "sentences": [row["gloss"] for row in rows("wordnet")],
            "labels": [row["domain"] for row in rows("wordnet")],
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class LocalClusteringLegacy(AbsTaskClusteringLegacy):
    """Clustering in the older task format, which several Chinese tasks still use."""

    metadata = described("LocalClusteringLegacy", "Clustering", "v_measure")

    def load_data(self, num_proc=None, **kwargs):
        columns = {
            "sentences": [[row["gloss"] for row in rows("wordnet")]],
            "labels": [[row["domain"] for row in rows("wordnet")]],
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class LocalBitextMining(AbsTaskBitextMining):
    """Synopses of packages in English and in Chinese."""

    metadata = described(
        "LocalBitextMining", "BitextMining", "f1", languages={"en-zh": ["eng-Latn", "zho-Hans"]}
    )

    def load_data(self, num_proc=None, **kwargs):
        columns = {
            "sentence1": [row["en"] for row in rows("debian")],
            "sentence2": [row["zh"] for row in rows("debian")],
        }
        self.dataset = {"en-zh": DatasetDict(test=Dataset.from_dict(columns))}
        self.data_loaded = True
