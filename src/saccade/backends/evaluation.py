"""Expressions evaluated with torch operations: every pair at once, differentiable, on any device.

Owns the table from `Op` to torch and nothing about attention. Variables are tensors that broadcast to `[B, H,
Q, K]`; the axis a reduction binds is one more dimension in front of those, so a value never holds a dimension
it does not depend on.

Poison (an index out of range, an integer division by zero) is a bool tensor beside the value, absent where
nothing is poisoned: reads are clamped only when some index is in fact out of range. Who may see poison is the
caller's to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from saccade.backends.custom_gradient import apply_custom
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis_bit
from saccade.ir.ops import REDUCTIONS, VARIABLES, Op
from saccade.tracing.dtypes import TORCH

__all__ = ["ELEMENTWISE", "SHAPED", "Evaluated", "evaluate"]

_PAIR_DIMS = 4  # b, h, q_idx, kv_idx; reduction axis k is dimension -(5 + k)


@final
@dataclass(frozen=True)
class Evaluated:
    """A value for every pair, and where it has none."""

    value: Tensor  # broadcasts to [B, H, Q, K]
    poison: Tensor | None  # bool, broadcasts likewise; None where no pair is poisoned


def evaluate(
    root: Expr,
    variables: Mapping[str, Tensor],
    captures: Sequence[Tensor],
    numbers: Sequence[int | float],
    *,
    device: torch.device,
    visible: Tensor | None = None,
) -> Evaluated:
    """Evaluate an expression for every pair.

    Args:
        root: The expression.
        variables: The variables it reads, by name: tensors of at most four dimensions that broadcast
            together.
        captures: The captured tensors, by slot, on `device`.
        numbers: The run-time numbers, by slot.
        device: Where to compute.
        visible: bool, broadcasts to `[B, H, Q, K]`. No gradient flows from a hidden pair into a captured
            tensor, not even a NaN. None: every pair counts.

    Example:
        >>> from saccade.ir.expr import make, var
        >>> q_idx, kv_idx = torch.arange(2).view(2, 1), torch.arange(3)
        >>> earlier = make(Op.LE, (var("kv_idx"), var("q_idx")))
        >>> evaluate(earlier, {"q_idx": q_idx, "kv_idx": kv_idx}, (), (), device=q_idx.device).value
        tensor([[ True, False, False],
                [ True,  True, False]])
    """
    result = _Evaluation(variables, captures, numbers, device, visible).run(root, {})
    return Evaluated(_of_pairs(result.value), None if result.poison is None else _of_pairs(result.poison))


def _of_pairs(value: Tensor) -> Tensor:
    """`value` without the dimensions of reduction axes, of which one element is left at the root."""
    return value.reshape(value.shape[-_PAIR_DIMS:])


@dataclass
class _Evaluation:
    """One evaluation: its inputs, and what has been computed so far."""

    variables: Mapping[str, Tensor]
    captures: Sequence[Tensor]
    numbers: Sequence[int | float]
    device: torch.device
    visible: Tensor | None
    # A node under a reduction has a value for each extent its free axes may be bound to.
    known: dict[tuple[Expr, tuple[tuple[int, int], ...]], Evaluated] = field(default_factory=dict)

    def run(self, root: Expr, axes: Mapping[int, int]) -> Evaluated:
        """The value of `root` where reduction axis k runs over `axes[k]` elements."""
        stack = [root]
        while stack:
            node = stack[-1]
            if self._key(node, axes) in self.known:
                stack.pop()
                continue
            waiting = [arg for arg in self._arguments(node) if self._key(arg, axes) not in self.known]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            self.known[self._key(node, axes)] = self._compute(node, axes)
            stack.pop()
        return self.known[self._key(root, axes)]

    @staticmethod
    def _key(node: Expr, axes: Mapping[int, int]) -> tuple[Expr, tuple[tuple[int, int], ...]]:
        return node, tuple((k, extent) for k, extent in axes.items() if node.reads & axis_bit(k))

    @staticmethod
    def _arguments(node: Expr) -> tuple[Expr, ...]:
        """What must be known before `node`: not a reduction's body (it binds an axis), not gradients."""
        if node.op in REDUCTIONS:
            return ()
        return node.args[: 1 + node.attr] if node.op is Op.CUSTOM else node.args

    def _compute(self, node: Expr, axes: Mapping[int, int]) -> Evaluated:
        shaped = SHAPED.get(node.op)
        if shaped is not None:
            return shaped(self, node, axes)
        args = [self.run(arg, axes) for arg in node.args]
        value = ELEMENTWISE[node.op](*(arg.value for arg in args))
        return Evaluated(value, _union(*(arg.poison for arg in args)))

    def full(self, value: bool | int | float, dtype: DType) -> Tensor:
        return torch.full((), value, dtype=TORCH[dtype], device=self.device)

    def ungated(self) -> _Evaluation:
        """The same inputs with no pair hidden: gradients flow from all."""
        return _Evaluation(self.variables, self.captures, self.numbers, self.device, None)


def _union(*poisons: Tensor | None) -> Tensor | None:
    union: Tensor | None = None
    for poison in poisons:
        if poison is not None:
            union = poison if union is None else union | poison
    return union


# Leaves.


def _variable(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    return Evaluated(run.variables[node.attr], None)


def _constant(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    return Evaluated(run.full(node.attr, node.dtype), None)


def _number(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    return Evaluated(run.full(run.numbers[node.attr], node.dtype), None)


def _axis(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    steps = torch.arange(axes[node.attr], dtype=torch.int64, device=run.device)
    return Evaluated(steps.reshape(-1, *(1,) * (_PAIR_DIMS + node.attr)), None)


def _load(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    table = run.captures[node.attr]
    if table.is_floating_point():
        table = table.to(TORCH[node.dtype])  # before reading, so that gradients add up in full precision
    given = [run.run(arg, axes) for arg in node.args]
    indices = [index.value for index in given]
    poison = _union(*(index.poison for index in given))
    for axis, (index, size) in enumerate(zip(indices, table.shape, strict=True)):
        outside = _outside(index, size)
        if outside is not None:
            poison = _union(poison, outside)
            indices[axis] = index.clamp(-size, size - 1)
    if indices and table.numel() == 0:
        shape = np.broadcast_shapes(*(index.shape for index in indices))
        value = torch.zeros(shape, dtype=TORCH[node.dtype], device=run.device)
    else:
        value = (table[tuple(indices)] if indices else table).to(TORCH[node.dtype])
    if run.visible is not None and value.requires_grad:
        value = torch.where(run.visible, value, value.detach())
    return Evaluated(value, poison)


def _outside(index: Tensor, size: int) -> Tensor | None:
    """Where an index misses an axis of `size` elements; None where it never does."""
    if index.numel() == 0 or index.is_meta:
        return None
    least, greatest = torch.aminmax(index)
    if -size <= int(least) and int(greatest) < size:
        return None
    return (index < -size) | (index >= size)


# Operations that look at more than their arguments' values.


def _divide_by(divide: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Evaluated]:
    """Integer division: a zero divisor is poison, and 1 takes its place."""

    def rule(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
        dividend, divisor = (run.run(arg, axes) for arg in node.args)
        poison = _union(dividend.poison, divisor.poison)
        by = divisor.value
        if not by.is_floating_point() and not by.is_meta:
            zero = by == 0
            if bool(zero.any()):
                poison = _union(poison, zero)
                by = by.masked_fill(zero, 1)
        return Evaluated(divide(dividend.value, by), poison)

    return rule


def _kleene(absorbing: bool, combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Evaluated]:
    """Logic in which the absorbing value decides, whatever the other side is."""

    def rule(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
        first, second = (run.run(arg, axes) for arg in node.args)
        value = combine(first.value, second.value)
        if first.poison is None and second.poison is None:
            return Evaluated(value, None)
        poison = _union(first.poison, second.poison)
        if node.dtype is not DType.BOOL:
            return Evaluated(value, poison)
        decided = _decides(first, absorbing) | _decides(second, absorbing)
        assert poison is not None, "one side is poisoned"
        return Evaluated(torch.where(decided, absorbing, value), poison & ~decided)

    return rule


def _decides(side: Evaluated, absorbing: bool) -> Tensor:
    decides = side.value if absorbing else ~side.value
    return decides if side.poison is None else decides & ~side.poison


def _where(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    condition, yes, no = (run.run(arg, axes) for arg in node.args)
    value = torch.where(condition.value, yes.value, no.value)
    poison = condition.poison
    if yes.poison is not None:
        poison = _union(poison, yes.poison & condition.value)
    if no.poison is not None:
        poison = _union(poison, no.poison & ~condition.value)
    return Evaluated(value, poison)


def _cast(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    arg = run.run(node.args[0], axes)
    target: DType = node.attr
    value = arg.value
    if target is DType.BOOL:
        return Evaluated(value != 0, arg.poison)
    if target.is_int:
        value = value.to(torch.int64)  # a float beyond a narrow type wraps, like an integer
    elif not target.is_value_type:
        value = value.to(torch.float32)  # half types are rounded from float32, once
    return Evaluated(value.to(TORCH[target]).to(TORCH[node.dtype]), arg.poison)


def _custom(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
    value, *inputs = (run.run(arg, axes) for arg in node.args[: 1 + node.attr])
    tensors = [given.value for given in inputs]
    # Every pair has its own cotangent, so the value gets every dimension its gradients may have.
    read = [
        run.variables[name].shape for name in VARIABLES if name in run.variables and node.depends_on(name)
    ]
    shape = np.broadcast_shapes(value.value.shape, *(tensor.shape for tensor in tensors), *read)
    gradients = node.args[1 + node.attr :]
    variables = {name: variable.detach() for name, variable in run.variables.items()}
    captures = [capture.detach() for capture in run.captures]

    def differentiate(cotangent: Tensor) -> list[Tensor]:
        again = _Evaluation({**variables, "cotangent": cotangent}, captures, run.numbers, run.device, None)
        return [again.run(gradient, axes).value for gradient in gradients]

    return Evaluated(apply_custom(value.value.detach().expand(shape), tensors, differentiate), value.poison)


def _reduce(over: Callable[[Tensor, int], Tensor]) -> Callable[..., Evaluated]:
    def rule(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated:
        k, extent = node.attr
        inner = {**axes, k: extent}
        product = _product_over(run, node, inner)
        if product is not None:
            return product
        body = run.run(node.args[0], inner)
        dim = -(_PAIR_DIMS + 1 + k)
        value = over(_along(body.value, dim, extent), dim)
        poison = None
        if body.poison is not None:
            poison = _along(body.poison, dim, extent).any(dim=dim, keepdim=True)
        return Evaluated(value, poison)

    return rule


def _along(value: Tensor, dim: int, extent: int) -> Tensor:
    """`value` with dimension `dim`, counted from the end, of `extent` elements."""
    value = value.reshape(*(1,) * (-dim - value.dim()), *value.shape)
    shape = list(value.shape)
    shape[dim] = extent
    return value.expand(shape)


def _product_over(run: _Evaluation, node: Expr, axes: Mapping[int, int]) -> Evaluated | None:
    """A sum of products of what q_idx reads with what kv_idx reads, as a matrix product; None for others.

    Without it, a dot product of width n would hold n score matrices.
    """
    body = node.args[0]
    k, extent = node.attr
    if node.op is not Op.SUM or body.op is not Op.MUL or not body.dtype.is_float or extent == 0:
        return None
    left, right = body.args
    if left.depends_on("kv_idx"):
        left, right = right, left
    per_key, per_query = left.depends_on("kv_idx"), right.depends_on("q_idx")
    if per_key or per_query or left.depends_on("score") or right.depends_on("score", "grad"):
        return None
    # The factors are gated together, as their product: gating them apart would broadcast them.
    free = run.ungated()
    rows, columns = free.run(left, axes), free.run(right, axes)
    dim = -(_PAIR_DIMS + 1 + k)
    a, b = _along(rows.value, dim, extent), _along(columns.value, dim, extent)
    a, b = a.squeeze(-1).movedim(dim + 1, -1), b.squeeze(-2).movedim(dim + 1, -2)  # [..., Q, n], [..., n, K]
    value = (a @ b).unsqueeze(dim)
    if run.visible is not None and value.requires_grad:
        value = torch.where(run.visible, value, value.detach())
    poisons = [
        _along(side.poison, dim, extent).any(dim=dim, keepdim=True)
        for side in (rows, columns)
        if side.poison is not None
    ]
    return Evaluated(value, _union(*poisons))


def _shift_left(value: Tensor, by: Tensor) -> Tensor:
    inside = (by >= 0) & (by < 64)
    return torch.where(inside, value << by.clamp(0, 63), 0)


def _shift_right(value: Tensor, by: Tensor) -> Tensor:
    return value >> torch.where((by >= 0) & (by < 64), by, 63)


def _floor_divide(dividend: Tensor, divisor: Tensor) -> Tensor:
    return torch.div(dividend, divisor, rounding_mode="floor")


ELEMENTWISE: dict[Op, Callable[..., Tensor]] = {
    Op.ADD: torch.add,
    Op.SUB: torch.sub,
    Op.MUL: torch.mul,
    Op.DIV: torch.div,
    Op.POW: torch.pow,
    Op.NEG: torch.neg,
    Op.ABS: torch.abs,
    Op.MINIMUM: torch.minimum,
    Op.MAXIMUM: torch.maximum,
    Op.XOR: torch.bitwise_xor,
    Op.NOT: torch.bitwise_not,
    Op.SHL: _shift_left,
    Op.SHR: _shift_right,
    Op.EQ: torch.eq,
    Op.NE: torch.ne,
    Op.LT: torch.lt,
    Op.LE: torch.le,
    Op.EXP: torch.exp,
    Op.EXP2: torch.exp2,
    Op.EXPM1: torch.expm1,
    Op.LOG: torch.log,
    Op.LOG2: torch.log2,
    Op.LOG1P: torch.log1p,
    Op.SQRT: torch.sqrt,
    Op.RSQRT: torch.rsqrt,
    Op.SIN: torch.sin,
    Op.COS: torch.cos,
    Op.TAN: torch.tan,
    Op.ATAN: torch.atan,
    Op.TANH: torch.tanh,
    Op.SIGMOID: torch.sigmoid,
    Op.ERF: torch.erf,
    Op.FLOOR: torch.floor,
    Op.CEIL: torch.ceil,
    Op.TRUNC: torch.trunc,
    Op.ROUND: torch.round,
}
"""Operations on the values alone: poison of any argument is poison of the result."""

_Shaped = Callable[[_Evaluation, Expr, Mapping[int, int]], Evaluated]

SHAPED: dict[Op, _Shaped] = {
    Op.VAR: _variable,
    Op.CONST: _constant,
    Op.NUMBER: _number,
    Op.AXIS: _axis,
    Op.LOAD: _load,
    Op.FLOOR_DIV: _divide_by(_floor_divide),
    Op.REMAINDER: _divide_by(torch.remainder),
    Op.AND: _kleene(False, torch.bitwise_and),
    Op.OR: _kleene(True, torch.bitwise_or),
    Op.WHERE: _where,
    Op.CAST: _cast,
    Op.SUM: _reduce(lambda body, dim: body.sum(dim=dim, keepdim=True)),
    Op.MAX: _reduce(lambda body, dim: body.amax(dim=dim, keepdim=True)),
    Op.MIN: _reduce(lambda body, dim: body.amin(dim=dim, keepdim=True)),
    Op.CUSTOM: _custom,
}
"""Operations that also look at captures, axes or poison."""
