"""Who takes part in a comparison of attention, and who must stay away from what, and why.

Two forms of torch's `scaled_dot_product_attention`, every engine of this library on the device, and torch's
`flex_attention` on the same blocks. Owns how each is called; checking and timing happen elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.analysis.runs import BlockKind
from saccade.attention import flex_attention
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Kernel
from saccade.backends.registry import candidates, load
from saccade.bench.sizes import AttentionSize
from saccade.block_mask import BlockMask, create_block_mask, create_mask
from saccade.errors import CheckError
from saccade.ir.expr import Expr
from saccade.ir.ops import Op
from saccade.ir.structure import ModKind
from saccade.planner import reasons_against
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

__all__ = [
    "Contender",
    "Inputs",
    "Learned",
    "Workload",
    "contenders",
    "dense_sdpa",
    "drawn_seed",
    "engine",
    "is_additive",
    "make_block_mask",
    "mask_axes",
    "torch_flex",
    "tried",
]

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor]

_CAUSAL_DENSITY = 0.5  # of plain causal attention, whatever the pattern beside it
_PEERS = frozenset({"sdpa", "flex_attention"})  # backends that only call torch


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """Numbers that training changes, and the score that reads them.

    Attributes:
        numbers: A leaf that requires a gradient.
        score_of: From such numbers, of any floating dtype, to the score_mod.
    """

    numbers: Tensor
    score_of: Callable[[Tensor], ScoreMod]


@final
@dataclass(frozen=True, eq=False)
class Workload:
    """What every contender computes.

    Attributes:
        score_mod: The change of the scores, or None.
        mask_mod: The mask, or None.
        block_mask: The mask's blocks, or None.
        size: Sizes of the call.
        inputs: Query `[B, Hq, Q, D]`, key and value `[B, Hkv, K, D]`, without gradients.
        learned: What the score_mod reads and training changes, or None.
        dropout_p: The probability of dropping a weight.
    """

    score_mod: ScoreMod | None
    mask_mod: MaskMod | None
    block_mask: BlockMask | None
    size: AttentionSize
    inputs: Inputs
    learned: Learned | None = None
    dropout_p: float = 0.0

    @property
    def density(self) -> float:
        """The part of the blocks that is not empty, in [0, 1]; 1 without a mask.

        On whole blocks that is 1 − sparsity / 100. Where lengths cut blocks, sparsity counts them in full
        against the true number of pairs, and could not be taken for a share.
        """
        if self.block_mask is None:
            return 1.0
        kinds = self.block_mask.runs.counts()
        return 1.0 - kinds[BlockKind.EMPTY] / sum(kinds.values())

    @property
    def visible_pairs(self) -> int:
        """The pairs that every contender must compute, over all batches and query heads."""
        mask = self.block_mask
        if mask is None:
            return self.size.scores
        return mask.visible_pairs() * self.size.batch * self.size.heads // (mask.batch * mask.heads)

    @property
    def is_grouped(self) -> bool:
        """Whether several query heads read one kv head."""
        return self.inputs[0].shape[1] != self.inputs[1].shape[1]

    def with_learned(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Everything that has a gradient: the inputs given, and what is learned beside them."""
        return inputs if self.learned is None else (*inputs, self.learned.numbers)

    def inputs_with_gradients(self) -> Inputs:
        """The inputs as leaves that require gradients."""
        query, key, value = (tensor.detach().requires_grad_() for tensor in self.inputs)
        return query, key, value


@final
@dataclass(frozen=True, eq=False)
class Contender:
    """One row of a comparison.

    Attributes:
        name: What the table calls it.
        density: The part of all pairs whose products are counted as its work.
        attend: From query, key and value to the output; None where it cannot run.
        refusal: Why it cannot run at all; empty where it can.
        backward_refusal: Why it has no gradients; empty where it has.
        is_same: Whether it computes the workload's own pattern, so that its results can be checked.
    """

    name: str
    density: float
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    refusal: str = ""
    backward_refusal: str = ""
    is_same: bool = True


def contenders(work: Workload, *, compiled: bool = True) -> list[Contender]:
    """Return who takes part, peers first.

    Args:
        work: What is compared.
        compiled: Whether torch's `flex_attention` takes part, which torch compiles for each pattern.
    """
    device = work.inputs[0].device.type
    found = [_causal_flash(), dense_sdpa(work)]
    found += [engine(work, name) for name in candidates(device) if name not in _PEERS]
    if compiled:
        found.append(torch_flex(work))
    return found


def is_additive(root: Expr) -> bool:
    """Whether a score program only adds what does not depend on the score, or hides the pair with −inf.

    Then, and only then, its value at a score of 0 says all about it.

    Example:
        >>> from saccade.scores import alibi, softcap
        >>> is_additive(trace(alibi(n_heads=4)).root), is_additive(trace(softcap(2.0)).root)
        (True, False)
    """
    if root.op is Op.VAR:
        return root.depends_on("score")
    if root.op is Op.CONST:
        return bool(root.attr == -math.inf)
    if root.op is Op.ADD:
        first, second = root.args
        if first.depends_on("score"):
            return is_additive(first) and not second.depends_on("score")
        return is_additive(second)
    if root.op is Op.SUB:
        return is_additive(root.args[0]) and not root.args[1].depends_on("score")
    if root.op is Op.WHERE:
        condition, first, second = root.args
        return not condition.depends_on("score") and is_additive(first) and is_additive(second)
    return False


def mask_axes(mod: MaskMod, size: AttentionSize) -> tuple[int | None, int | None]:
    """Return B and H as `create_block_mask` takes them: None where the mask reads no batch, or no head."""
    program = trace(mod, ModKind.MASK)
    return size.batch if program.reads("b") else None, size.heads if program.reads("h") else None


def make_block_mask(mod: MaskMod | None, size: AttentionSize, device: torch.device) -> BlockMask | None:
    """Return the blocks of a mask, stored once for all batches and heads that share them."""
    if mod is None:
        return None
    batch, heads = mask_axes(mod, size)
    return create_block_mask(mod, batch, heads, size.q_len, size.kv_len, device=device)


def tried(contender: Contender, is_excused: bool, first_call: Callable[[], object]) -> Contender:
    """Return a contender after a checked first call, or as one that does not run where that call failed.

    Args:
        contender: Who is tried; not called where it cannot run anyway.
        is_excused: Whether its failure ends no measurement, as that of a peer.
        first_call: Calls it and checks the result.

    Raises:
        CheckError: The result is wrong, excused or not.
    """
    if contender.attend is None:
        return contender
    try:
        first_call()
    except CheckError:
        raise
    except Exception as fault:
        if not is_excused:
            raise
        reason = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
        return replace(contender, attend=None, refusal=reason)
    return contender


def drawn_seed(work: Workload) -> int:
    """Return the seed of dropout that a call of ours would draw from torch's generator now, and draw it."""
    seed = read_request(_arguments(work, gradients=False)).drawn().dropout_seed
    assert seed is not None, "asked of workloads with dropout"
    return int(seed)


def _causal_flash() -> Contender:
    """Torch's fused causal attention, the measure of all rows."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True)

    return Contender("causal flash (SDPA)", _CAUSAL_DENSITY, attend, is_same=False)


def dense_sdpa(work: Workload) -> Contender:
    """Return SDPA with everything the mods say in one tensor over all pairs, where that is exact."""
    name = "SDPA + mask"
    table = _score_table(work)
    if isinstance(table, str):
        return Contender(name, work.density, refusal=table)
    size, device = work.size, table.device
    if work.mask_mod is not None:
        batch, heads = mask_axes(work.mask_mod, size)
        visible = create_mask(work.mask_mod, batch, heads, size.q_len, size.kv_len, device)
        table = visible if work.score_mod is None else torch.where(visible, table, -math.inf)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=table, dropout_p=work.dropout_p, enable_gqa=work.is_grouped
        )

    return Contender(name, work.density, attend)


def _score_table(work: Workload) -> Tensor | str:
    """What the score_mod adds, `[B or 1, H or 1, Q, K]` of the inputs' dtype; or why no table can say it."""
    size, score_mod, query = work.size, work.score_mod, work.inputs[0]
    if score_mod is None:
        return torch.ones(1, 1, size.q_len, size.kv_len, dtype=torch.bool, device=query.device)
    program = trace(score_mod, ModKind.SCORE)
    if not is_additive(program.root):
        return "SDPA only adds to scores, and this score_mod does more"
    with torch.no_grad(), query.device:
        batch = torch.arange(size.batch if program.reads("b") else 1)[:, None, None, None]
        heads = torch.arange(size.heads if program.reads("h") else 1)[:, None, None]
        q_idx, kv_idx = torch.arange(size.q_len)[:, None], torch.arange(size.kv_len)
        zeros = torch.zeros(len(batch), len(heads), size.q_len, size.kv_len)
        exact = score_mod(zeros, batch, heads, q_idx, kv_idx).expand_as(zeros)
    table = exact.to(query.dtype)
    if not torch.equal(table.to(exact.dtype), exact):
        return f"SDPA takes what is added in {query.dtype}, which does not hold it exactly"
    return table


def engine(work: Workload, backend: str) -> Contender:
    """Return one engine of this library, called as a user calls it."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flex_attention(
            query,
            key,
            value,
            score_mod=work.score_mod,
            block_mask=work.block_mask,
            enable_gqa=work.is_grouped,
            dropout_p=work.dropout_p,
            backend=backend,
        )

    forward, backward = _refusals(work, backend)
    return Contender(f"saccade ({backend})", work.density, None if forward else attend, forward, backward)


def torch_flex(work: Workload) -> Contender:
    """Return torch's compiled `flex_attention` on our blocks in its form; nothing of ours runs in a call."""
    name, backend = "torch flex_attention", "flex_attention"
    forward, backward = _refusals(work, backend)
    if forward:
        return Contender(name, work.density, None, forward, backward)
    kernels: dict[bool, Kernel] = {}
    for wanted in (False,) if backward else (False, True):
        request = read_request(_arguments(work, gradients=wanted))
        kernels[wanted] = load(backend).compile(request.problem, request.schedule)
    operands = request.operands

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = replace(operands, query=query, key=key, value=value)
        return kernels[query.requires_grad](given).out

    try:
        attend(*work.inputs)
    except Exception as fault:  # whatever torch's compiler meets: a peer that fails stops no comparison
        reason = str(fault).strip().partition("\n")[0]
        return Contender(
            name, work.density, refusal=f"torch cannot compile it: {type(fault).__name__}: {reason}"
        )
    return Contender(name, work.density, attend, backward_refusal=backward)


def _refusals(work: Workload, backend: str) -> tuple[str, str]:
    """Why a backend does not take the workload without and with gradients; empty where it does."""
    forward, backward = (
        "; ".join(
            reasons_against(
                read_request(_arguments(work, gradients=wanted)).problem, backend, asked_by_name=True
            )
        )
        for wanted in (False, True)
    )
    return forward, backward


def _arguments(work: Workload, *, gradients: bool) -> Arguments:
    query, key, value = work.inputs_with_gradients() if gradients else work.inputs
    return Arguments(
        query,
        key,
        value,
        score_mod=work.score_mod,
        block_mask=work.block_mask,
        enable_gqa=work.is_grouped,
        dropout_p=work.dropout_p,
    )
