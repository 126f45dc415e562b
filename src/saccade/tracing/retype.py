"""A score program for another type of score.

A program traced for float32 scores serves float64 inputs too: operations that meet a value of the other type
are computed as torch would have promoted them. Numbers, and integers made floats, follow their partner; casts
that the user wrote stay.
"""

from __future__ import annotations

from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, const, make, number, rebuild, substitute, var, walk
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.program import Program
from saccade.ir.structure import ModKind, Structure

__all__ = ["retyped"]

_ONE_TYPE = frozenset({TypeRule.NUMERIC, TypeRule.FLOAT, TypeRule.COMPARE, TypeRule.CHOICE})


def retyped(program: Program, score_dtype: DType) -> Program:
    """`program` with its score and its result of type `score_dtype`; a mask program as it is."""
    structure = program.structure
    result, old = structure.root, structure.root.dtype
    if structure.kind is ModKind.MASK or old is score_dtype:
        return program
    if result.op is Op.CAST and result.attr is old:
        result = result.args[0]  # a result is converted to the score's type, whatever that is
    numbers = _Numbers(program)
    done: dict[Expr, Expr] = {}
    for node in walk(result):
        args = tuple(done[arg] for arg in node.args)
        if node.op is Op.VAR and node.attr in ("score", "cotangent") and node.dtype is old:
            done[node] = var(node.attr, score_dtype)
        elif node.op is Op.CUSTOM:
            done[node] = _custom(node, args, score_dtype if node.dtype is old else node.dtype, numbers)
        elif OPS[node.op].rule in _ONE_TYPE:
            done[node] = rebuild(node, _agreeing(node, args, numbers))
        else:
            done[node] = rebuild(node, args)
    root, types, values = numbers.compacted(numbers.coerced(done[result], score_dtype))
    rebuilt = Structure(ModKind.SCORE, root, structure.captures, types)
    return Program(rebuilt, program.captures, values, program.names)


class _Numbers:
    """The run-time numbers of the program being rebuilt: a number used in two types has two slots."""

    def __init__(self, program: Program) -> None:
        self.types = list(program.structure.numbers)
        self.values = list(program.numbers)
        self.slots: dict[tuple[int, DType], int] = {}

    def coerced(self, expr: Expr, dtype: DType) -> Expr:
        """A float or integer expression as `dtype`, at its source where that loses nothing."""
        if expr.dtype is dtype:
            return expr
        if expr.op is Op.CONST:
            return const(expr.attr, dtype)
        if expr.op is Op.CAST and not expr.args[0].dtype.is_float:
            return cast(expr.args[0], dtype)
        if expr.op is not Op.NUMBER:
            return cast(expr, dtype)
        slot = self.slots.get((expr.attr, dtype))
        if slot is None:
            slot = self.slots[expr.attr, dtype] = len(self.types)
            self.types.append(dtype)
            self.values.append(self.values[expr.attr])
        return number(slot, dtype)

    def compacted(self, root: Expr) -> tuple[Expr, tuple[DType, ...], tuple[int | float, ...]]:
        """The expression over the slots that it reads, with their types and values."""
        used = sorted({node.attr for node in walk(root) if node.op is Op.NUMBER})
        moved = {number(old, self.types[old]): number(new, self.types[old]) for new, old in enumerate(used)}
        types = tuple(self.types[slot] for slot in used)
        return substitute(root, moved), types, tuple(self.values[slot] for slot in used)


def _agreeing(node: Expr, args: tuple[Expr, ...], numbers: _Numbers) -> tuple[Expr, ...]:
    """Arguments of one type: that of the widest that is not free to follow."""
    first = 1 if OPS[node.op].rule is TypeRule.CHOICE else 0
    types = {arg.dtype for arg in args[first:]}
    if len(types) == 1:
        return args
    firm = {arg.dtype for arg in args[first:] if not _follows(arg)}
    target = DType.FLOAT64 if DType.FLOAT64 in (firm or types) else DType.FLOAT32
    return (*args[:first], *(numbers.coerced(arg, target) for arg in args[first:]))


def _follows(expr: Expr) -> bool:
    """Whether the expression takes the type of its partner: a number, or an integer made a float."""
    return expr.op in (Op.CONST, Op.NUMBER) or (expr.op is Op.CAST and not expr.args[0].dtype.is_float)


def _custom(node: Expr, args: tuple[Expr, ...], dtype: DType, numbers: _Numbers) -> Expr:
    """A CUSTOM node of type `dtype`, each gradient of the type of its input."""
    count = node.attr
    inputs = args[1 : 1 + count]
    gradients = (numbers.coerced(g, x.dtype) for x, g in zip(inputs, args[1 + count :], strict=True))
    return make(Op.CUSTOM, (numbers.coerced(args[0], dtype), *inputs, *gradients), count)
