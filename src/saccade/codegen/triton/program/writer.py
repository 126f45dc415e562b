"""The statements of a program: every node once, in the outermost place that knows what it reads.

A node that is used once and small stands inside the expression of its user; every other one is a
statement, `score_7 = ...`, named by its number. What reads nothing of the loop's variables stands before the
loop. The body of a reduction stands in a loop of its own, but for what does not read its axis. Programs may
be thousands of nodes deep, so nothing here recurses but reductions into their bodies.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

from saccade.codegen.triton.program.function_table import Calls
from saccade.codegen.triton.program.nodes import Nodes, outside
from saccade.codegen.triton.program.operations import OPERATIONS, Operation, is_approximate
from saccade.codegen.triton.program.place import Place
from saccade.codegen.triton.program.poison import Poison, either, poison_of
from saccade.codegen.triton.program.reads import Reads
from saccade.codegen.triton.program.terms import (
    BOOL,
    F32,
    F64,
    I32,
    I64,
    Level,
    Term,
    call,
    infix,
    literal,
    resized,
)
from saccade.ir.axes import free_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, axis_bit, make
from saccade.ir.ops import REDUCTIONS, Op

__all__ = ["Lines", "Scope", "Writer", "Written"]

_INLINE = 44  # characters of an expression that may stand inside another
_LONGEST_OFFSET = 40  # characters of an offset that may stand in its read
_UNROLLED = (
    16  # steps that the compiler writes out: a loop within would keep the loop over keys from pipelining
)


@final
@dataclass(frozen=True)
class Written:
    """A node as text.

    Attributes:
        value: Its value.
        poison: Where it has none; None where that cannot be, or is not asked for.
    """

    value: Term
    poison: Poison = None


@final
class Lines:
    """Lines of text at a depth of indentation."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.depth = 0

    def add(self, text: str) -> None:
        """Add a line."""
        self.texts.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indent what is added meanwhile, under a head."""
        self.add(head)
        self.depth += 1
        yield
        self.depth -= 1


@final
@dataclass(frozen=True)
class Scope:
    """Where nodes are written.

    Attributes:
        lines: Where statements go that read the axis of an open loop.
        written: What is at hand; grows.
        steps: How often what stands here runs, by the loops that are open.
    """

    lines: Lines
    written: MutableMapping[Expr, Written]
    steps: int = 1


@final
class Writer:
    """Writes a program's nodes.

    Args:
        nodes: The program.
        place: Where it is put.
        reads: Writes its reads.
        calls: Writes its calls.
        prefix: Of the names of its statements.
        checks: Whether poison is followed.

    Attributes:
        before: The statements before the loop.
        inside: The statements inside the loop.
        scope: The outermost scope.
    """

    def __init__(
        self, nodes: Nodes, place: Place, reads: Reads, calls: Calls, prefix: str, *, checks: bool
    ) -> None:
        self.before = Lines()
        self.inside = Lines()
        self.scope = Scope(self.inside, {})
        self._nodes = nodes
        self._place = place
        self._reads = reads
        self._calls = calls
        self._prefix = prefix
        self._checks = checks
        self._reciprocals: dict[Expr, Term] = {}
        # What is known before the loop and used inside it.
        self._handed_in = {
            arg
            for node in nodes.order
            if not self._is_steady(node)
            for arg in node.args
            if self._is_steady(arg)
        }

    def write(self, root: Expr, scope: Scope | None = None) -> Written:
        """Return a node as text, writing what it needs."""
        scope = scope or self.scope
        written = scope.written
        stack = [root]
        while stack:
            node = stack[-1]
            missing = []
            if node not in written:
                missing = [arg for arg in self._nodes.operands(node) if arg not in written]
                if not missing:
                    written[node] = self._placed(scope, node, self._made(scope, node))
            if missing:
                stack.extend(reversed(missing))
            else:
                stack.pop()
        return written[root]

    def write_named(self, root: Expr, scope: Scope | None = None) -> Written:
        """Return a node as names or literals, which may stand anywhere and any number of times."""
        scope = scope or self.scope
        made = self.write(root, scope)
        if made.value.known is None:
            made = replace(made, value=self.name(scope, root, "", made.value))
            scope.written[root] = made
        return made

    def name(self, scope: Scope, node: Expr, suffix: str, term: Term) -> Term:
        """Return a term by a name, in a statement of its own unless it is one already."""
        if term.text.isidentifier() and term.known is None:
            return term
        name = f"{self._prefix}{self._nodes.numbers[node]}{suffix}"
        self._lines_of(scope, node).add(f"{name} = {term.typed.text}")
        return Term(name, term.type)

    def loops(self, scope: Scope, axes: Sequence[tuple[int, int]], lines: Lines) -> tuple[Scope, list[str]]:
        """Return the scope inside loops over axes, and the heads of the loops; their operands are written."""
        inner = Scope(lines, ChainMap({}, scope.written), scope.steps)
        heads = []
        for k, extent in axes:
            inner = replace(inner, steps=inner.steps * extent)
            steps = "tl.static_range" if inner.steps <= _UNROLLED else "range"
            heads.append(f"for {self._prefix}step{k} in {steps}({extent}):")
            inner.written[axis(k)] = Written(Term(f"{self._prefix}axis{k}", self._axis_type(k)))
        return inner, heads

    def axis_line(self, k: int) -> str:
        """Return the statement that gives the axis of a loop its type, which a step need not have."""
        return f"{self._prefix}axis{k} = tl.cast({self._prefix}step{k}, {self._axis_type(k)})"

    def write_outside(self, bodies: Sequence[Expr], axes: int, scope: Scope | None = None) -> None:
        """Write, as names, what the bodies of loops need from outside them."""
        for node in outside(bodies, axes):
            self.write_named(node, scope)

    def _axis_type(self, k: int) -> str:
        return self._nodes.type(axis(k)) if axis(k) in self._nodes.numbers else I32

    def _is_steady(self, node: Expr) -> bool:
        return not self._place.is_inside(node)

    def _lines_of(self, scope: Scope, node: Expr) -> Lines:
        if free_axes(node):
            return scope.lines
        return self.before if self._is_steady(node) else self.inside

    def _placed(self, scope: Scope, node: Expr, made: Written) -> Written:
        """A node as its users take it up: inside their expressions, or by the name of a statement."""
        value, poison = made.value, made.poison
        handed_in = node in self._handed_in and not free_axes(node)
        small = self._nodes.uses[node] <= 1 and len(value.text) <= _INLINE
        if value.known is None and (handed_in or not small or poison is not None):
            value = self.name(scope, node, "", value)
        if poison is not None:
            poison = self.name(scope, node, "_poison", poison)
        return Written(value, poison)

    def _made(self, scope: Scope, node: Expr) -> Written:
        if node.op in _LEAVES:
            return Written(_LEAVES[node.op](self, node))
        if node.op in REDUCTIONS:
            return self._reduced(scope, node)
        if node.op is Op.LOAD:
            return self._loaded(scope, node)
        known = [scope.written[arg] for arg in node.args]
        values = self._arguments(node, [arg.value for arg in known])
        type_ = self._nodes.computed_type(node) if node.dtype is DType.INT64 else self._nodes.type(node)
        divides = node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64
        counts = divides and self._nodes.is_nonnegative(node.args[0])
        if self._has_steady_divisor(node):
            value = infix("*", Level.PRODUCT, values[0], self._reciprocal(scope, node.args[1], values[1]))
        else:
            value = OPERATIONS[node.op](Operation(node, type_, self._calls, counts), values)
        if node.dtype is DType.INT64:
            value = resized(value, self._nodes.type(node))
        elif (
            node.dtype is DType.BOOL and values[0].type in (F32, F64) and not any(self._place.shape_of(node))
        ):
            # The interpreter takes a comparison for one of its arguments' type where it spreads a scalar.
            value = Term(f"(tl.where({value.text}, 1, 0) != 0)", BOOL)
        poison = poison_of(node, [arg.value for arg in known], [arg.poison for arg in known])
        if self._checks and divides and not self._nodes.is_proven(node):
            zero = infix("==", Level.COMPARE, values[1].typed, literal(0, values[1].type), BOOL)
            poison = either((poison, zero))
        return Written(value, poison)

    def _has_steady_divisor(self, node: Expr) -> bool:
        """Whether a node is a quotient of scores by what one reciprocal, before the loop, does for."""
        if node.op is not Op.DIV or not is_approximate(node):
            return False
        divisor = node.args[1]
        return divisor.op is not Op.CONST and self._is_steady(divisor) and not free_axes(divisor)

    def _reciprocal(self, scope: Scope, divisor: Expr, value: Term) -> Term:
        """The name of 1 over what is known before the loop, written once."""
        if divisor not in self._reciprocals:
            made = call("tl.div_rn", F32, literal(1.0, F32), value)
            self._reciprocals[divisor] = self.name(scope, divisor, "_reciprocal", made)
        return self._reciprocals[divisor]

    def _arguments(self, node: Expr, values: Sequence[Term]) -> list[Term]:
        """The arguments of a node, integers in the type it is computed in."""
        type_ = self._nodes.computed_type(node)
        return [
            resized(value, type_) if arg.dtype is DType.INT64 else value
            for arg, value in zip(node.args, values, strict=True)
        ]

    def _loaded(self, scope: Scope, node: Expr) -> Written:
        asked = self._checks and not self._nodes.is_proven(node)
        known = [self.write_named(arg, scope) if asked else scope.written[arg] for arg in node.args]
        poison = either(arg.poison for arg in known)
        if asked:
            for dim, arg in enumerate(known):
                valid = self._reads.valid(node, dim, arg.value)
                if valid is not None:
                    poison = either((poison, Term(f"~({valid.text})", BOOL, Level.UNARY)))
        offset = self._reads.offset(node, [arg.value for arg in known])
        if offset is not None and len(offset.text) > _LONGEST_OFFSET:
            offset = self.name(scope, node, "_offset", offset)
        return Written(self._reads.load(node, offset), poison)

    def _reduced(self, scope: Scope, node: Expr) -> Written:
        (body,), (k, extent) = node.args, node.attr
        self.write_outside(node.args, axis_bit(k), scope)
        type_ = self._nodes.computed_type(node) if node.dtype is DType.INT64 else self._nodes.type(node)
        lines = self._lines_of(scope, node)
        name = f"{self._prefix}{self._nodes.numbers[node]}"
        total, flag = Term(name, type_), Term(f"{name}_poison", BOOL)
        sizes = self._place.sizes(self._place.shape_of(node))
        fallible = self._checks and self._nodes.is_fallible(body)
        lines.add(f"{name} = {_neutral(node.op, type_, sizes)}")
        if fallible:
            lines.add(f"{flag.text} = tl.full({sizes}, False, {BOOL})")
        inner, (head,) = self.loops(scope, [(k, extent)], lines)
        with lines.block(head):
            lines.add(self.axis_line(k))
            element = self.write(body, inner)
            value = resized(element.value, type_) if node.dtype is DType.INT64 else element.value
            joined = Operation(make(_JOIN[node.op], (body, body)), type_, self._calls)
            lines.add(f"{name} = {OPERATIONS[joined.node.op](joined, [total, value]).text}")
            if element.poison is not None:
                lines.add(f"{flag.text} = {flag.text} | {element.poison.at(Level.XOR)}")
        if node.dtype is DType.INT64:
            total = resized(total, self._nodes.type(node))
        return Written(total, flag if fallible else None)

    def _variable(self, node: Expr) -> Term:
        name = Term(
            self._place.names[node.attr], I32 if node.dtype is DType.INT64 else self._nodes.type(node)
        )
        return resized(name, self._nodes.type(node)) if node.dtype is DType.INT64 else name


def _neutral(op: Op, type_: str, sizes: str) -> str:
    """What joins with x to x, spread over a shape."""
    if type_ in (I32, I64):
        most = 2 ** (31 if type_ == I32 else 63) - 1
        value = str({Op.SUM: 0, Op.MAX: -most - 1, Op.MIN: most}[op])
    else:
        value = {Op.SUM: "0.0", Op.MAX: 'float("-inf")', Op.MIN: 'float("inf")'}[op]
    full = f"tl.full({sizes}, {value}, {type_})"
    # So that a sum of negative zeros is one.
    return f"{full} * -1.0" if op is Op.SUM and type_ not in (I32, I64) else full


_JOIN = {Op.SUM: Op.ADD, Op.MAX: Op.MAXIMUM, Op.MIN: Op.MINIMUM}

_LEAVES: dict[Op, Callable[[Writer, Expr], Term]] = {
    Op.VAR: Writer._variable,
    Op.CONST: lambda writer, node: literal(node.attr, writer._nodes.type(node)),
    Op.NUMBER: lambda writer, node: writer._reads.number(node),
}
