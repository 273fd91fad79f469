"""Stand-ins on a CPU for what only a CUDA device can do; everything around them is real."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.varlen import varlen_maker
from quernstone.engines.torch import engine, grid
from quernstone.engines.torch.transfer import PinnedTransfer
from quernstone.qwen3.elementwise import Elementwise


def kernel(q, k, v, cu_q, cu_k, max_q, max_k, *, causal):
    """Varlen attention, which like the real one reads no number on the host."""

    def owners(bounds, count):
        return torch.bucketize(torch.arange(count), bounds[1:], right=True)

    def from_the_end(bounds, owner):
        return bounds[1:].index_select(0, owner.clamp(max=len(bounds) - 2)) - torch.arange(
            len(owner)
        )

    owner_q, owner_k = owners(cu_q, len(q)), owners(cu_k, len(k))
    v = v.masked_fill((owner_k == len(cu_k) - 1)[:, None, None], 0)  # not of a sequence
    visible = owner_q[:, None] == owner_k
    if causal:
        visible &= from_the_end(cu_q, owner_q)[:, None] <= from_the_end(cu_k, owner_k)
    repeat = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeat, 1).float() for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), k) / q.shape[2] ** 0.5
    scores = scores.masked_fill(~visible, -torch.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    out = out.masked_fill((owner_q == len(cu_q) - 1)[:, None, None], torch.nan)  # never written
    return out.to(q.dtype).contiguous(), scores.logsumexp(-1).T


_LIBRARY = torch.library.Library("stand_ins", "DEF")
_LIBRARY.define(
    "flash(Tensor q, Tensor k, Tensor v, Tensor cu_q, Tensor cu_k, SymInt max_q, SymInt max_k, "
    "bool causal) -> (Tensor, Tensor)"
)
_LIBRARY.impl("flash", lambda *inputs: kernel(*inputs[:-1], causal=inputs[-1]), "CPU")


def one_operator(*inputs, causal):
    """Call `kernel` as one operator, like those of torch."""
    return torch.ops.stand_ins.flash.default(*inputs, causal)


class HostTransfer(PinnedTransfer):
    """Copies at once, from memory that is not pinned."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.waits = 0

    def _pinned(self, like):
        return torch.empty_like(like)

    def _record(self):
        return self

    def synchronize(self):
        self.waits += 1


class HostReads(TorchDispatchMode):
    """Fails where a graph could not be recorded: numbers read on the host, or sent from it."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert not name.startswith(self.forbidden), f"{name} while a graph is recorded"
        return func(*args, **kwargs or {})


class Recorder:
    """Runs a function again instead of its kernels. Counts what was recorded and replayed."""

    def __init__(self, size=1 << 20):
        self.recorded = self.replays = 0
        self.size = size

    def __call__(self, compute):
        with HostReads():
            compute()
        self.recorded += 1

        def replay():
            self.replays += 1
            compute()

        return replay, self.size


def use(monkeypatch, *, record=None, memory=80 << 30, graph_tokens=256, fixed=None):
    """Have `TorchEngine` take the way of CUDA, in any dtype; `fixed` is that of `deterministic`.

    Graphs are recorded for up to `graph_tokens`: the stand-in for attention compares all tokens.
    """
    transfers = []
    monkeypatch.setattr(grid, "MOST_TOKENS", graph_tokens)
    monkeypatch.setattr(engine, "total_bytes", lambda device: memory)

    def transfer(device):
        transfers.append(HostTransfer())
        return transfers[-1]

    monkeypatch.setattr(engine, "choose_transfer", transfer)
    monkeypatch.setattr(
        engine,
        "choose_elementwise",
        lambda config, device, dtype, rounding: Elementwise(
            config.rms_norm_eps, fp8=rounding == "fp8"
        ),
    )
    # the second is for float32 beside another dtype, as on CUDA
    makers = iter([varlen_maker("stand-in", one_operator), sdpa_maker(torch.device("cpu"))] * 100)
    monkeypatch.setattr(
        engine, "choose_attention", lambda device, dtype, causal, shape: next(makers)
    )
    monkeypatch.setattr(engine, "choose_recorder", lambda device: record)
    monkeypatch.setattr(engine, "choose_fixed", lambda *inputs, rounding: fixed)
    return transfers
