"""Train the tiny embedding model: contrastive pairs and the teacher's similarities.

Both losses also see the first 128, 64 or 32 dimensions, which makes vectors that may be cut.

usage: embedding.py WORK [--steps 1400] [--resume] [--export]
Reads pairs.jsonl and teacher.pt; writes WORK/embedding (checkpoints) and, with --export, the
shipped folder.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file
from torch import Tensor

import vocabulary
from common import SEED, TINY, read_jsonl, teacher_folder
from model import Config, TinyQwen3, save
from prompts import OTHER_INSTRUCTIONS
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, query_frame

DIMENSIONS = (256, 128, 64, 32)
GROUP = 16  # pairs that are near each other, so that a batch has hard negatives
GROUPS = 12
SHARES = {"debian": 0.55, "wordnet": 0.25, "docstring": 0.2}
DOCUMENT_TOKENS = (
    (64, 0.5),
    (96, 0.3),
    (256, 0.2),
)  # cap of a batch's documents, and its share of the batches
QUERY_TOKENS = 48
OTHER_INSTRUCTION_SHARE = 0.25
TEMPERATURE = 0.05
SAME = 0.97  # teacher similarity above which two texts are not negatives of each other


def leaves(
    vectors: np.ndarray, index: np.ndarray, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Halve `index` along random directions until groups of near vectors of GROUP remain."""
    if len(index) <= GROUP:
        yield index
        return
    first, second = generator.choice(index, 2, replace=False)
    order = index[np.argsort(vectors[index] @ (vectors[first] - vectors[second]), kind="stable")]
    yield from leaves(vectors, order[: len(order) // 2], generator)
    yield from leaves(vectors, order[len(order) // 2 :], generator)


def plan(sources: list[str], vectors: np.ndarray, steps: int) -> list[list[int]]:
    """The pairs of every step's batch."""
    generator = np.random.default_rng(SEED)
    groups: list[np.ndarray] = []
    for source, share in SHARES.items():
        index = np.flatnonzero(np.array(sources) == source)
        wanted = round(steps * GROUPS * share)
        chosen: list[np.ndarray] = []
        while len(chosen) < wanted:
            found = list(leaves(vectors, index, generator))
            generator.shuffle(found)
            chosen += found
        groups += chosen[:wanted]
    order = generator.permutation(len(groups))
    return [np.concatenate([groups[i] for i in order[at::steps]]).tolist() for at in range(steps)]


def contrastive(queries: Tensor, documents: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE over the batch, averaged over the Matryoshka dimensions."""
    target = torch.arange(len(queries))
    total = queries.new_zeros(())
    for size in DIMENSIONS:
        scores = (
            functional.normalize(queries[:, :size], dim=-1)
            @ functional.normalize(documents[:, :size], dim=-1).T
            / TEMPERATURE
        )
        scores = scores.masked_fill(same, -1e4)
        total = (
            total
            + functional.cross_entropy(scores, target)
            + functional.cross_entropy(scores.T, target)
        )
    return total / (2 * len(DIMENSIONS))


def distillation(vectors: Tensor, targets: Tensor, rotated: Tensor) -> Tensor:
    """The teacher's vectors (rotated to 256 dimensions) and its similarities within the batch."""
    diagonal = torch.eye(len(vectors), dtype=torch.bool)
    wanted = (targets @ targets.T / TEMPERATURE).masked_fill(diagonal, -1e4).softmax(dim=-1)
    total = 2 * (1 - functional.cosine_similarity(vectors, rotated, dim=-1)).mean()
    for size, weight in ((256, 0.6), (64, 0.4)):
        short = functional.normalize(vectors[:, :size], dim=-1)
        got = (short @ short.T / TEMPERATURE).masked_fill(diagonal, -1e4).log_softmax(dim=-1)
        total = total + weight * functional.kl_div(got, wanted, reduction="batchmean")
    return total


def optimizers(model: TinyQwen3) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the word table and the norms."""
    matrices = [p for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    adam = torch.optim.AdamW(
        [{"params": [model.embed_tokens.weight], "lr": 1e-3}, {"params": norms, "lr": 2e-3}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )
    muon = torch.optim.Muon(
        matrices, lr=4e-3, weight_decay=0.01, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    for optimizer in (adam, muon):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [adam, muon]


def export(model: TinyQwen3, pieces: list[str], folder: Path) -> None:
    """Write the shipped folder: weights, tokenizer and the sentence-transformers files."""
    save(model, folder, end=len(pieces), key_prefix="")
    vocabulary.write(pieces, folder, append_end_of_text=True)
    modules = (
        ("0", "", "Transformer"),
        ("1", "1_Pooling", "Pooling"),
        ("2", "2_Normalize", "Normalize"),
    )
    pooling = {
        "word_embedding_dimension": model.config.hidden_size,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    }
    prompts = {"query": query_frame(DEFAULT_INSTRUCTION), "document": ""}
    files = {
        "modules.json": [
            {
                "idx": int(name),
                "name": name,
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for name, path, kind in modules
        ],
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train, or continue from the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--export",
        action="store_true",
        help="write the newest checkpoint to the package, train nothing",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    folder = arguments.work / "embedding"
    folder.mkdir(exist_ok=True)
    pieces_path = arguments.work / "pieces.json"
    if arguments.export:
        pieces = json.loads(pieces_path.read_text())
        model = TinyQwen3(Config(vocab_size=len(pieces) + 5))
        model.load_state_dict(torch.load(folder / "checkpoint.pt")["model"])
        shutil.rmtree(TINY / "embedding", ignore_errors=True)
        export(model, pieces, TINY / "embedding")
        return

    pairs = list(read_jsonl(arguments.work / "pairs.jsonl"))
    targets = torch.load(arguments.work / "teacher.pt")
    if not pieces_path.exists():
        texts = [row[name] for row in pairs for name in ("query", "document")]
        pieces_path.write_text(json.dumps(vocabulary.prune(texts)))
    pieces = json.loads(pieces_path.read_text())
    end = len(pieces)
    reader = vocabulary.without_added_tokens(vocabulary.build(pieces, append_end_of_text=False))
    tokens = {
        name: [e.ids[:255] for e in reader.encode_batch([row[name][:1500] for row in pairs])]
        for name in ("query", "document")
    }
    prompts = [
        reader.encode(query_frame(text)).ids for text in (DEFAULT_INSTRUCTION, *OTHER_INSTRUCTIONS)
    ]

    teacher_table = load_file(teacher_folder() / "model.safetensors")[
        "embeddings.word_embeddings.weight"
    ].float()
    model = TinyQwen3(Config(vocab_size=len(pieces) + 5))
    model.embed_tokens.weight.data.copy_(
        vocabulary.initial_word_table(pieces, teacher_table, model.config.hidden_size)
    )
    sample = targets[:, ::8].flatten(0, 1).float()
    rotation = torch.linalg.svd(sample, full_matrices=False).Vh[: model.config.hidden_size].T
    print(
        f"{len(pieces)} pieces, {sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )

    batches = plan([row["source"] for row in pairs], targets[1].float().numpy(), arguments.steps)
    opts = optimizers(model)
    first = 0
    if arguments.resume:
        checkpoint = torch.load(folder / "checkpoint.pt")
        model.load_state_dict(checkpoint["model"])
        for optimizer, state in zip(opts, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = checkpoint["step"]

    started, seen = time.monotonic(), 0
    for step in range(first, arguments.steps):
        choose = random.Random(f"{SEED} {step}")
        cap = choose.choices(*zip(*DOCUMENT_TOKENS, strict=True))[0]
        other = choose.random() < OTHER_INSTRUCTION_SHARE
        prompt = prompts[choose.randrange(1, len(prompts)) if other else 0]
        batch = batches[step]
        query_rows = [[*tokens["query"][i][:QUERY_TOKENS], end] for i in batch]
        document_rows = [[*tokens["document"][i][: cap - 1], end] for i in batch]
        wanted = targets[:, batch].float()
        same = (wanted[1] @ wanted[1].T > SAME) | (wanted[0] @ wanted[0].T > SAME)
        same.fill_diagonal_(False)
        with torch.autocast("cpu", torch.bfloat16):
            prefix = model.read([prompt])
            queries, _ = model.last(query_rows, prefix)
            documents, _ = model.last(document_rows)
        both = wanted.flatten(0, 1)
        pull = contrastive(queries, documents, same)
        match = distillation(torch.cat((queries, documents)), both, both @ rotation)
        (pull + match).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1.0, (step + 1) / 50, (arguments.steps - step) / (0.6 * arguments.steps))
        for optimizer in opts:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad()
        seen += sum(map(len, query_rows)) + sum(map(len, document_rows))
        if (step + 1) % 20 == 0:
            clock = time.monotonic() - started
            print(
                f"{step + 1} contrastive {pull:.3f} distil {match:.3f} "
                f"{clock:.0f} s, {seen / clock:.0f} tokens/s",
                flush=True,
            )
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps:
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in opts],
            }
            torch.save(state, folder / "checkpoint.pt.new")
            (folder / "checkpoint.pt.new").replace(folder / "checkpoint.pt")


if __name__ == "__main__":
    main()
