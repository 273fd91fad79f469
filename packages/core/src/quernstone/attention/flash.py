"""Varlen kernels of torch, other packages and our own, and the choice of one that is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quernstone.attention.base import HeadShape

VarlenKernel = Callable[..., tuple[Tensor, Tensor]]
"""(q, k, v, cu_q, cu_k, max_q, max_k, causal) -> result and log-sum-exp (tokens, heads).

Tokens and heads of q, k and v may have any strides, so views of a merged projection work; each head
is contiguous. `cu_q` and `cu_k` are int32. `max_q` and `max_k` may exceed the longest sequence. A
causal mask is aligned with the end of a sequence: its last query attends to its last key."""

# A kernel in half precision is off by 0.002, one in float32 by 1e-6, or by 0.001 if it rounds to
# TF32; one that masks, groups or aligns wrongly, by 0.1.
_TOLERANCE, _FLOAT32_TOLERANCE = 0.01, 1e-4
# Query tokens and further keys before them of each sequence of the probe, over a block of a kernel
_PROBE_TOKENS = (70, 1, 200, 5)
_PROBE_KEYS_BEFORE = (3, 150, 0, 20)
# Empty sequences after them, and tokens of no sequence: CUDA graphs pad batches so.
_PROBE_EMPTY = 2


@dataclass(frozen=True, slots=True)
class FlashKernel:
    """A kernel that may be installed."""

    name: str
    package: str
    """Name of its distribution, for messages."""
    load: Callable[[], VarlenKernel]
    """Raises an ImportError or AttributeError if it is not installed."""
    capabilities: tuple[int, ...] = ()
    """Major compute capabilities of the GPUs it is written for; any from 8 on if empty."""


def torch_flash() -> VarlenKernel:
    """Return torch's own kernel, FlashAttention 2.

    It is called below `torch.nn.attention.varlen.varlen_attn`, which takes grouped heads only from
    torch 2.13 on. The ten positional arguments are the same from torch 2.8 to 2.13.
    """
    forward = torch.ops.aten._flash_attention_forward.default

    def kernel(*inputs: Any, causal: bool) -> tuple[Tensor, Tensor]:
        out, lse, *_ = forward(*inputs, 0.0, causal, False)
        return out, lse.transpose(0, 1)

    return kernel


def flash_attn_2() -> VarlenKernel:
    """Return the kernel of the package `flash-attn`."""
    from flash_attn import flash_attn_varlen_func  # noqa: PLC0415

    def kernel(*inputs: Any, causal: bool) -> tuple[Tensor, Tensor]:
        out, lse, _ = flash_attn_varlen_func(*inputs, causal=causal, return_attn_probs=True)
        return out, lse.transpose(0, 1)

    return kernel


def flash_attn_3() -> VarlenKernel:
    """Return the kernel of the package `fa3-fwd`, FlashAttention 3 for Hopper.

    Its operator is called below `flash_attn_varlen_func`, which takes 150 us of the host for each
    call, with a function of autograd, an operator in Python and two empty tensors.
    """
    import fa3_fwd._C  # noqa: F401, PLC0415 - defines the operator

    forward = torch.ops.fa3_fwd.fwd.default
    names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")

    def kernel(q: Tensor, k: Tensor, v: Tensor, *layout: Any, causal: bool) -> Any:
        named = dict(zip(names, layout, strict=True))
        scale = q.shape[-1] ** -0.5
        # By default a batch decides into how many parts keys are split, which changes last bits.
        out, lse, *_ = forward(
            q, k, v, **named, softmax_scale=scale, is_causal=causal, num_splits=1
        )
        return out, lse.transpose(0, 1)

    return kernel


def flash_attn_4() -> VarlenKernel:
    """Return the kernel of the package `flash-attn-4`, for Hopper and Blackwell."""
    from flash_attn.cute import flash_attn_varlen_func  # noqa: PLC0415

    names = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")

    def kernel(*inputs: Any, causal: bool) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, inputs, strict=True))
        out, lse, *_ = flash_attn_varlen_func(**named, causal=causal, return_lse=True)
        return out, lse.transpose(0, 1)

    return kernel


def triton() -> VarlenKernel:
    """Return our own kernel, which also takes float32."""
    from quernstone.kernels.launch import varlen_attention  # noqa: PLC0415 - imports Triton

    return varlen_attention


class _LayoutError(Exception):
    """Results have a wrong shape or layout."""


KERNELS = (
    FlashKernel("flash-attn-3", "fa3-fwd", flash_attn_3, (9,)),
    FlashKernel("flash-attn-4", "flash-attn-4", flash_attn_4, (9, 10, 11)),
    FlashKernel("torch-flash", "torch", torch_flash),
    FlashKernel("flash-attn", "flash-attn", flash_attn_2),
)
"""Flash kernels for half precision, fastest first."""
TRITON = FlashKernel("triton", "triton", triton)
"""For float32, and where none of the others is right."""


def first_right(
    kernels: Sequence[FlashKernel],
    device: torch.device,
    dtype: torch.dtype,
    shape: HeadShape,
    capability: int,
) -> tuple[str, VarlenKernel | None, str]:
    """Return the name of the first kernel that is installed and computes right, and itself.

    Also return the reason for people to read: why faster ones were not chosen, or none was.
    """
    reasons = []
    for each in kernels:
        if each.capabilities and capability not in each.capabilities:
            reasons.append(f"{each.name} is not for compute capability {capability}.x")
            continue
        try:
            kernel = each.load()
        except ModuleNotFoundError:
            reasons.append(f"{each.name} is not installed (package `{each.package}`)")
            continue
        except (ImportError, AttributeError, OSError) as error:
            reasons.append(f"{each.name} cannot be used: {type(error).__name__}: {error}")
            continue
        wrong = probe(kernel, device, dtype, shape)
        if wrong is None:
            return each.name, kernel, "; ".join([*reasons, f"{each.name} passed its probe"])
        reasons.append(f"{each.name} failed its probe: {wrong}")
    return "", None, "; ".join(reasons)


def probe(
    kernel: VarlenKernel, device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> str | None:
    """Call a kernel as the model does, and return what is wrong with the result, if anything."""
    tolerance = _FLOAT32_TOLERANCE if dtype == torch.float32 else _TOLERANCE
    try:
        for name, error in _errors(kernel, device, dtype, shape):
            if not error < tolerance:  # also if it is not a number
                return f"its {name} are off by {error:.2g} (at most {tolerance})"
    except _LayoutError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - kernels of other packages raise anything
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return None


def largest_error(
    kernel: VarlenKernel, device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> float:
    """Return the largest error of a kernel, relative to the norm, in calls as the model's."""
    return max(error for _, error in _errors(kernel, device, dtype, shape))


def _errors(
    kernel: VarlenKernel, device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> Iterator[tuple[str, float]]:
    """Call a kernel as the model does, and yield what it returns and its error.

    Raises a `_LayoutError` if results have a wrong shape or layout.
    """
    heads, kv_heads, dim = shape
    tokens = sum(_PROBE_TOKENS)
    both = [q + k for q, k in zip(_PROBE_TOKENS, _PROBE_KEYS_BEFORE, strict=True)]
    random = torch.Generator().manual_seed(0)
    padded = tokens + _PROBE_EMPTY
    qkv = torch.randn(padded, heads + 2 * kv_heads, dim, generator=random).to(device, dtype)
    query, key, value = qkv.split([heads, kv_heads, kv_heads], 1)  # views, as in a layer
    longer = torch.randn(2, sum(both) + _PROBE_EMPTY, kv_heads, dim, generator=random).to(
        device, dtype
    )
    ones = [1] * len(_PROBE_TOKENS)
    for q, k, v, query_lengths, key_lengths, causal in (
        (query, key, value, _PROBE_TOKENS, _PROBE_TOKENS, True),
        (query, *longer, _PROBE_TOKENS, both, True),  # after a prefix
        (query, *longer, _PROBE_TOKENS, both, False),  # over a prefix
        (query[: len(ones) + _PROBE_EMPTY], key, value, ones, _PROBE_TOKENS, False),  # last tokens
    ):
        of_empty = 1 if query_lengths is ones else 0
        cu_q = _bounds([*query_lengths, *[of_empty] * _PROBE_EMPTY], device)
        cu_k = _bounds([*key_lengths, *[0] * _PROBE_EMPTY], device)
        longest = (max(query_lengths) + 9, max(key_lengths) + 9)
        out, lse = kernel(q, k, v, cu_q, cu_k, *longest, causal=causal)
        if not out.is_contiguous():
            raise _LayoutError("its results are not contiguous, as merging prefixes needs")
        if lse.shape != q.shape[:2]:
            shapes = tuple(lse.shape), tuple(q.shape[:2])
            msg = "its log-sum-exp has the shape {} instead of {}".format(*shapes)
            raise _LayoutError(msg)
        q, k, v = (x[: sum(n)] for x, n in ((q, query_lengths), (k, key_lengths), (v, key_lengths)))
        expected = _exact(q, k, v, query_lengths, key_lengths, causal=causal)
        for name, found, right in zip(
            ("results", "log-sum-exp"), (out, lse), expected, strict=True
        ):
            yield name, float((found[: len(q)].double().cpu() - right).norm() / right.norm())


def depends_on_batch(
    kernel: VarlenKernel, device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> bool:
    """Return True if the results of a sequence are other bits when it is computed alone."""
    heads, kv_heads, dim = shape
    random = torch.Generator().manual_seed(0)
    tokens = sum(_PROBE_TOKENS)
    qkv = torch.randn(tokens, heads + 2 * kv_heads, dim, generator=random).to(device, dtype)
    query, key, value = qkv.split([heads, kv_heads, kv_heads], 1)
    together = _bounds(_PROBE_TOKENS, device)
    for causal in (True, False):
        longest = max(_PROBE_TOKENS)
        of_all = kernel(query, key, value, together, together, longest, longest, causal=causal)
        end = 0
        for length in _PROBE_TOKENS:
            part, end = slice(end, end + length), end + length
            inputs = (query[part], key[part], value[part])
            bounds = _bounds([length], device)
            alone = kernel(*inputs, bounds, bounds, length, length, causal=causal)
            if not all(torch.equal(x[part], y) for x, y in zip(of_all, alone, strict=True)):
                return True
    return False


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(device, torch.int32)


def _exact(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Compute attention and log-sum-exp in float64 on the host, sequence by sequence."""
    repeat = query.shape[1] // key.shape[1]
    q, k, v = (x.double().cpu() for x in (query, key, value))
    outs, sums = [], []
    for q_part, k_part, v_part in zip(
        q.split(list(query_lengths)),
        k.repeat_interleave(repeat, 1).split(list(key_lengths)),
        v.repeat_interleave(repeat, 1).split(list(key_lengths)),
        strict=True,
    ):
        scores = torch.einsum("qhd,khd->hqk", q_part, k_part) * query.shape[2] ** -0.5
        if causal:
            rows, columns = scores.shape[1:]
            hidden = torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)
            scores.masked_fill_(hidden, -torch.inf)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v_part))
        sums.append(scores.logsumexp(-1).T)
    return torch.cat(outs), torch.cat(sums)
