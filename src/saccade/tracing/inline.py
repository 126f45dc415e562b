"""A program called inside a mod that is being traced: its expression takes the place of the call."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, load, number, rebuild, substitute, var, walk
from saccade.ir.ops import INDEX_VARIABLES, Op
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.tracing.operands import value_of
from saccade.tracing.recorder import Recorder
from saccade.tracing.value import Operand, Value, broadcast, broadcast_shapes

__all__ = ["ARGUMENTS", "inline"]

ARGUMENTS = {ModKind.MASK: INDEX_VARIABLES, ModKind.SCORE: ("score", *INDEX_VARIABLES)}
"""The parameters of each kind of mod, in order."""


def inline(program: Program, args: Sequence[Operand], model: Value) -> Value:
    """The value of `program` at `args`, in the trace that `model` belongs to."""
    names = ARGUMENTS[program.kind]
    if len(args) != len(names):
        raise TraceError(
            f"a {program.kind.value} program takes ({', '.join(names)}); got {len(args)} arguments"
        )
    recorder = model.recorder
    values = [value_of(arg, model) for arg in args]
    shape = broadcast_shapes(*(value.shape for value in values))
    root = _relocated(program, recorder)
    result = DType.BOOL if program.kind is ModKind.MASK else root.dtype
    replaced: dict[Expr, Expr] = {}
    for name, value in zip(names, values, strict=True):
        dtype = result if name == "score" else DType.INT64
        replaced[var(name, dtype)] = broadcast(cast(value.expr, dtype), value.shape, shape)
    return model.derive(substitute(root, replaced), result, shape)


def _relocated(program: Program, recorder: Recorder) -> Expr:
    """The program's expression over the slots and axes of another trace."""
    offset = len(recorder.numbers)
    recorder.numbers.extend(program.numbers)
    recorder.number_types.extend(program.structure.numbers)
    slots = [recorder.slot(capture) for capture in program.captures]  # type: ignore[arg-type]
    moved: dict[Expr, Expr] = {}
    root = recorder.with_own_axes(program.root)
    for node in walk(root):
        args = tuple(moved[arg] for arg in node.args)
        if node.op is Op.LOAD:
            moved[node] = load(slots[node.attr], args, node.dtype)
        elif node.op is Op.NUMBER:
            moved[node] = number(node.attr + offset, node.dtype)
        else:
            moved[node] = rebuild(node, args)
    return moved[root]
