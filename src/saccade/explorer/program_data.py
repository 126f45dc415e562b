"""The programs of a page: their nodes as plain data, in an order in which they can be evaluated.

Owns the form in which a program travels to the page, and the text that stands for one of its nodes. What a
node means is told by its op's name alone; `program.js` knows the rest. Invariant: a node's arguments have
smaller numbers than the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

from saccade.explorer.captured_data import CapturedData
from saccade.explorer.exactness import evaluated, evaluated_args, is_exact
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, substitute, walk
from saccade.ir.ops import OPS, REDUCTIONS, Op
from saccade.ir.program import Program
from saccade.ir.rewrite import simplify
from saccade.ir.text import capture_names, format_expression

__all__ = ["ProgramData", "node_text"]

_MOST_NODES_SHOWN = 48
_MOST_COLUMNS = 160
_LARGEST = 2**53 - 1


@dataclass(frozen=True, eq=False)
class _Entry:
    program: Program
    places: Mapping[Expr, int]  # the number of each node


@final
class ProgramData:
    """Collects the programs of one page.

    Args:
        shape: Batches, heads, queries and keys of the mask, each at least 1.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.captured = CapturedData()
        self.entries: list[dict[str, object]] = []
        self._shape = shape
        self._added: list[_Entry] = []

    def add(self, program: Program) -> int:
        """Add a program, unless it is there, and return its number."""
        for number, entry in enumerate(self._added):
            if entry.program is program:
                return number
        slots, arrays = self.captured.add(program)
        nodes = evaluated(program.root)
        places = {node: place for place, node in enumerate(nodes)}
        self._added.append(_Entry(program, places))
        self.entries.append(
            {
                "kind": program.kind.value,
                "numbers": [_json_number(value) for value in program.numbers],
                "captures": slots,
                "names": capture_names(len(slots), program.names),
                "exact": is_exact(nodes, arrays, program.numbers, self._shape),
                "nodes": [_node_data(node, places, program) for node in nodes],
                "root": places[program.root],
            }
        )
        return len(self.entries) - 1

    def place(self, number: int, node: Expr) -> int:
        """Return the number of a node within a program."""
        return self._added[number].places[node]


def node_text(node: Expr, program: Program) -> str:
    """Write one node of a program for people: its numbers filled in, on one line.

    Args:
        node: The node.
        program: Whose node it is.

    Returns:
        Program text; of a large expression, its operation alone.

    Example:
        >>> from saccade.tracing import trace
        >>> near = trace(lambda b, h, q_idx, kv_idx: abs(q_idx - kv_idx) < 3)
        >>> node_text(near.root, near), node_text(near.root.args[0], near)
        ('abs(q_idx - kv_idx) < 3', 'abs(q_idx - kv_idx)')
    """
    if len(list(islice(walk(node), _MOST_NODES_SHOWN + 1))) <= _MOST_NODES_SHOWN:
        numbers = {
            one: const(program.numbers[one.attr], one.dtype) for one in walk(node) if one.op is Op.NUMBER
        }
        # A move by nothing does not show.
        shown = simplify(substitute(node, numbers))
        text = format_expression(shown, program.names).replace("\n", "; ")
        if len(text) <= _MOST_COLUMNS:
            return text
    return f"{OPS[node.op].text}(…)"


def _node_data(node: Expr, places: Mapping[Expr, int], program: Program) -> dict[str, object]:
    return {
        "op": OPS[node.op].text,
        "dtype": node.dtype.name.lower(),
        "args": [places[arg] for arg in evaluated_args(node)],
        "attr": _ATTRIBUTES.get(node.op, _plain)(node.attr),
        "text": node_text(node, program),
    }


def _json_number(value: bool | int | float) -> bool | int | float | str:
    """A number that JSON and a double hold, or its text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if -_LARGEST <= value <= _LARGEST else str(value)


def _plain(attr: Any) -> Any:
    return attr


def _type_name(attr: DType) -> str:
    return attr.name.lower()


_ATTRIBUTES: dict[Op, Callable[[Any], Any]] = {
    Op.CONST: _json_number,
    Op.CAST: _type_name,
    **dict.fromkeys(REDUCTIONS, list),
}
