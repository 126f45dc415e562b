"""What the gradients of a fuzzed call must be, with what they may be off by.

The equations of the backward in float64, over the outcomes of `reference`: the derivative of a score_mod is
interpreted, and the output is the engine's own, as it is checked apart and the backward is given it. What
rounding may change is worked out beside each sum, from its terms; what it does within programs shows in the
spread over disturbed outcomes.

    dS' = W * (factor * dO·V - rowsum(dO * O) + dlse)     the gradient of what a score_mod makes of a score
    dV = (factor * W)ᵀ·dO, dQ = scale * dS·K, dK = scale * dSᵀ·Q, where dS is that of the score itself
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fuzz.call import Call
from fuzz.operands import Operands
from fuzz.reference import Expected, Outcome, precise, run, size_of, spread_of
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, substitute
from saccade.ir.grad import CaptureGradient, differentiate
from saccade.tracing.dtypes import TORCH

__all__ = ["ExpectedGradients", "expect_gradients"]

_SPREAD = 8  # how much further off than a disturbed outcome an engine may be
_LARGEST_POWER = 50.0
_COARSE = 1e-3  # of an ulp of bfloat16: the error of its weights before they are rounded
_DEVIATIONS = 6.0


@dataclass(frozen=True, eq=False)
class ExpectedGradients:
    """The gradients, and by how much each may be off; infinite where nothing can be said.

    Attributes:
        raises: Whether the derivative has no value at a visible pair; None where that depends on roundings,
            or an engine need not look.
        exact: Names to float64 tensors of their shapes.
        slack: The same.
    """

    raises: bool | None
    exact: Mapping[str, Tensor]
    slack: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Sum:
    """A sum of terms.

    Attributes:
        value: The sum.
        error: That of what terms may be off by.
        mass: That of their absolute values.
        squares: That of their squares.
    """

    value: Tensor
    error: Tensor
    mass: Tensor
    squares: Tensor


def expect_gradients(
    call: Call,
    operands: Operands,
    expected: Expected,
    out: Tensor,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
) -> ExpectedGradients:
    """Work out what the gradients of a call must be.

    Args:
        call: The call.
        operands: Its operands.
        expected: What its results must be.
        out: The engine's output.
        grad_out: Gradient of the output; None where it is 0.
        grad_lse: Gradient of lse, likewise.
    """
    magnified = 2 * expected.magnified  # the forward's scores may differ from the backward's
    unsure = expected.slack["lse"].isinf() | ~expected.finite
    exact, *disturbed = (
        _Pass(call, operands, outcome, magnified, unsure, out, grad_out, grad_lse).run()
        for outcome in expected.outcomes
    )
    values, slack = exact[0], exact[1]
    for name, value in values.items():
        spread = spread_of(value, [each[0][name] for each in disturbed])
        if name in ("query", "key", "value") and spread.numel():
            spread = spread.amax(-1, keepdim=True)
        slack[name] = (slack[name] + _SPREAD * spread).masked_fill(~value.isfinite(), math.inf)
        slack[name] = slack[name].nan_to_num(math.inf, math.inf)
    raises = exact[2] if all(each[2] is exact[2] for each in disturbed) else None
    return ExpectedGradients(raises, values, slack)


class _Pass:
    """The gradients of one outcome."""

    def __init__(
        self,
        call: Call,
        operands: Operands,
        outcome: Outcome,
        magnified: Tensor,  # [B, Hq, Q, K]: what rounding changes in what a score_mod makes of scores
        unsure: Tensor,  # [B, Hq, Q] bool: rows of which nothing can be said
        out: Tensor,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
    ) -> None:
        self._call, self._operands, self._outcome = call, operands, outcome
        self._magnified, self._unsure = magnified, unsure
        self._out = out.double()
        self._grad_out = torch.zeros_like(self._out) if grad_out is None else grad_out.double()
        self._grad_lse = torch.zeros(out.shape[:-1]).double() if grad_lse is None else grad_lse.double()
        wide = torch.finfo(TORCH[precise(call)])
        self._eps, self._least = wide.eps, wide.smallest_normal
        # What multiplies is rounded to bfloat16, where that is the type of the operands.
        self._rounded = torch.finfo(torch.bfloat16).eps if call.dtype == "bf16" else 0.0
        self._group = call.heads[0] // call.heads[1]

    def run(self) -> tuple[dict[str, Tensor], dict[str, Tensor], bool | None]:
        """Values and slack of the gradients, by name, and whether there is poison."""
        sums = dict(self._sums())
        learned = self._operands.learned(self._call)
        read = {name: self._captured(slot) for name, slot in _slots(learned).items()}
        sums |= {name: one for name, (one, _) in read.items()}
        values = {name: sums[name].value for name in learned}
        slack = {name: self._slack(name, sums[name], learned[name]) for name in learned}
        poisons = [poison for _, poison in read.values()]
        if {"query", "key"} & set(learned):
            poisons.append(self._score_poison)
        elif read and self._score_poison and not any(poisons):
            return values, slack, None
        return values, slack, any(poisons)

    def _slack(self, name: str, one: _Sum, learned: Tensor) -> Tensor:
        is_product = name in ("query", "key", "value")
        q_len, kv_len = self._call.lengths
        rows = self._call.batch * self._call.heads[0] * q_len
        # Terms that are alike are all rounded to the same side.
        slack = one.error + (16 + max(rows, kv_len) / 2) * self._eps * one.mass
        if is_product:
            # Roundings are at most half an ulp each, and evenly distributed.
            likely = _DEVIATIONS / math.sqrt(12) * one.squares.sqrt()
            slack = slack + self._rounded * torch.minimum(0.51 * one.mass, likely)
        return slack + 2**-8 * torch.finfo(learned.dtype).smallest_normal

    def _sums(self) -> Iterator[tuple[str, _Sum]]:
        """The gradients of query, key, value and sinks."""
        call, operands, outcome = self._call, self._operands, self._outcome
        query, sees = operands.query.double(), outcome.visible
        key, value = (self._per_query_head(one.double()) for one in (operands.key, operands.value))
        weights, factor = outcome.reference.weights, outcome.factor
        relative = (
            outcome.lost
            + self._magnified
            + _COARSE * self._rounded
            + 4 * self._eps * (4 + size_of(outcome.scores))
        )
        relative = relative + 4 * self._eps * size_of(outcome.reference.lse)[..., None]
        relative = torch.expm1(relative.clamp(max=_LARGEST_POWER))
        weight_error = (weights * relative + self._least).masked_fill(self._unsure[..., None], math.inf)

        grad_out, lost = self._grad_out, (8 + math.sqrt(call.dims[1])) * self._eps
        reaches = factor * (grad_out @ value.mT)
        mass = factor * (grad_out.abs() @ value.abs().mT)
        delta, delta_mass = (grad_out * self._out).sum(-1), (grad_out * self._out).abs().sum(-1)
        rest, rest_mass = self._grad_lse - delta, self._grad_lse.abs() + delta_mass
        modified = weights * (reaches + rest[..., None])
        error = weight_error * (reaches + rest[..., None]).abs()
        error = error + (weights + self._least) * lost * (mass + rest_mass[..., None])
        self._modified = modified.masked_fill(~sees, 0.0)
        self._error = (error + 4 * self._eps * modified.abs()).masked_fill(~sees, 0.0)
        score, score_error, self._score_poison = self._through_the_mod()

        scale = call.dims[0] ** -0.5 if call.scale is None else call.scale
        least = self._least * sees
        kept = (factor * weights).masked_fill(~sees, 0.0)
        # The weights of a row with a NaN are NaN, in torch those of hidden keys too.
        lost_rows = ~outcome.finite[..., None]
        kept_error = (factor * weight_error).masked_fill(~sees, 0.0).masked_fill(lost_rows, math.inf)
        score_error = score_error.masked_fill(lost_rows, math.inf)
        yield "query", _product(score, score_error + least, scale * key, lambda found: found)
        yield "key", _product(score.mT, (score_error + least).mT, scale * query, self._per_kv_head)
        yield "value", _product(kept.mT, (kept_error + least).mT, grad_out, self._per_kv_head)
        if operands.sinks is not None:
            sinks = operands.sinks.double()[:, None]
            lse = outcome.reference.lse
            weight = torch.exp(sinks - lse)
            relative = torch.expm1(4 * self._eps * (4 + size_of(lse) + sinks.abs()))
            error = (weight * relative + self._least) * rest.abs() + (weight + self._least) * lost * rest_mass
            error = error.masked_fill(self._unsure, math.inf)
            whole = (weight * rest, error, (weight * rest).abs(), (weight * rest).square())
            yield "sinks", _Sum(*(one.sum(dim=(0, 2)) for one in whole))

    def _through_the_mod(self) -> tuple[Tensor, Tensor, bool]:
        """The gradient of the score, by how much it may be off, and whether it has no value somewhere."""
        if self._operands.score is None:
            return self._modified, self._error, False
        gradient = differentiate(self._operands.score.structure).score
        if gradient is None:
            nothing = torch.zeros_like(self._modified)
            return nothing, nothing, False
        value, poison = self._evaluated(gradient)
        return *self._with_error(value), bool(poison.any())

    def _evaluated(self, root: Expr) -> tuple[Tensor, Tensor]:
        """An expression over gradients [3, B, Hq, Q, K]: as they are, and as far off as they may be."""
        gradients = torch.stack([self._modified, self._modified + self._error, self._modified - self._error])
        dtype = TORCH[precise(self._call)]
        variables = {"grad": gradients.to(dtype).numpy(), "score": self._outcome.raw.numpy()}
        program = self._operands.score
        assert program is not None
        value, poison = run(program, root, variables, tuple(gradients.shape), self._outcome.noise)
        return value, poison[0] & self._outcome.visible

    def _with_error(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Of [3, B, Hq, Q, K]: the value, and by how much it may be off, at visible pairs."""
        value, hidden = value.double(), ~self._outcome.visible
        error = (value[1:] - value[0]).abs().amax(0).nan_to_num(math.inf, math.inf)
        error = torch.where(self._error.isfinite(), error, math.inf) + 4 * self._eps * value[0].abs()
        return value[0].masked_fill(hidden, 0.0), error.masked_fill(hidden, 0.0)

    def _captured(self, slot: int) -> tuple[_Sum, bool]:
        """The gradient of a captured tensor, and whether it has no value at a visible pair."""
        program = self._operands.score
        assert program is not None
        shape = tuple(program.captures[slot].shape)
        sums = torch.zeros(4, math.prod(shape)).double()
        poisoned = False
        for each in differentiate(program.structure, wrt=[slot]).captures:
            for numbers in product(*(range(extent) for _, extent in each.axes)):
                poisoned |= self._add(each, numbers, shape, sums)
        return _Sum(*(one.reshape(shape) for one in sums)), poisoned

    def _add(
        self, each: CaptureGradient, numbers: tuple[int, ...], shape: tuple[int, ...], sums: Tensor
    ) -> bool:
        """Add a contribution for one value of its axes; returns whether there is poison."""
        bound = {
            axis(k): const(number, DType.INT64) for (k, _), number in zip(each.axes, numbers, strict=True)
        }
        value, poison = self._evaluated(substitute(each.value, bound))
        values, error = self._with_error(value)
        place, inside = torch.zeros(values.shape, dtype=torch.int64), self._outcome.visible
        for index, size in zip(each.indices, shape, strict=True):
            at = self._evaluated(substitute(index, bound))[0][0]
            inside = inside & (-size <= at) & (at < size)
            place = place * size + at.remainder(size)
        for total, part in zip(sums, (values, error, values.abs(), values.square()), strict=True):
            total.index_add_(0, place[inside], part[inside])
        return bool(poison.any())

    def _per_query_head(self, tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(self._group, dim=1).expand(self._call.batch, -1, -1, -1)

    def _per_kv_head(self, tensor: Tensor) -> Tensor:
        """[B, Hq, K, X] summed over the query heads of a kv head, and over batches that share keys."""
        summed = tensor.unflatten(1, (-1, self._group)).sum(2)
        return summed.sum(0, keepdim=True) if self._call.kv_batch == 1 else summed


def _product(left: Tensor, error: Tensor, right: Tensor, joined: Callable[[Tensor], Tensor]) -> _Sum:
    """A product of matrices, the first of which may be off by `error`, summed further by `joined`."""
    return _Sum(
        joined(left @ right),
        joined(error @ right.abs()),
        joined(left.abs() @ right.abs()),
        joined(left.square() @ right.square()),
    )


def _slots(learned: Mapping[str, Tensor]) -> dict[str, int]:
    """The captured tensors among what wants gradients."""
    return {name: int(name[1:]) for name in learned if name[1:].isdigit()}
