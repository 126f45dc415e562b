"""Who takes part in a case, in which form, and why who stays away.

Owns the choice of peers; how each is called is `bench.contenders`', `onnx_runtime`'s and, for the three forms
of torch's SDPA that share kv heads, this file's. A peer appears only where it computes the case exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender, Workload, dense_sdpa, engine, torch_flex
from saccade.bench.cpu.cases import Case, Phase
from saccade.bench.cpu.onnx_runtime import ONNX_RUNTIME, onnx_runtime
from saccade.bench.sizes import free_bytes

__all__ = [
    "DENSE",
    "FLEX",
    "FOLDED",
    "ONNX_RUNTIME",
    "OURS",
    "REPEATED",
    "SDPA",
    "dense",
    "participants",
    "too_large",
]

OURS = "saccade"
SDPA = "SDPA"
DENSE = "SDPA + mask"
REPEATED = "SDPA, heads repeated"
FOLDED = "SDPA, heads folded"
FLEX = "flex_attention"

# A dense mask as bools, as SDPA's floats and as what it makes of them.
_BYTES_A_PAIR = 12
_SHARE = 0.7  # of the free memory


def participants(case: Case, work: Workload, *, backend: str, compiled: bool) -> list[Contender]:
    """Return who takes part in a case, ours first.

    Args:
        case: What is measured.
        work: Its mods, mask and inputs.
        backend: The backend of ours.
        compiled: Whether torch's compiled `flex_attention` takes part.
    """
    found = [replace(engine(work, backend), name=OURS)]
    found += _forward_sdpa(case, work) if case.phase is Phase.FORWARD else _decode_sdpa(case, work)
    if compiled:
        found.append(replace(torch_flex(work), name=FLEX))
    if case.phase is Phase.FORWARD and case.pattern == "full" and not case.after_matmul:
        found.append(onnx_runtime(work.inputs))
    return found


def _forward_sdpa(case: Case, work: Workload) -> list[Contender]:
    """SDPA by its own flags where those say it all, and with a dense mask where there is one."""
    found = []
    if case.pattern in ("full", "causal"):
        is_causal = case.pattern == "causal"

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return scaled_dot_product_attention(query, key, value, is_causal=is_causal)

        found.append(Contender(SDPA, work.density, attend))
    if case.pattern != "full":
        found.append(dense(work))
    return found


def _decode_sdpa(case: Case, work: Workload) -> list[Contender]:
    """Three ways to share kv heads where the last row sees every key; elsewhere SDPA with a dense mask."""
    if case.pattern not in ("full", "causal"):
        return [dense(work)]
    forms: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        SDPA: _grouped,
        REPEATED: _repeated,
        FOLDED: _folded,
    }
    return [Contender(name, work.density, attend) for name, attend in forms.items()]


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Torch's own sharing of kv heads."""
    return scaled_dot_product_attention(query, key, value, enable_gqa=True)


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Keys and values copied for every query head, as most models do."""
    group = query.shape[1] // key.shape[1]
    return scaled_dot_product_attention(
        query, key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    )


def _folded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The query heads of a group as rows of one head: without a mask they are the same to SDPA."""
    batch, _, _, head_dim = query.shape
    rows = query.reshape(batch, key.shape[1], -1, head_dim)
    return scaled_dot_product_attention(rows, key, value).reshape(query.shape)


def dense(work: Workload) -> Contender:
    """Return SDPA with a dense mask, where the memory holds it."""
    heads = work.size.heads if work.score_mod is not None else 1
    refusal = too_large("its mask takes", _BYTES_A_PAIR * heads * work.size.q_len * work.size.kv_len)
    return Contender(DENSE, work.density, refusal=refusal) if refusal else dense_sdpa(work)


def too_large(what: str, needed: int) -> str:
    """Say why so many bytes are not there, as in "its mask takes about 9.7 GB, and ..."; "" where they are.

    Args:
        what: Subject and verb of the reason.
        needed: Bytes.
    """
    free = free_bytes(torch.device("cpu"))
    if free is None or needed <= _SHARE * free:
        return ""
    return f"{what} about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
