"""Programs as short text that parses back, exactly.

    score(c0: f32[1], n0: f32) -> f32
    v0 = f32(kv_idx - q_idx)
    score + c0[h] * v0 * n0

A header names the captured tensors (stored type and rank), the run-time numbers and the result type; a line
names each subexpression that is used twice or would make a line too long; the last line is the result. Each
line is a Python expression: operators where Python has them, calls elsewhere, `f32(x)` for a cast. A literal
has the type i64, bool or the program's float type; any other is written `const(1.0, f64)`.

Because equal expressions are one object, how lines are cut is a matter of taste and not of meaning:
`parse(format(s)) == s`. The text is a structure's key in other processes. Parsing reads Python's syntax tree
and never evaluates anything.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, walk
from saccade.ir.ops import INDEX_VARIABLES, OPS, REDUCTIONS, Op
from saccade.ir.parse import parse_structure
from saccade.ir.structure import Structure
from saccade.ir.syntax import ATOM, COMPARE, INFIX, NUMBERED_NAME, POWER, PREFIX, RESERVED, UNARY, float_type

__all__ = ["capture_names", "format_expression", "format_structure", "parse_structure"]

# Beyond these an expression gets a line of its own: lines stay readable, and far below the nesting Python's
# parser allows.
_MAX_COLUMNS = 96
_MAX_DEPTH = 20


def format_structure(
    structure: Structure, numbers: Sequence[int | float] | None = None, names: Sequence[str] | None = None
) -> str:
    """Write a structure as text that `parse_structure` reads back to the same structure.

    Args:
        structure: What to write.
        numbers: Values of the run-time numbers, shown in the header; they are not part of the structure.
        names: What the user calls the captured tensors, used in place of ``c0``, ``c1``, ... where they can
            be.

    Returns:
        A header line, a line for each named subexpression and a line with the result.

    Example:
        >>> from saccade.ir.expr import load, make, var
        >>> from saccade.ir.structure import CaptureType, ModKind
        >>> ids = [load(0, [var(name)], DType.INT64) for name in ("q_idx", "kv_idx")]
        >>> structure = Structure(ModKind.MASK, make(Op.EQ, tuple(ids)), (CaptureType(DType.INT32, 1),))
        >>> print(format_structure(structure, names=["document"]))
        mask(document: i32[1]) -> bool
        document[q_idx] == document[kv_idx]
    """
    shown = capture_names(len(structure.captures), names or ())
    slots = [
        f"{name}: {capture.dtype.value}[{capture.rank}]"
        for name, capture in zip(shown, structure.captures, strict=True)
    ]
    for slot, dtype in enumerate(structure.numbers):
        value = f" = {numbers[slot]}" if numbers is not None and slot < len(numbers) else ""
        slots.append(f"n{slot}: {dtype.value}{value}")
    result = structure.root.dtype
    writer = _Writer(shown, float_type(result))
    return "\n".join(
        [f"{structure.kind.value}({', '.join(slots)}) -> {result.value}", *writer.lines(structure.root)]
    )


def format_expression(root: Expr, names: Sequence[str] = (), float_type: DType = DType.FLOAT32) -> str:
    """Write an expression that stands alone, for messages and derivatives.

    Args:
        root: The expression.
        names: What the user calls the captured tensors.
        float_type: The type of float literals written without one.

    Returns:
        Lines as in `format_structure`, without the header.
    """
    slots = 1 + max((node.attr for node in walk(root) if node.op is Op.LOAD), default=-1)
    return "\n".join(_Writer(capture_names(slots, names), float_type).lines(root))


def capture_names(slots: int, names: Sequence[str]) -> list[str]:
    """Return what the text calls the captured tensors.

    Args:
        slots: How many there are.
        names: What the user calls them, of the first ones at least.

    Returns:
        An identifier for each slot: the user's name made fit, or ``c`` and the slot.

    Example:
        >>> capture_names(4, ["document.ids", "if", "document.ids"])
        ['document_ids', 'c1', 'c2', 'c3']
    """
    shown: list[str] = []
    for slot in range(slots):
        name = re.sub(r"\W+", "_", names[slot], flags=re.ASCII).strip("_") if slot < len(names) else ""
        unfit = (
            not name.isidentifier()
            or keyword.iskeyword(name)
            or name in RESERVED
            or NUMBERED_NAME.fullmatch(name)
        )
        shown.append(f"c{slot}" if unfit or name in shown else name)
    return shown


@dataclass(frozen=True)
class _Piece:
    """An expression written out, or the name of the line that holds it."""

    text: str
    level: int  # precedence
    depth: int


class _Writer:
    """Writes one expression as lines, leaves first."""

    def __init__(self, captures: Sequence[str], float_type: DType) -> None:
        self._captures = captures
        self._float_type = float_type
        self._pieces: dict[Expr, _Piece] = {}

    def lines(self, root: Expr) -> list[str]:
        uses = Counter(arg for node in walk(root) for arg in node.args)
        lines: list[str] = []
        for node in walk(root):
            piece = self._piece(node)
            large = len(piece.text) > _MAX_COLUMNS or piece.depth > _MAX_DEPTH
            if node is not root and node.args and (large or uses[node] > 1):
                name = f"v{len(lines)}"
                lines.append(f"{name} = {piece.text}")
                piece = _Piece(name, ATOM, 0)
            self._pieces[node] = piece
        return [*lines, self._pieces[root].text]

    def _piece(self, node: Expr) -> _Piece:
        args = [self._pieces[arg] for arg in node.args]
        depth = 1 + max((arg.depth for arg in args), default=-1)
        if node.op in INFIX:
            symbol, level = INFIX[node.op]
            left, right = args
            # Python groups to the left, ** to the right, and chains comparisons, which must not happen here.
            tight_left = level in (COMPARE, POWER)
            tight_right = level != POWER
            # -1 ** x is -(1 ** x), yet x ** -1 needs no parentheses.
            right_text = (
                right.text if level == POWER and right.level >= UNARY else _wrap(right, level, tight_right)
            )
            return _Piece(f"{_wrap(left, level, tight_left)} {symbol} {right_text}", level, depth)
        if node.op in PREFIX and not (node.op is Op.NEG and node.args[0].op is Op.CONST):
            return _Piece(f"{PREFIX[node.op]}{_wrap(args[0], UNARY, tight=False)}", UNARY, depth)
        text = self._atom(node, [arg.text for arg in args])
        return _Piece(text, UNARY if text.startswith("-") else ATOM, depth)

    def _atom(self, node: Expr, args: list[str]) -> str:
        if node.op is Op.CONST:
            return self._literal(node)
        if node.op is Op.NEG and node.args[0].attr == 0.0 and node.args[0].dtype is self._float_type:
            return "-0.0"
        if node.op is Op.VAR:
            usual = DType.INT64 if node.attr in INDEX_VARIABLES else self._float_type
            return str(node.attr) if node.dtype is usual else f"var({node.attr}, {node.dtype.value})"
        if node.op is Op.NUMBER:
            return f"n{node.attr}"
        if node.op is Op.AXIS:
            return f"axis{node.attr}"
        if node.op is Op.LOAD:
            return f"{self._captures[node.attr]}[{', '.join(args) or '()'}]"
        if node.op is Op.CAST:
            return f"{node.attr.value}({args[0]})"
        if node.op in REDUCTIONS:
            return f"{OPS[node.op].text}(axis{node.attr[0]} < {node.attr[1]}, {args[0]})"
        return f"{OPS[node.op].text}({', '.join(args)})"

    def _literal(self, node: Expr) -> str:
        text = repr(node.attr)
        plain = not node.dtype.is_float or node.dtype is self._float_type
        return text if plain else f"const({text}, {node.dtype.value})"


def _wrap(piece: _Piece, level: int, tight: bool) -> str:
    """An operand's text, in parentheses if it binds less than its operator (`tight`: no more)."""
    loose = piece.level <= level if tight else piece.level < level
    return f"({piece.text})" if loose else piece.text
