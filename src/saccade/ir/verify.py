"""The rules every program obeys, checked.

`verify` is for programs that come from outside (text, a user's rule) and for tests between passes; a traced
program is right by construction. Each rule is stated once, in the table of its op's type rule or in the
function that says it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saccade.errors import ProgramError
from saccade.ir.dtype import DType
from saccade.ir.expr import READS, Expr, axis_bit, walk
from saccade.ir.ops import INDEX_VARIABLES, OPS, REDUCTIONS, VALUE_TYPES, VARIABLES, Op, TypeRule
from saccade.ir.structure import CaptureType, ModKind, Structure

NUMBER_TYPES = (DType.INT64, DType.FLOAT32, DType.FLOAT64)

_INDICES = frozenset(INDEX_VARIABLES)
_FREE_VARIABLES = {ModKind.MASK: _INDICES, ModKind.SCORE: _INDICES | {"score"}}
_CONST_CLASS: dict[DType, type[bool] | type[int] | type[float]] = {
    DType.BOOL: bool,
    DType.INT64: int,
    DType.FLOAT32: float,
    DType.FLOAT64: float,
}


def verify(structure: Structure) -> None:
    """Check a structure against every rule of the representation.

    Args:
        structure: What to check.

    Raises:
        ProgramError: At the first broken rule, naming the node and what it should be.

    Example:
        >>> from saccade.ir.expr import const
        >>> verify(Structure(ModKind.MASK, const(True, DType.BOOL)))
        >>> verify(Structure(ModKind.MASK, const(1, DType.INT64)))
        Traceback (most recent call last):
        saccade.errors.ProgramError: a mask's result is bool; got i64: compare it with something
    """
    root = structure.root
    if structure.kind is ModKind.MASK and root.dtype is not DType.BOOL:
        raise ProgramError(f"a mask's result is bool; got {root.dtype.value}: compare it with something")
    if structure.kind is ModKind.SCORE and not root.dtype.is_float:
        raise ProgramError(
            f"a score's result is f32 or f64; got {root.dtype.value}: cast it to the score's type"
        )
    verify_expression(root, structure.captures, structure.numbers, variables=_FREE_VARIABLES[structure.kind])
    for node in walk(root):
        if node.op is Op.VAR and node.attr == "score" and node.dtype is not root.dtype:
            raise ProgramError(
                f"a score mod returns the type of its score; got score={node.dtype.value}, "
                f"result={root.dtype.value}: cast the result"
            )


def verify_expression(
    root: Expr,
    captures: Sequence[CaptureType],
    numbers: Sequence[DType],
    *,
    variables: frozenset[str],
    axes: frozenset[int] = frozenset(),
) -> None:
    """Check an expression that stands alone, such as a derivative.

    Args:
        root: The expression.
        captures: The captured tensors its loads may name.
        numbers: The types of the run-time numbers it may name.
        variables: Names of `VARIABLES` it may read freely.
        axes: Reduction axes it may read freely.

    Raises:
        ProgramError: At the first broken rule.
    """
    for slot, capture in enumerate(captures):
        if capture.rank < 0:
            raise ProgramError(
                f"a capture has a rank of 0 or more; got capture {slot} with rank={capture.rank}"
            )
    for slot, dtype in enumerate(numbers):
        if dtype not in NUMBER_TYPES:
            raise ProgramError(f"a number is i64, f32 or f64; got number {slot} of type {dtype.value}")
    bound: dict[Expr, int] = {}  # bits of the axes that reductions below a node bind
    for node in walk(root):
        check_node(node, captures, numbers)
        bound[node] = _bound_axes(node, bound)
    _check_free(root, variables, axes)


def check_node(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    """Check one node, its arguments being right: arity, attribute and types.

    Raises:
        ProgramError: If a rule is broken.
    """
    info = OPS[node.op]
    if info.arity is not None and len(node.args) != info.arity:
        raise ProgramError(
            f"{info.text} takes {info.arity} arguments; got {len(node.args)}: {_signature(node)}"
        )
    if not _ACCEPTS[info.rule](node):
        raise ProgramError(f"{info.text} expects {info.rule.value}; got {_signature(node)}: insert a cast")
    check = _CHECKS.get(node.op)
    if check is not None:
        check(node, captures, numbers)


def _signature(node: Expr) -> str:
    types = ", ".join(arg.dtype.value for arg in node.args)
    return f"{OPS[node.op].text}({types}) -> {node.dtype.value}"


def _same(node: Expr, *allowed: DType) -> bool:
    return node.dtype in allowed and all(arg.dtype is node.dtype for arg in node.args)


_FLOAT = (DType.FLOAT32, DType.FLOAT64)
_ACCEPTS: dict[TypeRule, Callable[[Expr], bool]] = {
    TypeRule.GIVEN: lambda node: node.dtype in VALUE_TYPES,
    TypeRule.NUMERIC: lambda node: _same(node, DType.INT64, *_FLOAT),
    TypeRule.FLOAT: lambda node: _same(node, *_FLOAT),
    TypeRule.INTEGER: lambda node: _same(node, DType.INT64),
    TypeRule.LOGIC: lambda node: _same(node, DType.BOOL, DType.INT64),
    TypeRule.COMPARE: lambda node: node.args[0].dtype is node.args[1].dtype,
    TypeRule.CHOICE: lambda node: (
        node.args[0].dtype is DType.BOOL and node.args[1].dtype is node.args[2].dtype
    ),
    TypeRule.CAST: lambda node: True,
    TypeRule.FIRST: lambda node: bool(node.args),
}


def _check_var(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if node.attr not in VARIABLES:
        raise ProgramError(f"a variable is one of {', '.join(VARIABLES)}; got {node.attr!r}")
    if node.attr in INDEX_VARIABLES and node.dtype is not DType.INT64:
        raise ProgramError(
            f"{node.attr} is i64; got {node.dtype.value}: cast it where another type is needed"
        )
    if node.attr in ("score", "grad") and not node.dtype.is_float:
        raise ProgramError(f"{node.attr} is f32 or f64; got {node.dtype.value}")


def _check_const(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    expected = _CONST_CLASS[node.dtype]
    if type(node.attr) is not expected:
        raise ProgramError(
            f"a {node.dtype.value} constant is a Python {expected.__name__}; got {node.attr!r}: use const()"
        )
    if node.dtype is DType.INT64:
        low, high = DType.INT64.int_range
        if not low <= node.attr <= high:
            raise ProgramError(f"an i64 constant lies in [-2**63, 2**63 - 1]; got {node.attr}")


def _check_number(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if not (_is_count(node.attr) and node.attr < len(numbers)):
        raise ProgramError(
            f"a number's slot lies in 0..{len(numbers) - 1}; got slot={node.attr!r}: declare the number"
        )
    if node.dtype is not numbers[node.attr]:
        raise ProgramError(
            f"number {node.attr} is {numbers[node.attr].value}; got a use as {node.dtype.value}: cast it"
        )


def _check_axis(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if not _is_count(node.attr):
        raise ProgramError(f"an axis is named by an int of 0 or more; got {node.attr!r}")
    if node.dtype is not DType.INT64:
        raise ProgramError(f"an axis is i64; got {node.dtype.value}")


def _check_load(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if not (_is_count(node.attr) and node.attr < len(captures)):
        raise ProgramError(
            f"a load's slot lies in 0..{len(captures) - 1}; got slot={node.attr!r}: declare the capture"
        )
    capture = captures[node.attr]
    if len(node.args) != capture.rank:
        raise ProgramError(
            f"capture {node.attr} takes {capture.rank} indices; got {len(node.args)}: index every dimension"
        )
    if any(index.dtype is not DType.INT64 for index in node.args):
        raise ProgramError(f"an index is i64; got {_signature(node)}: cast it")
    if node.dtype is not capture.dtype.value_type:
        raise ProgramError(
            f"a load from {capture.dtype.value} gives {capture.dtype.value_type.value}; "
            f"got {node.dtype.value}: cast the loaded value"
        )


def _check_cast(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if not isinstance(node.attr, DType):
        raise ProgramError(f"a cast's target is a DType; got {node.attr!r}")


def _check_reduction(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    name = OPS[node.op].text
    if not (isinstance(node.attr, tuple) and len(node.attr) == 2 and all(map(_is_count, node.attr))):
        raise ProgramError(f"{name} carries (axis, extent), two ints of 0 or more; got {node.attr!r}")
    if node.op is not Op.SUM and node.attr[1] == 0:
        raise ProgramError(f"{name} needs an extent of 1 or more; got extent=0: it has no value over nothing")


def _check_custom(node: Expr, captures: Sequence[CaptureType], numbers: Sequence[DType]) -> None:
    if not _is_count(node.attr) or len(node.args) != 1 + 2 * node.attr:
        raise ProgramError(
            f"custom takes a value, n inputs and n gradients; got n={node.attr!r}, {len(node.args)} arguments"
        )
    gradients = node.args[1 + node.attr :]
    for given, gradient in zip(node.args[1 : 1 + node.attr], gradients, strict=True):
        if given.dtype.is_float and gradient.dtype is not given.dtype:
            raise ProgramError(
                f"a custom gradient has the type of its input; got input={given.dtype.value}, "
                f"gradient={gradient.dtype.value}: cast the gradient"
            )
    for inner in _free_nodes(gradients):
        if inner.op is Op.VAR and inner.attr == "cotangent" and inner.dtype is not node.dtype:
            raise ProgramError(
                f"cotangent has the type of its custom's value; got cotangent={inner.dtype.value}, "
                f"value={node.dtype.value}"
            )


_CHECKS: dict[Op, Callable[[Expr, Sequence[CaptureType], Sequence[DType]], None]] = {
    Op.VAR: _check_var,
    Op.CONST: _check_const,
    Op.NUMBER: _check_number,
    Op.AXIS: _check_axis,
    Op.LOAD: _check_load,
    Op.CAST: _check_cast,
    Op.SUM: _check_reduction,
    Op.MAX: _check_reduction,
    Op.MIN: _check_reduction,
    Op.CUSTOM: _check_custom,
}


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _free_nodes(roots: Sequence[Expr]) -> list[Expr]:
    """The nodes below `roots`, without what the gradients of further CUSTOM nodes bind for themselves."""
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.args[: 1 + node.attr] if node.op is Op.CUSTOM else node.args)
    return list(seen)


def _bound_axes(node: Expr, bound: dict[Expr, int]) -> int:
    below = 0
    for arg in node.args:
        below |= bound[arg]
    if node.op not in REDUCTIONS:
        return below
    bit = axis_bit(node.attr[0])
    if below & bit:
        raise ProgramError(
            f"an axis is bound once on every path; got axis{node.attr[0]} bound again inside: rename one"
        )
    return below | bit


def _check_free(root: Expr, variables: frozenset[str], axes: frozenset[int]) -> None:
    for name, bit in READS.items():
        if root.reads & bit and name not in variables:
            remedy = (
                "only a CUSTOM node's gradients bind it"
                if name == "cotangent"
                else "use what the mod is given"
            )
            raise ProgramError(
                f"the variables here are {', '.join(sorted(variables))}; got a use of {name}: {remedy}"
            )
    free = root.reads >> len(READS)
    for axis in axes:
        free &= ~(1 << axis)
    if free:
        raise ProgramError(
            f"every axis is bound by a reduction; got axis{free.bit_length() - 1} free: reduce over it"
        )
