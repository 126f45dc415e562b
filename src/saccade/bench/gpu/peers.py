"""Who takes part on a GPU, in which form, and why who stays away.

Owns the choice of peers. SDPA takes part by its own flags with each of torch's fused kernels where those say
it all, packed sequences by torch's variable-length attention, and a dense mask where nothing else is exact;
torch's flex_attention compiled for the case's own sizes, with its FLASH kernels where they are installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention
from torch.nn.functional import scaled_dot_product_attention

from saccade.attention import explain, flex_attention
from saccade.bench.contenders import Contender, Workload, dense_sdpa, engine
from saccade.bench.gpu.cases import GpuCase
from saccade.bench.sizes import free_bytes
from saccade.ir.structure import ModKind
from saccade.signatures import ScoreMod
from saccade.tracing import trace

__all__ = [
    "AUTO",
    "CUDNN",
    "DENSE",
    "FLASH",
    "FLEX",
    "FLEX_FLASH",
    "OURS",
    "PEERS",
    "VARLEN",
    "participants",
    "picked",
]

OURS = "saccade"
AUTO = "auto"
FLASH = "SDPA flash"
CUDNN = "SDPA cuDNN"
DENSE = "SDPA + mask"
VARLEN = "varlen"
FLEX = "flex"
FLEX_FLASH = "flex FLASH"
PEERS = (FLASH, CUDNN, DENSE, VARLEN, FLEX, FLEX_FLASH)
"""Everyone but this library, in the order of the tables."""

# Whether SDPA's own flag says all about a pattern of as many queries as keys, and its value.
_FLAGS: Mapping[str, bool] = {"noop": False, "causal": True, "causal_score": True}
# The last row of these sees every key.
_WHOLE_ROWS = frozenset({"noop", "causal"})
_PACKED = frozenset({"document", "jagged"})  # causal sequences side by side

_FLASH_MODULES = ("flash_attn", "flash_attn.cute")
# Index arithmetic on all pairs and the mask itself; with a score, its table and what that is made of.
_MASK_BYTES, _SCORE_BYTES = 32, 20
_SHARE = 0.7  # of the free memory


def participants(case: GpuCase, work: Workload, *, backend: str, compiled: bool) -> list[Contender]:
    """Return who takes part in a case, ours first, then what `auto` picks.

    Args:
        case: What is measured.
        work: Its mods, mask and inputs.
        backend: The backend of ours.
        compiled: Whether torch's compiled `flex_attention` takes part.

    Example:
        >>> from saccade.bench.gpu.workloads import make_workload
        >>> case = GpuCase("natten", 64, 16, 1, 2, 2)
        >>> work = make_workload(case, torch.device("cpu"), torch.float32)
        >>> [one.name for one in participants(case, work, backend="eager", compiled=False)]
        ['saccade', 'auto', 'SDPA + mask']
    """
    found = [replace(engine(work, backend), name=OURS), _automatic(work)]
    is_causal = _flag(case)
    if is_causal is None:
        found.append(_dense(work))
    else:
        found += [_by_flags(work, name, kernel, is_causal) for name, kernel in _KERNELS.items()]
    if case.pattern in _PACKED and not case.is_decode:
        found.append(_varlen(work))
    if compiled:
        found += [_flex(work, FLEX, None), _flex_flash(work)]
    return found


def _flag(case: GpuCase) -> bool | None:
    """The value of SDPA's `is_causal` that computes the case; None where neither does."""
    if case.is_decode:
        return False if case.pattern in _WHOLE_ROWS else None
    return _FLAGS.get(case.pattern)


def _automatic(work: Workload) -> Contender:
    """What a user gets who names no backend."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flex_attention(
            query,
            key,
            value,
            score_mod=work.score_mod,
            block_mask=work.block_mask,
            enable_gqa=work.is_grouped,
        )

    return Contender(AUTO, work.density, attend)


def picked(work: Workload, *, gradients: bool) -> str | None:
    """Return the backend that `auto` picks; None where every one refuses.

    Args:
        work: What is computed.
        gradients: Whether its inputs want them.
    """
    return explain(
        *(work.inputs_with_gradients() if gradients else work.inputs),
        score_mod=work.score_mod,
        block_mask=work.block_mask,
        enable_gqa=work.is_grouped,
    ).backend


_KERNELS: Mapping[str, SDPBackend] = {
    FLASH: SDPBackend.FLASH_ATTENTION,
    CUDNN: SDPBackend.CUDNN_ATTENTION,
}


def _by_flags(work: Workload, name: str, kernel: SDPBackend, is_causal: bool) -> Contender:
    """SDPA without a tensor for the mask, on one of torch's kernels."""
    device = work.inputs[0].device
    if kernel is SDPBackend.CUDNN_ATTENTION and device.type != "cuda":
        return Contender(name, work.density, refusal=f"cuDNN runs on CUDA devices, not on {device.type}")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return scaled_dot_product_attention(
                query, key, value, is_causal=is_causal, enable_gqa=work.is_grouped
            )

    return Contender(name, work.density, attend)


def _dense(work: Workload) -> Contender:
    """SDPA with a dense mask, where the memory holds it."""
    size = work.size
    needed = _MASK_BYTES * size.q_len * size.kv_len
    if work.score_mod is not None:
        reads = trace(work.score_mod, ModKind.SCORE).reads
        tables = (size.batch if reads("b") else 1) * (size.heads if reads("h") else 1)
        needed += _SCORE_BYTES * tables * size.q_len * size.kv_len
    free = free_bytes(work.inputs[0].device)
    if free is not None and needed > _SHARE * free:
        reason = f"its mask takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        return Contender(DENSE, work.density, refusal=reason)
    return replace(dense_sdpa(work), name=DENSE)


def _varlen(work: Workload) -> Contender:
    """Torch's attention over packed sequences: one row of tokens, and where each sequence starts."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        reason = f"torch {torch.__version__} has no torch.nn.attention.varlen"
        return Contender(VARLEN, work.density, refusal=reason)
    if work.size.batch > 1:
        return Contender(VARLEN, work.density, refusal="it takes one batch entry without a copy")
    from torch.nn.attention import varlen  # deferred: older torch has none

    # As a name of any type: its arguments are not those of every release.
    varlen_attn: Callable[..., Tensor] = getattr(varlen, "varlen_attn")  # noqa: B009
    starts = _starts(work)
    longest = int(starts.diff().max())
    # Older releases name causality; later ones give the keys before and after a query, -1 for all.
    is_older = "is_causal" in signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if is_older else {"window_size": (-1, 0)}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        packed = (one[0].transpose(0, 1) for one in (query, key, value))
        out = varlen_attn(*packed, starts, starts, longest, longest, **options)
        return out.transpose(0, 1)[None]

    return Contender(VARLEN, work.density, attend)


def _starts(work: Workload) -> Tensor:
    """int32 `[sequences + 1]`: where each starts, at a token that does not see its neighbour, and the end."""
    mask_mod, length = work.mask_mod, work.size.q_len
    assert mask_mod is not None, "asked of packed sequences"
    with work.inputs[0].device:
        zero, token = torch.tensor(0), torch.arange(1, length)
        starts = token[~mask_mod(zero, zero, token, token - 1)]
        ends = torch.tensor([0]), torch.tensor([length])
        return torch.cat([ends[0], starts, ends[1]]).to(torch.int32)


def _flex(work: Workload, name: str, kernel_options: dict[str, object] | None) -> Contender:
    """Torch's `flex_attention`, compiled for these very sizes, on our blocks in its form."""
    device = work.inputs[0].device
    mask = None if work.block_mask is None else work.block_mask.to_torch(device)
    score_mod = None if work.score_mod is None else _function(work.score_mod)
    compiled: Callable[..., Tensor] = torch.compile(torch_flex_attention, fullgraph=True, dynamic=False)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return compiled(
            query,
            key,
            value,
            score_mod=score_mod,
            block_mask=mask,
            enable_gqa=work.is_grouped,
            kernel_options=kernel_options,
        )

    backward = "torch gives it no gradient on a CPU" if device.type == "cpu" else ""
    return Contender(name, work.density, attend, backward_refusal=backward)


def _flex_flash(work: Workload) -> Contender:
    """The same on the FLASH kernels, which a package of their own brings."""
    for module in _FLASH_MODULES:
        if importlib.util.find_spec(module) is None:
            return Contender(FLEX_FLASH, work.density, refusal=f"{module} is not installed")
    return _flex(work, FLEX_FLASH, {"BACKEND": "FLASH"})


def _function(mod: ScoreMod) -> ScoreMod:
    """A score_mod as a plain function, the one kind of callable that every torch's compiler takes."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(score, b, h, q_idx, kv_idx)

    return score_mod
