"""Evaluate in two stages, with Quernstone and with mteb's own wrappers of Qwen3.

    python -m benchmarks.evaluation                                # 0.6B shapes: minutes
    python -m benchmarks.evaluation --layers 2 --documents 40      # a trial

Both sides read the same random checkpoints in the official layout, in one dtype, and evaluate one
retrieval task (docstrings find the code of their functions) and one STS task under mteb's rules.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import mteb
import torch
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.model_implementations.qwen3_models import instruction_template
from mteb.models.model_implementations.qwen3_reranker import Qwen3RerankerWrapper
from mteb.models.model_meta import ModelMeta, ScoringFunction
from tests.support.checkpoints import random_checkpoint

from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, compare
from quernstone import Embedder, Reranker
from quernstone.evaluation.adapters import CandidateSearch, CrossEncoder, Encoder
from quernstone.evaluation.instructions import Instructions
from quernstone.evaluation.protocol import Protocol

MTEB = Protocol(name="mteb", instructions=Instructions({}))
TOP_K = 20
EMBEDDING_BATCH = 32  # mteb's default
# mteb's reranker computes the logits of the whole vocabulary at every position: 32 pairs need more
# memory than most machines have
RERANKING_BATCH = 8


def mteb_embedding(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a checkpoint like mteb's loader of Qwen3-Embedding.

    The loader itself reads the attention implementation from a place where sentence-transformers 6
    no longer stores it, to pad on the left under flash-attn only.
    """
    model = InstructSentenceTransformerModel(
        str(folder),
        revision=None,  # type: ignore[arg-type]
        device="cpu",
        instruction_template=instruction_template,
        apply_instruction_to_passages=False,
        model_kwargs={"dtype": dtype},
    )
    model.mteb_model_meta = ModelMeta.create_empty(
        overwrites={"name": "mteb/embedding", "similarity_fn_name": ScoringFunction.COSINE}
    )
    return model


def mteb_reranker(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a checkpoint in mteb's wrapper of Qwen3-Reranker."""
    model = Qwen3RerankerWrapper(str(folder), device="cpu", dtype=dtype)
    model.mteb_model_meta = ModelMeta.create_empty(  # type: ignore[attr-defined]
        overwrites={"name": "mteb/reranker", "model_type": ["cross-encoder"]}
    )
    return model


def _described(name: str, kind: Any, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=name,
        type=kind,
        main_score=score,
        dataset={"path": "local/none", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        modalities=["text"],
        category="t2t",
    )


class BenchRetrieval(AbsTaskRetrieval):
    """Retrieval: the first sentence of a docstring finds the rest."""

    metadata = _described("BenchRetrieval", "Retrieval", "ndcg_at_10")
    texts: list[str]

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Split the texts."""
        rows = range(len(self.texts))
        split = {
            "corpus": datasets.Dataset.from_list(
                [{"id": f"d{row}", "title": "", "text": self.texts[row]} for row in rows]
            ),
            "queries": datasets.Dataset.from_dict(
                {
                    "id": [f"q{row}" for row in rows],
                    "text": [self.texts[row].splitlines()[0] for row in rows],
                }
            ),
            "relevant_docs": {f"q{row}": {f"d{row}": 1} for row in rows},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}  # type: ignore[dict-item]
        self.data_loaded = True


class BenchSTS(AbsTaskSTS):
    """Similarity of neighbouring docstrings; the labels do not matter here."""

    metadata = _described("BenchSTS", "STS", "cosine_spearman")
    texts: list[str]

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Pair the texts."""
        columns = {
            "sentence1": self.texts[:-1],
            "sentence2": self.texts[1:],
            "score": [float(row % 6) for row in range(len(self.texts) - 1)],
        }
        self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(columns))  # type: ignore[assignment]
        self.data_loaded = True


def _evaluate(
    model: Any, tasks: list[Any], batch: int, predictions: Path | None = None
) -> list[float]:
    result = mteb.evaluate(
        model,
        tasks,
        cache=None,
        prediction_folder=predictions,
        encode_kwargs={"batch_size": batch, "show_progress_bar": False},
        co2_tracker=False,
        show_progress_bar=False,
    )
    return [float(one.get_score()) for one in result.task_results]


def run(
    embedding: Path, reranking: Path, *, dtype: str, documents: int, queries: int, repeats: int
) -> list[Result]:
    """Run both stages of both sides."""
    datasets.disable_progress_bars()
    BenchRetrieval.texts = BenchSTS.texts = docstrings(documents, seed=2)
    torch_dtype = getattr(torch, dtype)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder)
        scores: dict[str, list[float]] = {}

        def side(name: str, model: Any, tasks: Callable[[], list[Any]]) -> Side:
            def work() -> None:
                if tasks is stage_two:
                    scores[name] = _evaluate(model, tasks(), RERANKING_BATCH)
                    return
                saved = predictions if name == "quernstone" else None
                scores[name] = _evaluate(model, tasks(), EMBEDDING_BATCH, saved)

            return Side(name, work)

        def difference() -> str:
            ours, theirs = scores["quernstone"], scores["mteb's wrapper"]
            most = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
            return f"largest difference of a main score: {most:.6f}"

        def stage_one() -> list[Any]:
            return [BenchRetrieval(), BenchSTS()]

        def stage_two() -> list[Any]:
            task = BenchRetrieval().convert_to_reranking(predictions, top_k=TOP_K)
            split = task.dataset["default"]["test"]
            split["queries"] = split["queries"].select(range(queries))
            return [task]

        theirs = mteb_embedding(embedding, torch_dtype)
        with Embedder(str(embedding), device="cpu", dtype=dtype, max_length=MTEB.max_length) as e:  # type: ignore[arg-type]
            sides = [
                side("quernstone", Encoder(e, MTEB), stage_one),
                side("mteb's wrapper", theirs, stage_one),
            ]
            title = f"Stage one, retrieval and STS on {documents} docstrings, {dtype}"
            result = compare(title, sides, unit="tasks", amount=2, repeats=repeats)
            result.notes.append(difference())
            results.append(result)
        del theirs
        wrapper = mteb_reranker(reranking, torch_dtype)
        with Reranker(str(reranking), device="cpu", dtype=dtype, template="card") as reranker:  # type: ignore[arg-type]
            search = CandidateSearch(CrossEncoder(reranker, MTEB))
            sides = [
                side("quernstone", search, stage_two),
                side("mteb's wrapper", wrapper, stage_two),
            ]
            title = f"Stage two, {queries} queries, top {TOP_K}, {dtype}"
            result = compare(title, sides, unit="queries", amount=queries, repeats=repeats)
            result.notes.append(difference())
            results.append(result)
    return results


def main() -> None:
    """Run both comparisons, print them, and write them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()

    def checkpoint(layout: Any) -> Path:
        return random_checkpoint(
            given.folder / f"{layout}-{given.layers}-layers", layout, layers=given.layers
        )

    results = run(
        checkpoint("embedding-0.6b"),
        checkpoint("reranker-0.6b"),
        dtype=given.dtype,
        documents=given.documents,
        queries=given.queries,
        repeats=given.repeats,
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, mteb {mteb.__version__}")
    for result in results:
        print(result.title)
        for name, seconds, ratio in zip(result.names, result.seconds, result.ratios, strict=True):
            print(f"  {name:16} {seconds:8.2f} s  {ratio:6.2f} x")
        print(f"  {'; '.join(result.notes)}")
    totals = [sum(seconds) for seconds in zip(*(one.seconds for one in results), strict=True)]
    print(f"both stages: {totals[1] / totals[0]:.2f} x")
    path = given.folder / "evaluation.json"
    path.write_text(json.dumps([result.as_dict() for result in results], indent=2))


if __name__ == "__main__":
    main()
