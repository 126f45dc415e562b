"""Random well-typed programs, for every suite that says something about all of them.

`mask_structures()` and `score_structures()` draw a `Case`: a verified structure with arrays for its captures
and values for its numbers. Everything is small (captures of a few elements, pairs of a few positions), so
that indices are sometimes out of range and divisors sometimes zero: poison occurs, and Kleene's rule is met.
Examples shrink.

    @given(mask_structures())
    def test_something(case):
        variables = case.variables(batch=2, heads=2, q_len=5, kv_len=7)
        result = evaluate(case.structure.root, variables, case.captures, case.numbers)

What draws is a `Source`; the fuzzer has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st

from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.expr import Expr, axis, cast, const, load, make, number, var
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.text import format_structure
from saccade.ir.verify import verify

BOOL, INT64, FLOAT32, FLOAT64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64

_CAPTURE_TYPES = (DType.INT64, DType.INT32, BOOL, FLOAT32, FLOAT64, DType.FLOAT16)
_UNARY_FLOAT = tuple(op for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1)
# Without jumps or kinks, and tame over the values that programs meet here.
_SMOOTH_UNARY = (Op.SIN, Op.COS, Op.ATAN, Op.TANH, Op.SIGMOID, Op.ERF)


@dataclass(frozen=True)
class Case:
    """A program with its data."""

    structure: Structure
    captures: tuple[np.ndarray, ...]
    numbers: tuple[int | float, ...]

    def __repr__(self) -> str:
        captures = "".join(f"\n  c{slot} = {array.tolist()}" for slot, array in enumerate(self.captures))
        return f"{format_structure(self.structure, numbers=self.numbers)}{captures}"

    def variables(
        self, batch: int = 2, heads: int = 2, q_len: int = 5, kv_len: int = 7
    ) -> dict[str, np.ndarray]:
        """Arrays for every pair: int64, broadcasting to [batch, heads, q_len, kv_len]; a score that varies
        with them."""
        pairs = {
            "b": np.arange(batch).reshape(-1, 1, 1, 1),
            "h": np.arange(heads).reshape(-1, 1, 1),
            "q_idx": np.arange(q_len).reshape(-1, 1),
            "kv_idx": np.arange(kv_len),
        }
        if self.structure.kind is ModKind.SCORE:
            score = np.sin(
                1.0 + 3 * pairs["b"] + 1.7 * pairs["h"] + 0.37 * pairs["q_idx"] + 0.9 * pairs["kv_idx"]
            )
            pairs["score"] = score.astype(NUMPY_TYPE[self.structure.root.dtype])
        return pairs


@st.composite
def mask_structures(draw: Any, *, max_depth: int = 4, reductions: bool = True) -> Case:
    """Draw a mask program: BOOL of b, h, q_idx, kv_idx, captures and numbers."""
    return Drawer(_Hypothesis(draw), ModKind.MASK, BOOL, reductions=reductions).case(max_depth)


@st.composite
def score_structures(
    draw: Any,
    *,
    max_depth: int = 4,
    dtype: DType = FLOAT32,
    smooth: bool = False,
    customs: bool = True,
    reductions: bool = True,
) -> Case:
    """Draw a score program of `dtype`; a `smooth` one is differentiable in its score and its float
    captures."""
    source = _Hypothesis(draw)
    drawer = Drawer(source, ModKind.SCORE, dtype, smooth=smooth, customs=customs, reductions=reductions)
    return drawer.case(max_depth)


class Source(Protocol):
    """What chance is drawn from."""

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""

    def pick(self, options: Sequence[Any]) -> Any:
        """One of some options."""

    def integers(self, low: int, high: int, count: int) -> list[int]:
        """So many integers, both ends included."""


class _Hypothesis:
    """A source whose draws hypothesis shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def pick(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def integers(self, low: int, high: int, count: int) -> list[int]:
        return self._draw(st.lists(st.integers(low, high), min_size=count, max_size=count))


class Drawer:
    """Draws one program; holds the slots its leaves may name."""

    def __init__(
        self,
        source: Source,
        kind: ModKind,
        result: DType,
        *,
        smooth: bool = False,
        customs: bool = False,
        reductions: bool = True,
    ) -> None:
        self._int = source.integer
        self._pick = source.pick
        self._integers = source.integers
        self._kind = kind
        self._result = result
        self._smooth = smooth
        self._customs = customs
        self._reductions = reductions
        self._captures: list[np.ndarray] = []
        self._types: list[CaptureType] = []
        self._numbers: list[tuple[DType, int | float]] = []
        self._axes: list[int] = []
        self._next_axis = 0
        self._in_gradient = False

    def case(self, max_depth: int) -> Case:
        for _ in range(self._pick((0, 1, 2, 2, 3))):
            self._add_capture()
        for _ in range(self._int(0, 2)):
            dtype = self._pick((INT64, FLOAT32, FLOAT64))
            value = self._int(-2, 6) if dtype is INT64 else self._int(-4, 4) / 2
            self._numbers.append((dtype, value))
        root = self._value(self._result, max_depth)
        types = tuple(dtype for dtype, _ in self._numbers)
        structure = Structure(self._kind, root, tuple(self._types), types)
        verify(structure)
        return Case(structure, tuple(self._captures), tuple(value for _, value in self._numbers))

    def _add_capture(self) -> None:
        usual = self._result if self._result.is_float else INT64
        dtype = usual if self._int(0, 1) else self._pick(_CAPTURE_TYPES)
        shape = tuple(self._int(1, 7) for _ in range(self._int(0, 2)))
        count = int(np.prod(shape))
        values = np.array(self._integers(-4, 6, count))
        if dtype.is_float:
            values = values / 2
        self._types.append(CaptureType(dtype, len(shape)))
        self._captures.append(values.reshape(shape).astype(NUMPY_TYPE[dtype]))

    def _value(self, dtype: DType, depth: int) -> Expr:
        if depth <= 0:
            return self._leaf(dtype)
        if self._reductions and dtype is not BOOL and self._int(0, 7) == 7:
            return self._reduction(dtype, depth)
        if dtype is BOOL:
            return self._bool(depth)
        return self._integer(depth) if dtype is INT64 else self._float(dtype, depth)

    def _leaf(self, dtype: DType) -> Expr:
        slots = [slot for slot, kind in enumerate(self._types) if kind.dtype.value_type is dtype]
        if slots and self._int(0, 1):
            return self._load(self._pick(slots))
        named = [number(slot, kind) for slot, (kind, _) in enumerate(self._numbers) if kind is dtype]
        if named and self._int(0, 2) == 0:
            return self._pick(named)
        if dtype is BOOL:
            return const(self._pick((True, False)), BOOL)
        if dtype is INT64:
            variables = [var(name) for name in ("q_idx", "kv_idx", "q_idx", "kv_idx", "b", "h")]
            return self._pick([*variables, *map(axis, self._axes), const(self._pick((0, 1, -1, 2)), INT64)])
        if self._kind is ModKind.SCORE and dtype is self._result and self._int(0, 3):
            return var("cotangent", dtype) if self._in_gradient and self._int(0, 1) else var("score", dtype)
        if self._int(0, 2) == 0:
            return cast(self._leaf(INT64), dtype)
        values = (
            (0.5, 1.0, -1.0, 2.0)
            if self._smooth
            else (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, np.inf, -np.inf, np.nan)
        )
        return const(self._pick(values), dtype)

    def _load(self, slot: int) -> Expr:
        indices = []
        for size in self._captures[slot].shape:
            if self._axes and self._int(0, 1):
                index = axis(self._axes[-1])
            else:
                index = self._leaf(INT64) if self._int(0, 3) else self._integer(1)
            if self._int(0, 2):  # more often inside than not
                index = make(Op.REMAINDER, (index, const(size, INT64)))
            indices.append(index)
        return load(slot, indices, self._types[slot].dtype.value_type)

    def _reduction(self, dtype: DType, depth: int) -> Expr:
        op = Op.SUM if self._smooth else self._pick((Op.SUM, Op.MAX, Op.MIN))
        k = self._next_axis
        self._next_axis += 1
        self._axes.append(k)
        body = self._value(dtype, depth - 1)
        self._axes.pop()
        return make(op, (body,), (k, self._int(0 if op is Op.SUM else 1, 3)))

    def _bool(self, depth: int) -> Expr:
        form = self._int(0, 9)
        if form <= 4:
            dtype = INT64 if form <= 3 else self._pick((FLOAT32, FLOAT64, BOOL))
            op = self._pick((Op.LT, Op.LE, Op.EQ, Op.NE))
            return make(op, (self._value(dtype, depth - 1), self._value(dtype, depth - 1)))
        if form <= 7:
            op = self._pick((Op.AND, Op.OR, Op.AND, Op.OR, Op.XOR))
            return make(op, (self._value(BOOL, depth - 1), self._value(BOOL, depth - 1)))
        if form == 8:
            return make(Op.NOT, (self._value(BOOL, depth - 1),))
        return self._choice(BOOL, depth)

    def _choice(self, dtype: DType, depth: int) -> Expr:
        return make(
            Op.WHERE, (self._bool(depth - 1), self._value(dtype, depth - 1), self._value(dtype, depth - 1))
        )

    def _integer(self, depth: int) -> Expr:
        form = self._int(0, 9)
        if form <= 4:
            op = self._pick(
                (Op.ADD, Op.SUB, Op.ADD, Op.SUB, Op.MUL, Op.MINIMUM, Op.MAXIMUM, Op.AND, Op.OR, Op.XOR)
            )
            return make(op, (self._value(INT64, depth - 1), self._value(INT64, depth - 1)))
        if form <= 6:
            op = self._pick((Op.FLOOR_DIV, Op.REMAINDER))
            divisor = (
                const(self._pick((2, 3, -2, 1, 0)), INT64)
                if self._int(0, 3)
                else self._value(INT64, depth - 1)
            )
            return make(op, (self._value(INT64, depth - 1), divisor))
        if form == 7:
            op = self._pick((Op.NEG, Op.ABS, Op.NOT))
            return make(op, (self._value(INT64, depth - 1),))
        if form == 8:
            op = self._pick((Op.SHL, Op.SHR))
            return make(op, (self._value(INT64, depth - 1), const(self._pick((0, 1, 2, 63, 64, -1)), INT64)))
        if self._int(0, 1):
            return self._choice(INT64, depth)
        source = self._pick((BOOL, FLOAT32, INT64))
        return make(Op.CAST, (self._value(source, depth - 1),), self._pick((INT64, DType.INT8, DType.UINT8)))

    def _float(self, dtype: DType, depth: int) -> Expr:
        form = self._int(0, 9)
        if form <= 4:
            rough = (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MINIMUM, Op.MAXIMUM, Op.POW, Op.REMAINDER)
            op = self._pick((Op.ADD, Op.SUB, Op.MUL) if self._smooth else rough)
            return make(op, (self._value(dtype, depth - 1), self._value(dtype, depth - 1)))
        if form <= 6:
            unary = self._pick(_SMOOTH_UNARY if self._smooth else (*_UNARY_FLOAT, Op.NEG, Op.ABS))
            return make(unary, (self._value(dtype, depth - 1),))
        if form == 7:
            if self._smooth:  # the condition must not depend on what is differentiated
                return make(
                    Op.WHERE,
                    (self._index_test(), self._value(dtype, depth - 1), self._value(dtype, depth - 1)),
                )
            return self._choice(dtype, depth)
        if form == 8 and self._customs and not self._in_gradient:
            return self._custom(dtype, depth)
        if self._smooth:
            return make(Op.NEG, (self._value(dtype, depth - 1),))
        source = self._pick((BOOL, INT64, FLOAT32, FLOAT64))
        target = dtype if dtype is FLOAT64 else self._pick((FLOAT32, DType.FLOAT16, DType.BFLOAT16))
        return make(Op.CAST, (self._value(source, depth - 1),), target)

    def _index_test(self) -> Expr:
        op = self._pick((Op.LT, Op.LE, Op.EQ))
        return make(op, (var(self._pick(("q_idx", "kv_idx"))), self._pick((var("kv_idx"), const(2, INT64)))))

    def _custom(self, dtype: DType, depth: int) -> Expr:
        given = self._value(dtype, depth - 1)
        if dtype is not self._result:
            return given
        value = make(Op.TANH, (given,))
        self._in_gradient = True
        gradient = self._value(dtype, min(depth - 1, 2))
        self._in_gradient = False
        return make(Op.CUSTOM, (value, given, gradient), 1)
