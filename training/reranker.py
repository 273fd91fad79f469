"""Train the tiny reranker: the embedding model's layers and two more, on lists of eight documents.

usage: reranker.py WORK [--steps 1540] [--resume] [--export]
Reads pairs.jsonl, teacher.pt and the shipped embedding model; writes WORK/reranker (mined lists,
checkpoints) and, with --export, the shipped folder.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

import vocabulary
from common import SEED, TINY, read_jsonl
from embedding import SAME, TEMPERATURE, optimizers
from initial_reranker import separate_answers, start_from, targets
from model import TinyQwen3, load, save
from prompts import OTHER_INSTRUCTIONS
from quernstone.encoding.prompts import (
    DEFAULT_INSTRUCTION,
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    rerank_head,
)
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder

NEGATIVES = 7
QUERIES = 16  # lists in a batch
BLOCK = 3000  # negatives are mined among this many documents, the size of the held-out set
MINED = 20
BLOCKS = {"debian": 12, "wordnet": 2, "docstring": 3}
FIRST_ROUND = 1250  # steps of the first of two rounds of the learning rate
# The cap of a batch's documents, and its share of the batches, in each round.
DOCUMENT_TOKENS = (((48, 0.35), (80, 0.5), (200, 0.15)), ((64, 0.3), (96, 0.5), (200, 0.2)))
DROPPED_TOKENS = (0.05, 0.0)  # share of a document's tokens, to prevent overfitting
QUERY_TOKENS = 48
OTHER_INSTRUCTION_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """Every pair's hard negatives; the first axis counts pairs."""

    near: Tensor
    """Nearest wrong documents, MINED each at 64 and at 256 dimensions; -1 where there is none."""
    blocks: Tensor
    """Block number of each pair: random negatives come from the same block."""
    queries: Tensor
    """The embedding model's vectors, Shape: (pairs, 256)."""
    documents: Tensor


@torch.inference_mode()
def mine(
    tokenizer: Tokenizer, model: TinyQwen3, pairs: list[dict[str, str]], teacher: Tensor
) -> Mined:
    """Embed all pairs with the tiny embedding model, and find each query's hard negatives."""
    queries = TokenEncoder(tokenizer, max_length=64).encode_queries([""], DEFAULT_INSTRUCTION)
    frame = queries.sequences[0]
    vectors = []
    with torch.autocast("cpu", torch.bfloat16):
        prefix = model.read([frame.ids[:-1].tolist()])
        for name, before in (("query", prefix), ("document", None)):
            texts = [row[name][:800] for row in pairs]
            batch = TokenEncoder(tokenizer, max_length=96).encode_documents(texts)
            rows = [sequence.ids.tolist() for sequence in batch.sequences]
            parts = [model.last(rows[i : i + 4096], before)[0] for i in range(0, len(rows), 4096)]
            vectors.append(torch.cat(parts))
    queries, documents = (functional.normalize(each.float(), dim=-1) for each in vectors)
    near = torch.full((len(pairs), 2 * MINED), -1)
    blocks = torch.zeros(len(pairs), dtype=torch.long)
    for number, block in enumerate(torch.arange(len(pairs)).split(BLOCK)):
        blocks[block] = number
        wanted = teacher[:, block].float()
        same = (wanted[0] @ wanted[0].T > SAME) | (wanted[1] @ wanted[1].T > SAME)
        for place, size in enumerate((64, 256)):
            q = functional.normalize(queries[block, :size], dim=-1)
            d = functional.normalize(documents[block, :size], dim=-1)
            found = (q @ d.T).masked_fill(same, -2).topk(MINED)
            indices = block[found.indices].masked_fill(found.values < -1, -1)
            near[block, place * MINED : (place + 1) * MINED] = indices
    return Mined(near=near, blocks=blocks, queries=queries.half(), documents=documents.half())


class Frames:
    """Token ids of the template's parts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.suffix: list[int] = tokenizer.frame_ids(RERANK_SUFFIXES["card"]).tolist()
        self.system: list[int] = tokenizer.frame_ids(RERANK_PREFIX).tolist()

    def plain(self, texts: Sequence[str], most: int = 2048) -> list[list[int]]:
        """Return the token ids of users' texts, without a final token."""
        batch = TokenEncoder(self.tokenizer, max_length=most).encode_documents(texts)
        return [sequence.ids[:-1].tolist() for sequence in batch.sequences]

    def opening(self, instruction: str) -> list[int]:
        """Return the template up to the query, which all queries share."""
        return (
            self.system
            + self.plain([rerank_head("", instruction, "card").split("\n<Document>")[0]])[0]
        )

    def queries(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the template from the query to the document, for each query."""
        closing = self.plain(["\n<Document>:"])[0]
        return [ids + closing for ids in self.plain(texts, QUERY_TOKENS)]


def score(
    model: TinyQwen3,
    frames: Frames,
    opening: list[int],
    queries: list[list[int]],
    documents: list[list[int]],
    owners: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logit of yes against no for every document; `owners` names each one's query.

    Also return the input of the last layer before the documents and at the end of each.
    """
    prefix = model.read(queries, model.read([opening]))
    hidden, below = model.last([row + frames.suffix for row in documents], prefix, owners)
    yes, no = (frames.tokenizer.token_id(word) for word in ("yes", "no"))
    difference = model.embed_tokens.weight[yes] - model.embed_tokens.weight[no]
    return (hidden.float() * difference).sum(dim=-1), prefix.below.float(), below


def choose_list(
    mined: Mined, members: list[list[int]], pair: int, hard: int, choose: random.Random
) -> list[int]:
    """Return the pair itself, `hard` mined negatives, and random ones of its block."""
    near = [i for i in mined.near[pair].tolist() if i >= 0]
    negatives = choose.sample(near, min(hard, len(near)))
    block = members[int(mined.blocks[pair])]
    while len(negatives) < NEGATIVES:
        other = choose.choice(block)
        if other != pair:
            negatives.append(other)
    return [pair, *negatives]


def losses(
    scores: Tensor, teacher: Tensor, lists: Tensor, hard: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses of the first document, of the teacher's order, and of each label."""
    wanted = (teacher[0, lists[:, :1]].float() * teacher[1, lists].float()).sum(dim=-1)
    right = functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
    order = functional.kl_div(
        scores.log_softmax(dim=-1),
        (wanted / TEMPERATURE).softmax(dim=-1),
        reduction="batchmean",
    )
    target = torch.zeros_like(scores)
    target[:, 0] = 1.0
    weight = torch.ones_like(scores)
    weight[:, 1 : 1 + hard] = 0.3
    weight[:, 0] = weight[:, 1:].sum(dim=-1)
    each = (
        functional.binary_cross_entropy_with_logits(scores, target, weight, reduction="sum")
        / weight.sum()
    )
    return right, order, each


def export(model: TinyQwen3, pieces: list[str], folder: Path) -> None:
    """Write the shipped folder."""
    save(model, folder, end=len(pieces), key_prefix="model.")
    vocabulary.write(pieces, folder, append_end_of_text=False)


def main() -> None:
    """Mine once, then train, or continue from the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1540)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--export",
        action="store_true",
        help="write the newest checkpoint to the package, train nothing",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    folder = arguments.work / "reranker"
    folder.mkdir(exist_ok=True)
    pieces = json.loads((arguments.work / "pieces.json").read_text())
    embedding = load(TINY / "embedding")
    model = start_from(embedding, len(pieces))
    if arguments.export:
        model.load_state_dict(torch.load(folder / "checkpoint.pt")["model"])
        shutil.rmtree(TINY / "reranker", ignore_errors=True)
        export(model, pieces, TINY / "reranker")
        return

    tokenizer = Tokenizer(TINY / "embedding", model.config.vocab_size)
    separate_answers(model, tokenizer.token_id("yes"), tokenizer.token_id("no"))
    frames = Frames(tokenizer)
    pairs = list(read_jsonl(arguments.work / "pairs.jsonl"))
    chosen: list[int] = []
    for source, count in BLOCKS.items():
        chosen += [i for i, row in enumerate(pairs) if row["source"] == source][: count * BLOCK]
    pairs = [pairs[i] for i in chosen]
    teacher = torch.load(arguments.work / "teacher.pt")[:, chosen]
    if not (folder / "mined.pt").exists():
        found = mine(tokenizer, embedding, pairs, teacher)
        parts = [found.near, found.blocks, found.queries, found.documents]
        torch.save(parts, folder / "mined.pt")
        print("mined", flush=True)
    near, blocks, query_vectors, document_vectors = torch.load(folder / "mined.pt")
    mined = Mined(near=near, blocks=blocks, queries=query_vectors, documents=document_vectors)
    members = [
        torch.nonzero(blocks == number)[:, 0].tolist() for number in range(int(blocks.max()) + 1)
    ]
    queries = frames.queries([row["query"] for row in pairs])
    documents = frames.plain([row["document"][:1500] for row in pairs], 256)
    openings = [frames.opening(text) for text in (DEFAULT_INSTRUCTION, *OTHER_INSTRUCTIONS)]

    generator = np.random.default_rng(SEED)
    epochs = arguments.steps * QUERIES // len(pairs) + 1
    order = np.concatenate([generator.permutation(len(pairs)) for _ in range(epochs)]).tolist()
    opts = optimizers(model)
    opts[0].param_groups[0]["peak"] = 5e-4
    opts[1].param_groups[0]["peak"] = 2e-3
    # The last layer starts as arithmetic and is only to be refined.
    final = [p for name, p in model.layers[-1].named_parameters() if name.endswith("_proj.weight")]
    matrices = opts[1].param_groups[0]
    matrices["params"] = matrices["params"][: -len(final)]
    opts[1].add_param_group({"params": final, "lr": 5e-4, "peak": 5e-4})
    first = 0
    if arguments.resume:
        checkpoint = torch.load(folder / "checkpoint.pt")
        model.load_state_dict(checkpoint["model"])
        for optimizer, state in zip(opts, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = checkpoint["step"]
    started, seen, correct = time.monotonic(), 0, 0.0
    for step in range(first, arguments.steps):
        choose = random.Random(f"{SEED} {step}")
        late = step >= FIRST_ROUND
        end = arguments.steps if late else min(FIRST_ROUND, arguments.steps)
        done = step / end
        hard = 1 if done < 0.05 else 3 if done < 0.15 else 5
        cap = choose.choices(*zip(*DOCUMENT_TOKENS[late], strict=True))[0]
        other = choose.random() < OTHER_INSTRUCTION_SHARE
        opening = openings[choose.randrange(1, len(openings)) if other else 0]
        batch = order[step * QUERIES : (step + 1) * QUERIES]
        lists = torch.tensor([choose_list(mined, members, pair, hard, choose) for pair in batch])
        rows = [
            [token for token in documents[i][:cap] if choose.random() >= DROPPED_TOKENS[late]]
            for i in lists.flatten().tolist()
        ]
        owners = torch.arange(QUERIES).repeat_interleave(1 + NEGATIVES)
        with torch.autocast("cpu", torch.bfloat16):
            scores, asked, answered = score(
                model, frames, opening, [queries[i] for i in batch], rows, owners
            )
        scores = scores.float().view(QUERIES, -1)
        right, agree, each = losses(scores, teacher, lists, hard)
        wanted = targets(mined.queries[batch], 1.0), targets(mined.documents[lists.flatten()], -1.0)
        apart = sum(
            (1 - functional.cosine_similarity(got, want, dim=-1)).mean()
            for got, want in zip((asked, answered), wanted, strict=True)
        )
        held = 0.3 + 3 * (1 - done)
        (0.5 * right + 0.5 * agree + 0.5 * each + held * apart).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1.0, (step + 1) / 50, (end - step) / (0.6 * end))
        for optimizer in opts:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad()
        seen += sum(map(len, rows))
        correct += (scores.argmax(dim=1) == 0).float().mean().item() / 20
        if (step + 1) % 20 == 0:
            clock = time.monotonic() - started
            print(
                f"{step + 1} right {right:.3f} order {agree:.3f} each {each:.3f} apart {apart:.3f} "
                f"first {correct:.2f} {clock:.0f} s",
                flush=True,
            )
            correct = 0.0
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
