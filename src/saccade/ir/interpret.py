"""The reference interpreter: programs on numpy arrays, one obvious step a node, with the poison rule.

`evaluate` never raises on poison: it returns the value and where there is none, with the node to blame.
`interpret` is a mod's call: it raises what the user must see. Variables broadcast together. Reductions add a
leading dimension, a bounded part of it at a time, and join elements in order, so that a result does not
depend on how many pairs are evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from saccade.errors import DivisionByZeroError, IndexOutOfRangeError, ProgramError
from saccade.ir.dtype import DType
from saccade.ir.elementwise import ELEMENTWISE, NUMPY_TYPE, REDUCE, Array, convert
from saccade.ir.expr import Expr, axis_bit, walk
from saccade.ir.ops import INDEX_VARIABLES, REDUCTIONS, Op
from saccade.ir.structure import ModKind, Structure
from saccade.ir.text import format_expression

# Elements of the variables' broadcast shape times the part of an axis evaluated at once.
_ELEMENTS_AT_ONCE = 1 << 20


@final
@dataclass(frozen=True, eq=False)
class Evaluated:
    """The values of an expression, and where it has none.

    Attributes:
        value: array of the expression's type, broadcastable to the variables' common shape; arbitrary where
            poisoned.
        poison: None if every element has a value; else int32, broadcastable likewise: 0, or 1 + the index in
            `sites` of the node to blame.
        sites: The LOAD, FLOOR_DIV and REMAINDER nodes that gave poison.
    """

    value: Array
    poison: Array | None
    sites: tuple[Expr, ...]

    @property
    def is_poisoned(self) -> bool:
        """Whether any element has no value."""
        return self.poison is not None and bool(self.poison.any())


def evaluate(
    root: Expr,
    variables: Mapping[str, Array],
    captures: Sequence[Any] = (),
    numbers: Sequence[int | float] = (),
    *,
    axes: Mapping[int, Array] | None = None,
) -> Evaluated:
    """Evaluate an expression on arrays.

    Args:
        root: The expression. Of a CUSTOM node only the value is evaluated.
        variables: An array for each variable it reads, by name; they broadcast together.
        captures: The captured arrays by slot (bfloat16 ones as float32); torch tensors are read through their
            own methods.
        numbers: The run-time numbers by slot.
        axes: Arrays for reduction axes that are free in `root`.

    Returns:
        Values and poison. Poison never raises.

    Raises:
        ProgramError: If the expression reads a variable, axis or slot that is not given.

    Example:
        >>> from saccade.ir.expr import make, var
        >>> causal = make(Op.LE, (var("kv_idx"), var("q_idx")))
        >>> evaluate(causal, {"q_idx": np.arange(2)[:, None], "kv_idx": np.arange(2)}).value
        array([[ True, False],
               [ True,  True]])
    """
    given = {name: np.asarray(array) for name, array in variables.items()}
    bound = {k: np.asarray(array) for k, array in (axes or {}).items()}
    shape = np.broadcast_shapes(*(array.shape for array in (*given.values(), *bound.values())))
    machine = _Machine(given, [host_array(capture) for capture in captures], numbers, shape)
    results: dict[Expr, _Result] = {}
    for node in walk(root) if bound else ():
        if node.op is Op.AXIS and node.attr in bound:
            results[node] = (bound[node.attr].astype(np.int64), None)
    with np.errstate(all="ignore"):
        value, poison = machine.run(root, results)
    return Evaluated(value, poison, tuple(machine.sites))


def interpret(
    structure: Structure,
    args: Sequence[Any],
    captures: Sequence[Any] = (),
    numbers: Sequence[int | float] = (),
    names: Sequence[str] = (),
) -> Array:
    r"""Call a program as the mod it came from.

    Args:
        structure: The program's structure.
        args: ``b, h, q_idx, kv_idx``, with ``score`` before them for a score mod: numbers or arrays that
            broadcast together.
        captures: The captured arrays by slot.
        numbers: The run-time numbers by slot.
        names: What the user calls the captures.

    Returns:
        bool (mask) or the score's type, of the arguments' common shape.

    Raises:
        ProgramError: If the number of arguments is not the mod's.
        IndexOutOfRangeError: If some element depends on an index out of range.
        DivisionByZeroError: If some element depends on an integer division by zero.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> same = parse_structure("mask(c0: i64[1]) -> bool\nc0[q_idx] == c0[kv_idx]")
        >>> interpret(same, (0, 0, np.arange(3), 1), [np.array([7, 7, 8])])
        array([ True,  True, False])
    """
    parameters = INDEX_VARIABLES if structure.kind is ModKind.MASK else ("score", *INDEX_VARIABLES)
    if len(args) != len(parameters):
        raise ProgramError(
            f"a {structure.kind.value} program takes ({', '.join(parameters)}); "
            f"got {len(args)} arguments: pass each of them"
        )
    variables = {name: host_array(arg) for name, arg in zip(parameters, args, strict=True)}
    result = evaluate(structure.root, variables, captures, numbers)
    shape = np.broadcast_shapes(*(array.shape for array in variables.values()))
    if result.is_poisoned:
        assert result.poison is not None
        poison = np.broadcast_to(result.poison, shape)
        first = np.unravel_index(int(np.flatnonzero(poison)[0]), shape)
        pair = {name: np.broadcast_to(array, shape)[first][()] for name, array in variables.items()}
        raise poison_error(
            structure.root, result.sites[int(poison[first]) - 1], pair, captures, numbers, names
        )
    return np.array(np.broadcast_to(result.value, shape))


def poison_error(
    root: Expr,
    site: Expr,
    pair: Mapping[str, Any],
    captures: Sequence[Any],
    numbers: Sequence[int | float],
    names: Sequence[str] = (),
) -> IndexOutOfRangeError | DivisionByZeroError:
    """Make the error for a pair whose outcome has no value.

    Args:
        root: The program's result.
        site: The node to blame, from `Evaluated.sites`.
        pair: The value of each variable at the pair.
        captures: The captured arrays by slot.
        numbers: The run-time numbers by slot.
        names: What the user calls the captures.

    Returns:
        The error, to be raised by the caller, naming expression, tensor, index and pair.
    """
    extents: dict[int, int] = {}
    for node in walk(root):
        if node.op in REDUCTIONS and site.reads & axis_bit(node.attr[0]):
            extents[node.attr[0]] = max(node.attr[1], extents.get(node.attr[0], 0))
    axes = {k: np.arange(n) for k, n in extents.items()}
    steps = np.meshgrid(*axes.values(), indexing="ij")
    free = dict(zip(axes, steps, strict=True))
    blamed = evaluate(site, pair, captures, numbers, axes=free)
    shape = np.broadcast_shapes(*(step.shape for step in steps))
    spots = np.flatnonzero(np.broadcast_to(0 if blamed.poison is None else blamed.poison, shape))
    where = np.unravel_index(int(spots[0]) if len(spots) else 0, shape)
    at = ", ".join(f"{name}={pair[name]}" for name in ("b", "h", "q_idx", "kv_idx") if name in pair)
    text = format_expression(site, names).replace("\n", "; ")
    if site.op is not Op.LOAD:
        return DivisionByZeroError(
            f"expected a divisor other than 0, got 0 in {text} at ({at}); guard it with torch.where or clamp"
        )
    name = names[site.attr] if site.attr < len(names) else f"capture {site.attr}"
    sizes = tuple(captures[site.attr].shape)
    indices = [
        int(np.broadcast_to(evaluate(index, pair, captures, numbers, axes=free).value, shape)[where])
        for index in site.args
    ]
    dim = next((d for d, (i, n) in enumerate(zip(indices, sizes, strict=True)) if not -n <= i < n), 0)
    return IndexOutOfRangeError(
        f"{name} has {sizes[dim]} entries in dimension {dim}, got index {indices[dim]} in {text} at ({at}); "
        "guard the index with torch.where or clamp, or give a longer tensor"
    )


def host_array(array: Any) -> Array:
    """Return a captured array as numpy sees it, without its gradient.

    Args:
        array: A numpy array, a number, or a torch tensor on any device. A tensor is asked by its methods;
            torch is not imported.

    Returns:
        The values. A bfloat16 tensor comes as float32 (numpy has no bfloat16), every other as it is stored.
        What lies in host memory already is not copied.

    Example:
        >>> host_array(np.arange(3))
        array([0, 1, 2])
    """
    detach = getattr(array, "detach", None)
    if detach is None:
        return np.asarray(array)
    tensor = detach().cpu()
    return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


_Result = tuple[Array, Array | None]  # value, poison


def _first_poison(poisons: Sequence[Array | None]) -> Array | None:
    """Poison of an op that needs all its arguments: the first argument's that has one."""
    found: Array | None = None
    for poison in poisons:
        if poison is not None:
            found = poison if found is None else np.where(found != 0, found, poison)
    return found


class _Machine:
    """Evaluates nodes in order; `sites` collects those that gave poison."""

    def __init__(
        self,
        variables: Mapping[str, Array],
        captures: Sequence[Array],
        numbers: Sequence[int | float],
        shape: tuple[int, ...],
    ) -> None:
        self.sites: list[Expr] = []
        self._variables = variables
        self._captures = captures
        self._numbers = numbers
        self._shape = shape  # of all variables broadcast together

    def run(self, root: Expr, results: dict[Expr, _Result], parts: tuple[int, ...] = ()) -> _Result:
        """Fill `results` up to `root`; `parts` says how many steps of each open reduction go at once."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node in results:
                stack.pop()
                continue
            needed = [arg for arg in _needs(node) if arg not in results]
            if needed:
                stack.extend(reversed(needed))
            else:
                results[node] = self._apply(node, results, parts)
                stack.pop()
        return results[root]

    def _apply(self, node: Expr, results: dict[Expr, _Result], parts: tuple[int, ...]) -> _Result:
        if node.op in REDUCTIONS:
            return self._reduce(node, results, parts)
        if not node.args and node.op is not Op.LOAD:
            return self._leaf(node), None
        args = [results[arg] for arg in _needs(node)]
        values = [value for value, _ in args]
        poisons = [poison for _, poison in args]
        if node.op is Op.CUSTOM:
            return args[0]
        if node.op is Op.LOAD:
            return self._load(node, values, _first_poison(poisons))
        if node.op is Op.CAST:
            return convert(values[0], node.attr), poisons[0]
        value = np.asarray(ELEMENTWISE[node.op](*values)).astype(NUMPY_TYPE[node.dtype], copy=False)
        if node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64:
            return value, self._blame(node, values[1] == 0, _first_poison(poisons))
        if all(poison is None for poison in poisons):
            return value, None
        return value, _poison_of(node, values, poisons)

    def _leaf(self, node: Expr) -> Array:
        kind = NUMPY_TYPE[node.dtype]
        if node.op is Op.CONST:
            return np.asarray(node.attr, kind)
        if node.op is Op.NUMBER:
            if node.attr >= len(self._numbers):
                raise ProgramError(
                    f"expected a value for number {node.attr}; got {len(self._numbers)} numbers: pass all"
                )
            return np.asarray(self._numbers[node.attr], kind)
        name = node.attr if node.op is Op.VAR else f"axis{node.attr}"
        if name not in self._variables:
            raise ProgramError(
                f"the expression reads {name}; got {', '.join(self._variables) or 'nothing'}: pass {name} too"
            )
        return self._variables[name].astype(kind, copy=False)

    def _load(self, node: Expr, indices: list[Array], poison: Array | None) -> _Result:
        if node.attr >= len(self._captures):
            raise ProgramError(
                f"expected capture {node.attr}; got {len(self._captures)} captures: pass them all"
            )
        capture = self._captures[node.attr]
        kind = NUMPY_TYPE[node.dtype]
        outside = np.zeros((), np.bool_)
        wrapped = []
        for index, size in zip(indices, capture.shape, strict=True):
            outside = outside | (index < -size) | (index >= size)
            wrapped.append(np.where(index < 0, index + size, index))
        if outside.size and not outside.any():  # without elements an index may still be outside
            return np.asarray(capture[tuple(wrapped)]).astype(kind, copy=False), poison
        if capture.size == 0:
            value = np.zeros(outside.shape, kind)
        else:
            value = np.asarray(capture[tuple(np.where(outside, 0, index) for index in wrapped)]).astype(
                kind, copy=False
            )
        return value, self._blame(node, outside, poison)

    def _blame(self, node: Expr, faulty: Array, poison: Array | None) -> Array | None:
        """Add poison from `node` where `faulty`, unless an argument is to blame already."""
        if not faulty.any():
            return poison
        if node not in self.sites:
            self.sites.append(node)
        own = np.where(faulty, np.int32(self.sites.index(node) + 1), np.int32(0))
        return _first_poison([poison, own])

    def _reduce(self, node: Expr, results: dict[Expr, _Result], parts: tuple[int, ...]) -> _Result:
        k, extent = node.attr
        body = node.args[0]
        axis = next((inner for inner in walk(body) if inner.op is Op.AXIS and inner.attr == k), None)
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, math.prod(self._shape + parts)))
        total: Array | None = None
        poison: Array | None = None
        for start in range(0, extent, at_once):
            count = min(at_once, extent - start)
            lead = (count,) + (1,) * (len(self._shape) + len(parts))
            inner = {arg: results[arg] for arg in _needs(node)}
            if axis is not None:
                inner[axis] = np.arange(start, start + count, dtype=np.int64).reshape(lead), None
            value, fault = self.run(body, inner, (*parts, count))
            for element in np.broadcast_to(value, np.broadcast_shapes(value.shape, lead)):
                total = element if total is None else REDUCE[node.op](total, element)
            if fault is not None:
                poison = _first_poison(
                    [poison, *np.broadcast_to(fault, np.broadcast_shapes(fault.shape, lead))]
                )
        return np.zeros((), NUMPY_TYPE[node.dtype]) if total is None else np.asarray(total), poison


def _needs(node: Expr) -> Sequence[Expr]:
    """What must be evaluated before `node`, in the scope `node` is in."""
    if node.op is Op.CUSTOM:
        return node.args[:1]
    if node.op not in REDUCTIONS:
        return node.args
    bit = axis_bit(node.attr[0])
    frontier: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = [node.args[0]]
    while stack:
        inner = stack.pop()
        if inner in seen:
            continue
        seen.add(inner)
        if not inner.reads & bit:
            frontier[inner] = None
        else:
            stack.extend(_needs(inner))
    return list(frontier)


def _poison_of(node: Expr, values: Sequence[Array], poisons: Sequence[Array | None]) -> Array | None:
    """Poison of an op from that of its arguments, by Kleene's rule where it applies."""
    known = [np.zeros((), np.int32) if poison is None else poison for poison in poisons]
    if node.op is Op.WHERE:
        chosen = np.where(values[0], known[1], known[2])
        return np.where(known[0] != 0, known[0], chosen)
    spread = _first_poison(poisons)
    if node.op not in (Op.AND, Op.OR) or node.dtype is not DType.BOOL:
        return spread
    decisive = node.op is Op.OR  # True decides an OR, False an AND
    settled = np.zeros((), np.bool_)
    for value, poison in zip(values, known, strict=True):
        settled = settled | ((poison == 0) & (value == decisive))
    return np.asarray(np.where(settled, np.int32(0), spread))
