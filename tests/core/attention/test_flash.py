"""Flash kernels: which are tried, with which arguments, and that only a right one is chosen."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tests.support.gpu_stand_ins import kernel

from quernstone import attention
from quernstone.attention import HeadShape, ReplayBounds, choose_attention, flash
from quernstone.attention.flash import FlashKernel, first_right, probe, torch_flash
from quernstone.doctor.environment import describe_attention
from quernstone.types import EngineInfo

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
SHAPE = HeadShape(4, 2, 64)
HALF = torch.bfloat16


def ten(query, key, value, cu_q, cu_k, max_q, max_k, dropout, causal, debug):
    """torch's op of 2.11 and 2.13: ten positional arguments, five results."""
    assert (dropout, debug) == (0.0, False)
    out, lse = kernel(query, key, value, cu_q, cu_k, max_q, max_k, causal=causal)
    return out, lse.T, torch.empty(0), torch.empty(0), torch.empty(0)


def padded(*inputs):
    """As older ones: the log-sum-exp is padded, (sequences, heads, tokens)."""
    out, lse, *rest = ten(*inputs)
    return out, lse[None], *rest


# The operator of `fa3-fwd` 0.0.3, as its library defines it.
FA3 = torch.library.Library("fa3_fwd", "DEF")
FA3.define(
    "fwd(Tensor q,Tensor k,Tensor v,Tensor(k_new!)? k_new = None,Tensor(v_new!)? v_new = None,"
    "Tensor? q_v = None,Tensor(out!)? out = None,Tensor? cu_seqlens_q = None,"
    "Tensor? cu_seqlens_k = None,Tensor? cu_seqlens_k_new = None,Tensor? seqused_q = None,"
    "Tensor? seqused_k = None,int? max_seqlen_q = None,int? max_seqlen_k = None,"
    "Tensor? page_table = None,Tensor? kv_batch_idx = None,Tensor? leftpad_k = None,"
    "Tensor? rotary_cos = None,Tensor? rotary_sin = None,Tensor? seqlens_rotary = None,"
    "Tensor? q_descale = None,Tensor? k_descale = None,Tensor? v_descale = None,"
    "float? softmax_scale = None,bool is_causal = False,int window_size_left = -1,"
    "int window_size_right = -1,int attention_chunk = 0,float softcap = 0.0,"
    "bool is_rotary_interleaved = False,Tensor? scheduler_metadata = None,int num_splits = 0,"
    "bool? pack_gqa = None,int sm_margin = 0) -> (Tensor(out!), Tensor, Tensor, Tensor)"
)


def fa3_forward(q, k, v, *inputs):
    cu_q, cu_k, max_q, max_k = (inputs[place] for place in (4, 5, 9, 10))
    scale, causal, splits = (inputs[place] for place in (20, 21, 28))
    assert (scale, splits) == (q.shape[-1] ** -0.5, 1)
    out, lse = kernel(q, k, v, cu_q, cu_k, max_q, max_k, causal=causal)
    return out, lse.T.contiguous(), torch.empty(0), torch.empty(0)


FA3.impl("fwd", fa3_forward, "CPU")


@pytest.fixture
def device(monkeypatch):
    """A CPU in the place of a Hopper GPU, whose torch has an op that a test sets."""
    probe_of = flash.probe
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flash, "probe", lambda kernel, device, *rest: probe_of(kernel, CPU, *rest))

    def use(op):
        ops = SimpleNamespace() if op is None else SimpleNamespace(default=op)
        names = {} if op is None else {"_flash_attention_forward": ops}
        monkeypatch.setattr(flash, "torch", FakeTorch(SimpleNamespace(**names)))

    return use


class FakeTorch:
    """torch, with other ops."""

    def __init__(self, aten):
        self.ops = SimpleNamespace(aten=aten, fa3_fwd=torch.ops.fa3_fwd)

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.mark.parametrize("with_enable_gqa", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_torchs_op_is_chosen_whatever_its_wrapper_takes(
    monkeypatch, device, with_enable_gqa, dtype
):
    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        raise AssertionError

    def newer(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa=False):
        raise AssertionError

    wrapper = newer if with_enable_gqa else older
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", wrapper)
    device(ten)
    maker = choose_attention(CUDA, dtype, shape=SHAPE)
    assert (maker.name, maker.replay is None) == ("torch-flash", False)
    assert "flash-attn-3 is not installed (package `fa3-fwd`)" in maker.reason
    assert "torch-flash passed its probe; for small CUDA graphs triton " in maker.reason


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (None, "torch-flash cannot be used: AttributeError: "),
        (padded, "torch-flash failed its probe: its log-sum-exp has the shape (4, 1, 278)"),
        (lambda *inputs: ten(*inputs[:8], False, False), "torch-flash failed its probe: its resul"),
        (lambda *inputs, more: None, "torch-flash failed its probe: TypeError: "),
    ],
    ids=["missing", "padded", "not causal", "other arguments"],
)
def test_what_is_missing_or_wrong_is_not_chosen(device, op, reason):
    device(op)
    maker = choose_attention(CUDA, HALF, shape=SHAPE)
    assert (maker.name, maker.replay is None) == ("sdpa", True)
    assert reason in maker.reason
    info = EngineInfo(
        engine="torch",
        device="cuda",
        dtype="bfloat16",
        attention="sdpa",
        max_batch_tokens=1,
        attention_reason=maker.reason,
    )
    assert describe_attention(info) == f"sdpa ({maker.reason})"


def test_nothing_is_tried_where_no_kernel_can_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(attention, "first_right", lambda *inputs: pytest.fail("tried"))
    maker = choose_attention(CUDA, torch.float16)
    assert maker.name == "sdpa"
    assert "in float16 need compute capability 8.0, and this GPU has 7.5" in maker.reason


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("capability", [(9, 0), (7, 5)], ids=str)
def test_our_own_kernel_is_for_float32(monkeypatch, device, capability, is_right):
    device(lambda *inputs: pytest.fail("tried"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    own = FlashKernel("triton", "triton", lambda: kernel if is_right else from_the_start)
    monkeypatch.setattr(attention, "TRITON", own)
    maker = choose_attention(CUDA, torch.float32, shape=SHAPE)
    chosen = ("triton", False) if is_right else ("sdpa", True)
    assert (maker.name, maker.replay is None) == chosen
    assert maker.reason.startswith("flash kernels do not take float32; ")
    assert maker.reason.partition("; ")[2].startswith("triton passed" if is_right else "triton fai")


def test_our_own_kernel_is_the_last_of_those_for_half_precision(monkeypatch, device):
    device(None)
    monkeypatch.setattr(attention, "TRITON", FlashKernel("triton", "triton", lambda: kernel))
    maker = choose_attention(CUDA, HALF, shape=SHAPE)
    assert (maker.name, maker.replay is None) == ("triton", False)
    assert "torch-flash cannot be used: AttributeError: " in maker.reason


def from_the_start(q, k, v, cu_q, cu_k, max_q, max_k, *, causal):
    """Align a mask with the start of the keys, which differs only where they outnumber queries."""
    if causal and len(k) > len(q):
        starts = zip(cu_k[:-1], cu_q.diff(), strict=True)
        rows = torch.cat([torch.arange(start, start + count) for start, count in starts])
        return kernel(q, k[rows], v[rows], cu_q, cu_q, max_q, max_k, causal=True)
    return kernel(q, k, v, cu_q, cu_k, max_q, max_k, causal=causal)


def module(monkeypatch, name, **contents):
    made = ModuleType(name)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def install(monkeypatch, *packages):
    """Install packages of the signatures that their releases have."""

    def flash_2(q, k, v, cu_q, cu_k, max_q, max_k, *, causal, return_attn_probs):
        out, lse = kernel(q, k, v, cu_q, cu_k, max_q, max_k, causal=causal)
        return out, lse.T, None

    def flash_4(  # the fourth positional argument is another one
        q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None,
        max_seqlen_k=None, *, causal, return_lse,
    ):  # fmt: skip
        assert (qv, return_lse) == (None, True)
        out, lse = kernel(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=causal
        )
        return out, lse.T

    if "flash-attn" in packages:
        module(monkeypatch, "flash_attn", flash_attn_varlen_func=flash_2)
    if "fa3-fwd" in packages:
        module(monkeypatch, "fa3_fwd")
        module(monkeypatch, "fa3_fwd._C")
    if "flash-attn-4" in packages:
        if "flash-attn" not in packages:
            module(monkeypatch, "flash_attn")
        module(monkeypatch, "flash_attn.cute", flash_attn_varlen_func=flash_4)


@pytest.mark.parametrize(
    ("packages", "capability", "name"),
    [
        (["flash-attn"], (9, 0), "torch-flash"),
        (["fa3-fwd", "flash-attn-4"], (9, 0), "flash-attn-3"),
        (["fa3-fwd", "flash-attn-4"], (10, 0), "flash-attn-4"),
        (["flash-attn-4", "flash-attn"], (9, 0), "flash-attn-4"),
        (["fa3-fwd", "flash-attn-4"], (8, 9), "torch-flash"),
        (["fa3-fwd", "flash-attn-4"], (12, 0), "torch-flash"),
    ],
    ids=str,
)
def test_faster_kernels_come_first(monkeypatch, device, packages, capability, name):
    install(monkeypatch, *packages)
    device(ten)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_attention(CUDA, HALF, shape=SHAPE).name == name


def test_small_graphs_use_our_own_kernel_where_it_is_right(monkeypatch, device):
    """Graphs, since only their number of tokens is known before a batch comes."""
    calls = []

    def own(*inputs, causal):
        calls.append("own")
        return kernel(*inputs, causal=causal)

    def flash_2(*inputs):
        calls.append("flash")
        return ten(*inputs)

    device(flash_2)
    for is_right, expected in ((True, ["own", "flash"]), (False, ["flash", "flash"])):
        chosen = FlashKernel("triton", "triton", lambda right=is_right: own if right else ten)
        monkeypatch.setattr(attention, "TRITON", chosen)
        maker = choose_attention(CUDA, HALF, shape=SHAPE)
        assert maker.name == "torch-flash"
        calls.clear()
        for tokens in (320, 321):
            bounds = torch.tensor([0, 5], dtype=torch.int32)
            layout = [bounds, torch.tensor([0, 1]), bounds, torch.arange(5)]
            replayed = maker.replay(ReplayBounds(tokens, tokens), layout)
            q, k, v = (torch.randn(5, heads, 64, dtype=HALF) for heads in (4, 2, 2))
            replayed.all_tokens(q, k, v, None)
        assert calls == expected


def test_flash_attn_is_taken_where_torchs_op_is_missing(monkeypatch, device):
    install(monkeypatch, "flash-attn")
    device(None)
    assert choose_attention(CUDA, HALF, shape=SHAPE).name == "flash-attn"


def test_a_wrong_kernel_gives_way_to_the_next():
    def wrong(*inputs, causal):
        out, lse = kernel(*inputs, causal=causal)
        return out, lse + 0.5

    kernels = [
        FlashKernel("wrong", "one", lambda: wrong),
        FlashKernel("right", "two", lambda: kernel),
    ]
    name, chosen, reason = first_right(kernels, CPU, HALF, SHAPE, 9)
    assert (name, chosen) == ("right", kernel)
    assert reason.startswith("wrong failed its probe: its log-sum-exp are off by 0.1")


def test_the_probe_sees_a_mask_that_is_aligned_with_the_start():
    """As of FlashAttention before 2.1."""
    assert probe(kernel, CPU, HALF, SHAPE) is None
    assert "results are off" in probe(from_the_start, CPU, HALF, SHAPE)


def test_the_probe_sees_numbers_that_are_not_finite():
    def broken(*inputs, causal):
        out, lse = kernel(*inputs, causal=causal)
        return out * torch.nan, lse

    assert "off by nan" in probe(broken, CPU, HALF, SHAPE)


@pytest.mark.parametrize("causal", [True, False])
def test_torch_takes_what_its_kernel_is_given(causal):
    """torch's own checks and shapes, on tensors without numbers; views of one product."""
    qkv = torch.empty(9, 16 + 2 * 8, 128, dtype=torch.bfloat16, device="meta")
    query, key, value = qkv.split([16, 8, 8], 1)
    bounds = torch.empty(3, dtype=torch.int32, device="meta")
    out, lse = torch_flash()(query, key, value, bounds, bounds, 5, 5, causal=causal)
    assert out.shape == query.shape
    assert (lse.shape, lse.dtype) == ((9, 16), torch.float32)
