"""What a fuzzed call must give: float64 attention over interpreted programs, with what it may be off by.

Programs are computed in their own types by the reference interpreter; all else is the oracle's float64. How
far an engine may be off is measured and not chosen: the reference is repeated with roundings disturbed at
random (Monte Carlo arithmetic, Parker 1997), each by a few ulp, and its results spread. A row in which a
program jumps has a wide spread, and says little; one without is held to a few ulp. Disturbances come in pairs
of opposite signs, one of which crosses a jump nearby.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

__all__ = ["Expected", "Noise", "Outcome", "expect", "indices", "precise", "run", "size_of", "spread_of"]

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
        magnified: [B, Hq, Q, K] float64: how far disturbances move what the score_mod makes of scores.
        outcomes: What they were found from: the exact one, and disturbed ones.
    """

    raises: bool | None
    out: Tensor
    lse: Tensor
    max_scores: Tensor
    finite: Tensor
    slack: Mapping[str, Tensor]
    magnified: Tensor
    outcomes: Sequence[Outcome]


class Noise:
    """Random disturbances of size 1/4 to 1, lest equal ones cancel; a pair has opposite signs."""

    def __init__(self, seed: int, sign: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._sign = sign

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        signs = self._sign * (2.0 * self._generator.integers(0, 2, shape) - 1.0)
        return signs * self._generator.uniform(0.25, 1.0, shape)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The results for one disturbance of roundings, and what gradients follow from.

    Attributes:
        raises: As in `Expected`.
        finite: As in `Expected`.
        reference: The oracle's results.
        visible: [B, Hq, Q, K] bool.
        raw: [B, Hq, Q, K] of the precise type: the scores that the score_mod is given.
        scores: [B, Hq, Q, K] float64: what it made of them.
        factor: [B, Hq, Q, K] float64, or a scalar: what dropout multiplies weights by.
        lost: [B, Hq, Q, K] float64: what rounding may change in raw scores.
        noise: The disturbance.
    """

    raises: bool | None
    finite: Tensor
    reference: oracle.Reference
    visible: Tensor
    raw: Tensor
    scores: Tensor
    factor: Tensor
    lost: Tensor
    noise: Noise | None


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
        _outcome(call, operands, seed, Noise(pair, sign)) for pair in range(disturbances) for sign in (1, -1)
    ]
    raises = exact.raises if all(each.raises is exact.raises for each in disturbed) else None
    reference, names = exact.reference, ("out", "lse", "max_scores")
    spread = {
        name: spread_of(getattr(reference, name), [getattr(each.reference, name) for each in disturbed])
        for name in names
    }
    jumps = spread["lse"] > _JUMP[0] + _JUMP[1] * size_of(reference.lse)
    for each in disturbed:
        jumps |= each.finite != exact.finite
    slack = _least_slack(call, operands, reference)
    for name in names:
        row = spread[name].amax(-1, keepdim=True) if name == "out" else spread[name]
        slack[name] = slack[name] + 8 * row
        slack[name][jumps] = torch.inf
    magnified = spread_of(exact.scores, [each.scores for each in disturbed]).masked_fill(~exact.visible, 0.0)
    if magnified.numel():
        # Another score may be the largest, if it moves so far.
        largest = (exact.scores + 8 * magnified).masked_fill(~exact.visible, -torch.inf).amax(-1)
        slack["max_scores"] = torch.fmax(slack["max_scores"], largest - reference.max_scores)
    return Expected(
        raises,
        reference.out,
        reference.lse,
        reference.max_scores,
        exact.finite,
        slack,
        magnified,
        (exact, *disturbed),
    )


def _least_slack(call: Call, operands: Operands, reference: oracle.Reference) -> dict[str, Tensor]:
    """What sums of rounded terms lose where scores are exact: a few ulp of the terms' absolute sum.

    Terms are rounded to the type of sums, in bfloat16 also to the stored type; below its normal numbers they
    vanish.
    """
    wide, stored = torch.finfo(TORCH[precise(call)]), torch.finfo(operands.query.dtype)
    values = operands.value.double().abs().repeat_interleave(call.heads[0] // call.heads[1], dim=1)
    rate = keep_rate(call.dropout_p) or 1.0
    mass = reference.weights.nan_to_num(0.0, 0.0) @ values / rate
    vanishing = values.sum(dim=2, keepdim=True) * wide.smallest_normal / rate
    return {
        "out": (2 * stored.eps + 64 * wide.eps) * mass + vanishing + stored.smallest_normal * 2**-8,
        "lse": 32 * wide.eps * (1 + size_of(reference.lse)),
        "max_scores": 4 * wide.eps * size_of(reference.max_scores) + wide.smallest_normal,
    }


def size_of(numbers: Tensor) -> Tensor:
    """Absolute values, 0 for what is not finite."""
    return numbers.abs().nan_to_num(0.0, 0.0, 0.0)


def _outcome(call: Call, operands: Operands, seed: int | None, noise: Noise | None) -> Outcome:
    """The reference, with disturbed roundings if there is noise."""
    shape = (call.batch, call.heads[0], *call.lengths)
    visible, raises = _visible(call, operands, shape, noise)
    made: dict[str, Tensor] = {}
    lost = _lost(call, operands)

    def score(scores: Tensor, *_: Tensor) -> Tensor:
        if noise is not None:
            scores = scores + torch.from_numpy(noise.draw(tuple(scores.shape))) * lost
        made["raw"] = scores.to(TORCH[precise(call)])
        made["scores"], poison = _modified(operands, scores, made["raw"], noise)
        made["poison"] = poison & visible
        return made["scores"]

    keep, rate = None, keep_rate(call.dropout_p) or 1.0
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
        keep_rate=rate,
    )
    finite = ((made["scores"] < torch.inf) | ~visible).all(-1)
    if raises is False:
        raises = bool(made["poison"].any())
    factor = torch.ones(()).double() if keep is None else keep.double() / rate
    return Outcome(raises, finite, reference, visible, made["raw"], made["scores"], factor, lost, noise)


def _visible(
    call: Call, operands: Operands, shape: tuple[int, ...], noise: Noise | None
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
        value, poison = run(operands.block_program, operands.block_program.root, {}, shape, noise)
        shown, poison = torch.where(asked, value & ~poison, shown), poison & asked
        if bool(poison.any()) and call.blocks is not None and call.blocks.kinds is None:
            return shown, True  # the analysis finds it before there is a call
    mod, mod_poison = shown.new_ones(shape), nowhere
    if operands.mask is not None:
        mod, mod_poison = run(operands.mask, operands.mask.root, {}, shape, noise)
    decided = (poison & (mod | mod_poison)) | (mod_poison & shown)
    raises = True if bool(decided.any()) else (None if bool(poison.any()) else False)
    return shown & mod & ~mod_poison, raises


def _modified(operands: Operands, scores: Tensor, raw: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """What the score_mod makes of scores, `raw` when rounded, in float64; and where it has no value."""
    if operands.score is None:
        return scores, torch.zeros_like(scores, dtype=torch.bool)
    shape = tuple(scores.shape)
    value, poison = run(operands.score, operands.score.root, {"score": raw.numpy()}, shape, noise)
    return value.double(), poison


def _lost(call: Call, operands: Operands) -> Tensor:
    """What rounding may change in scores, before their mod: ulp of their terms' absolute sum, √D and more.

    Never nothing: the sign of a zero is free.
    """
    wide = torch.finfo(TORCH[precise(call)])
    scale = call.dims[0] ** -0.5 if call.scale is None else call.scale
    keys = operands.key.double().abs().repeat_interleave(call.heads[0] // call.heads[1], dim=1).mT
    terms = operands.query.double().abs() @ keys * abs(scale)
    lost = terms.nan_to_num(0, 0, 0) * (_ULP + math.sqrt(call.dims[0])) * wide.eps
    return lost.clamp(min=wide.smallest_normal)


def run(
    program: Program,
    root: Expr,
    variables: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    noise: Noise | None,
) -> tuple[Tensor, Tensor]:
    """The value of an expression over a program's data at each pair of a shape, and whether it has none.

    Args:
        program: Whose captured tensors and numbers are read.
        root: The expression.
        variables: What it reads beside the indices of a pair, [..., B, Hq, Q, K].
        shape: [..., B, Hq, Q, K].
        noise: Disturbances of roundings, if any.
    """
    root = root if noise is None else _disturbed(root, noise)
    captures = [one.detach() if isinstance(one, Tensor) else one for one in program.captures]
    found = evaluate(root, {**variables, **indices(shape[-4:])}, captures, program.numbers)
    poison = np.zeros((), bool) if found.poison is None else found.poison != 0
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(np.array(np.broadcast_to(part, shape))) for part in (found.value, poison)
    )


def _disturbed(root: Expr, noise: Noise) -> Expr:
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


def indices(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The indices of each pair of [B, Hq, Q, K], as arrays that broadcast."""
    grids = np.ogrid[tuple(slice(size) for size in shape)]
    return dict(zip(("b", "h", "q_idx", "kv_idx"), grids, strict=True))


def spread_of(exact: Tensor, others: list[Tensor]) -> Tensor:
    """The largest distance of the others; infinite where one is finite and another is not."""
    spread = torch.zeros_like(exact)
    for other in others:
        same = (exact == other) | (exact.isnan() & other.isnan())
        distance = torch.where(same, 0.0, (exact - other).abs())
        spread = torch.maximum(spread, distance.nan_to_num(torch.inf, torch.inf))
    return spread


def precise(call: Call) -> DType:
    """The type of sums and of the softmax."""
    return DType.FLOAT64 if call.dtype == "f64" else DType.FLOAT32
