"""What a fuzzed call must give: float64 attention over interpreted programs, with what it may be off by.

Programs are computed in their own types by the reference interpreter; all else is the oracle's float64. How
far an engine may be off is measured and not chosen: the reference is repeated with roundings disturbed at
random (Monte Carlo arithmetic, Parker 1997), each by a few ulp, and its results spread. A row in which a
program jumps has a wide spread, and says little; one without is held to a few ulp. Disturbances come in pairs
of opposite signs, one of which crosses a jump nearby.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import oracle
from fuzz.call import Call
from fuzz.operands import Operands, given_kinds
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, make, rebuild, walk
from saccade.ir.interpret import evaluate
from saccade.ir.ops import OPS, REDUCTIONS, Op, TypeRule
from saccade.ir.program import Program
from saccade.tracing.dtypes import TORCH

__all__ = ["Expected", "expect"]

_ULP = 8  # by which a disturbance is off
_JUMP = (0.02, 1e-5)  # absolute and relative change of lse that only a program's jump makes
_ROUNDED = (Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND)  # exact operations of one float


@dataclass(frozen=True, eq=False)
class Expected:
    """The results, and by how much each may be off; infinite where nothing can be said.

    Attributes:
        raises: Whether an index out of range or a division by zero decides something; None where that
            depends on roundings.
        out: [B, Hq, Q, Dv] float64.
        lse: [B, Hq, Q] float64.
        max_scores: [B, Hq, Q] float64.
        finite: [B, Hq, Q] bool: rows whose visible scores are below +inf and none of them NaN.
        slack: The same names to tensors of those shapes.
    """

    raises: bool | None
    out: Tensor
    lse: Tensor
    max_scores: Tensor
    finite: Tensor
    slack: Mapping[str, Tensor]


class _Noise:
    """Random disturbances of size 1/4 to 1, lest equal ones cancel; a pair has opposite signs."""

    def __init__(self, seed: int, sign: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._sign = sign

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        signs = self._sign * (2.0 * self._generator.integers(0, 2, shape) - 1.0)
        return signs * self._generator.uniform(0.25, 1.0, shape)


@dataclass(frozen=True, eq=False)
class _Outcome:
    raises: bool | None
    finite: Tensor
    reference: oracle.Reference


def expect(call: Call, operands: Operands, seed: int | None, disturbances: int) -> Expected:
    """Work out what a call must give.

    Args:
        call: The call.
        operands: Its operands.
        seed: The seed of dropout, if there is dropout.
        disturbances: Pairs of repetitions; with none, only programs that hardly magnify an error pass.
    """
    exact = _outcome(call, operands, seed, None)
    disturbed = [
        _outcome(call, operands, seed, _Noise(pair, sign)) for pair in range(disturbances) for sign in (1, -1)
    ]
    raises = exact.raises if all(each.raises is exact.raises for each in disturbed) else None
    reference, names = exact.reference, ("out", "lse", "max_scores")
    spread = {
        name: _spread(getattr(reference, name), [getattr(each.reference, name) for each in disturbed])
        for name in names
    }
    jumps = spread["lse"] > _JUMP[0] + _JUMP[1] * _size(reference.lse)
    for each in disturbed:
        jumps |= each.finite != exact.finite
    slack = _least_slack(call, operands, reference)
    for name in names:
        row = spread[name].amax(-1, keepdim=True) if name == "out" else spread[name]
        slack[name] = slack[name] + 8 * row
        slack[name][jumps] = torch.inf
    return Expected(raises, reference.out, reference.lse, reference.max_scores, exact.finite, slack)


def _least_slack(call: Call, operands: Operands, reference: oracle.Reference) -> dict[str, Tensor]:
    """What sums of rounded terms lose where scores are exact: a few ulp of the terms' absolute sum.

    Terms are rounded to the type of sums, in bfloat16 also to the stored type; below its normal numbers they
    vanish.
    """
    precise, stored = torch.finfo(TORCH[_precise(call)]), torch.finfo(operands.query.dtype)
    values = operands.value.double().abs().repeat_interleave(call.heads[0] // call.heads[1], dim=1)
    rate = keep_rate(call.dropout_p) or 1.0
    mass = reference.weights.nan_to_num(0.0, 0.0) @ values / rate
    vanishing = values.sum(dim=2, keepdim=True) * precise.smallest_normal / rate
    return {
        "out": (2 * stored.eps + 64 * precise.eps) * mass + vanishing + stored.smallest_normal * 2**-8,
        "lse": 32 * precise.eps * (1 + _size(reference.lse)),
        "max_scores": 4 * precise.eps * _size(reference.max_scores),
    }


def _size(numbers: Tensor) -> Tensor:
    """Absolute values, 0 for what is not finite."""
    return numbers.abs().nan_to_num(0.0, 0.0, 0.0)


def _outcome(call: Call, operands: Operands, seed: int | None, noise: _Noise | None) -> _Outcome:
    """The reference, with disturbed roundings if there is noise."""
    shape = (call.batch, call.heads[0], *call.lengths)
    visible, raises = _visible(call, operands, shape, noise)
    made: dict[str, Tensor] = {}

    def score(scores: Tensor, *_: Tensor) -> Tensor:
        modified, poison = _modified(call, operands, scores, noise)
        made["scores"], made["poison"] = modified, poison & visible
        return modified

    keep = None
    if seed is not None:
        rows = np.arange(shape[0] * shape[1]).reshape(*shape[:2], 1, 1)
        kept = keep_mask(seed, call.dropout_p, rows, np.arange(shape[2])[:, None], np.arange(shape[3]))
        keep = torch.from_numpy(kept)
    reference = oracle.attention(
        operands.query,
        operands.key,
        operands.value,
        mask=lambda *_: visible,
        score=score,
        scale=call.scale,
        sinks=operands.sinks,
        keep=keep,
        keep_rate=keep_rate(call.dropout_p) or 1.0,
    )
    finite = ((made["scores"] < torch.inf) | ~visible).all(-1)
    if raises is False:
        raises = bool(made["poison"].any())
    return _Outcome(raises, finite, reference)


def _visible(
    call: Call, operands: Operands, shape: tuple[int, ...], noise: _Noise | None
) -> tuple[Tensor, bool | None]:
    """Which pairs are visible, and whether poison decides that somewhere.

    None where a block mask's program has no value at pairs that the mask_mod hides: engines may look at
    either one first.
    """
    shown, asked = torch.ones(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    if call.blocks is not None and call.blocks.kinds is not None:
        kinds = given_kinds(call, operands.block_program)
        for dim, size in ((2, call.blocks.size[0]), (3, call.blocks.size[1])):
            kinds = kinds.repeat_interleave(size, dim=dim).narrow(dim, 0, shape[dim])
        shown, asked = (kinds != 0).expand(shape), (kinds == 1).expand(shape)
    nowhere = torch.zeros(shape, dtype=torch.bool)
    poison = nowhere
    if operands.block_program is not None:
        value, poison = _run(operands.block_program, _indices(shape), shape, noise)
        shown, poison = torch.where(asked, value & ~poison, shown), poison & asked
        if bool(poison.any()) and call.blocks is not None and call.blocks.kinds is None:
            return shown, True  # the analysis finds it before there is a call
    mod, mod_poison = shown.new_ones(shape), nowhere
    if operands.mask is not None:
        mod, mod_poison = _run(operands.mask, _indices(shape), shape, noise)
    decided = (poison & (mod | mod_poison)) | (mod_poison & shown)
    raises = True if bool(decided.any()) else (None if bool(poison.any()) else False)
    return shown & mod & ~mod_poison, raises


def _modified(call: Call, operands: Operands, scores: Tensor, noise: _Noise | None) -> tuple[Tensor, Tensor]:
    """What the score_mod makes of float64 scores, in float64, and where it has no value."""
    if noise is not None:
        scores = scores + torch.from_numpy(noise.draw(tuple(scores.shape))) * _lost(call, operands)
    if operands.score is None:
        return scores, torch.zeros_like(scores, dtype=torch.bool)
    rounded = scores.to(TORCH[_precise(call)]).numpy()
    indices = {"score": rounded, **_indices(tuple(scores.shape))}
    value, poison = _run(operands.score, indices, tuple(scores.shape), noise)
    return value.double(), poison


def _lost(call: Call, operands: Operands) -> Tensor:
    """What rounding may change in scores, before their mod: ulp of their terms' absolute sum, √D and more.

    Never nothing: the sign of a zero is free.
    """
    precise = torch.finfo(TORCH[_precise(call)])
    scale = call.dims[0] ** -0.5 if call.scale is None else call.scale
    keys = operands.key.double().abs().repeat_interleave(call.heads[0] // call.heads[1], dim=1).mT
    terms = operands.query.double().abs() @ keys * abs(scale)
    lost = terms.nan_to_num(0, 0, 0) * (_ULP + math.sqrt(call.dims[0])) * precise.eps
    return lost.clamp(min=precise.smallest_normal)


def _run(
    program: Program,
    variables: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    noise: _Noise | None,
) -> tuple[Tensor, Tensor]:
    root = program.root if noise is None else _disturbed(program.root, noise)
    found = evaluate(root, variables, program.captures, program.numbers)
    poison = np.zeros((), bool) if found.poison is None else found.poison != 0
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(np.array(np.broadcast_to(part, shape))) for part in (found.value, poison)
    )


def _disturbed(root: Expr, noise: _Noise) -> Expr:
    """The expression with each result of an elementary function, a power and a sum off by a few ulp."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        made = rebuild(node, tuple(done[arg] for arg in node.args))
        elementary = OPS[node.op].rule is TypeRule.FLOAT and node.op not in _ROUNDED
        if node.dtype.is_float and (elementary or node.op in REDUCTIONS or node.op is Op.POW):
            eps = torch.finfo(TORCH[node.dtype]).eps
            factor = const(1.0 + _ULP * eps * float(noise.draw(())), node.dtype)
            made = make(Op.MUL, (made, factor))
        done[node] = made
    return done[root]


def _indices(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    grids = np.ogrid[tuple(slice(size) for size in shape)]
    return dict(zip(("b", "h", "q_idx", "kv_idx"), grids, strict=True))


def _spread(exact: Tensor, others: list[Tensor]) -> Tensor:
    """The largest distance of the others; infinite where one is finite and another is not."""
    spread = torch.zeros_like(exact)
    for other in others:
        same = (exact == other) | (exact.isnan() & other.isnan())
        distance = torch.where(same, 0.0, (exact - other).abs())
        spread = torch.maximum(spread, distance.nan_to_num(torch.inf, torch.inf))
    return spread


def _precise(call: Call) -> DType:
    return DType.FLOAT64 if call.dtype == "f64" else DType.FLOAT32
