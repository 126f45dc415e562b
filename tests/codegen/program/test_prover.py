"""What is proven holds at every pair, and does not change with lengths but where it must."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.strategies import Case, mask_structures, score_structures
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.ranges import ANY, ELSEWHERE, RANGES, range_of
from saccade.ir.axes import free_axes
from saccade.ir.dtype import DType
from saccade.ir.elementwise import ELEMENTWISE, NUMPY_TYPE, convert
from saccade.ir.expr import Expr, load, make, var, walk
from saccade.ir.interpret import evaluate
from saccade.ir.ops import OPS, REDUCTIONS, Op, TypeRule
from saccade.ir.rewrite import lower
from saccade.ir.structure import Structure
from saccade.ir.text import parse_structure

SIZES = {"batch": 2, "heads": 2, "q_len": 5, "kv_len": 7}


def proven_of(case: Case) -> ProgramFacts:
    shapes = tuple(array.shape for array in case.captures)
    return prove(case.structure, numbers=case.numbers, shapes=shapes, **SIZES)


def parsed(body: str, captures: str = "", numbers: str = "") -> Structure:
    return parse_structure(f"mask({captures}{numbers}) -> bool\n{body}")


@pytest.mark.parametrize("op", Op)
def test_every_op_has_a_range_or_a_reason(op: Op):
    assert (op in RANGES) != bool(ELSEWHERE.get(op))


ENDS = (-9, -4, -1, 0, 1, 2, 3, 7)
INTERVALS = [(low, high) for low in ENDS for high in ENDS if low <= high]
INTEGER_OPS = [
    op
    for op in RANGES
    if OPS[op].rule in (TypeRule.NUMERIC, TypeRule.INTEGER, TypeRule.LOGIC) and op not in REDUCTIONS
]
LOOSE = (Op.AND, Op.OR, Op.XOR, Op.REMAINDER, Op.SHL, Op.SHR)


@pytest.mark.parametrize("op", INTEGER_OPS)
def test_ranges_hold_every_value(op: Op):
    """Intervals of small integers, by trying all of them; and nothing more, but where a row is coarse."""
    node = make(op, tuple(var(name) for name in ("q_idx", "kv_idx")[: OPS[op].arity]))
    for args in product(INTERVALS, repeat=OPS[op].arity or 0):
        values = np.ix_(*(np.arange(low, high + 1) for low, high in args))
        valid = np.ones(np.broadcast_shapes(*(value.shape for value in values)), bool)
        if op in (Op.FLOOR_DIV, Op.REMAINDER):
            valid &= values[1] != 0
        found = np.broadcast_to(ELEMENTWISE[op](*values), valid.shape)[valid]
        low, high = range_of(node, args)
        assert ((low <= found) & (found <= high)).all(), args
        if op not in LOOSE and found.size:
            assert (found.min(), found.max()) == (low, high), args


@pytest.mark.parametrize("target", [dtype for dtype in DType if dtype.is_int])
@pytest.mark.parametrize(
    ("source", "given"), [(DType.BOOL, ANY), (DType.FLOAT32, ANY), (DType.INT64, (-5, 200))]
)
def test_ranges_of_casts(source: DType, given: tuple[int, int], target: DType):
    leaf = load(0, [], source)
    low, high = range_of(make(Op.CAST, (leaf,), target), [given])
    values = {DType.BOOL: [0, 1], DType.FLOAT32: [-3e38, 300.7, np.nan]}.get(source, range(-5, 201))
    found = convert(np.array(values, NUMPY_TYPE[source]), target)
    assert low <= found.min() <= found.max() <= high
    if source is DType.BOOL:
        assert (low, high) == (0, 1)


@given(st.one_of(mask_structures(), score_structures()))
def test_what_is_proven_holds_at_every_pair(case: Case):
    facts = proven_of(case)
    variables = case.variables(**SIZES)

    def values(node: Expr) -> np.ndarray:
        found = evaluate(node, variables, case.captures, case.numbers)
        poison = np.zeros((), bool) if found.poison is None else found.poison != 0
        value, poison = np.broadcast_arrays(found.value, poison)
        return value[~poison]

    for number, node in enumerate(walk(lower(case.structure.root))):
        if free_axes(node):
            continue
        if number in facts.narrow:
            assert np.all(np.abs(values(node).astype(float)) <= 2.0**31)
        if number in facts.nonnegative:
            assert np.all(values(node) >= 0)
        if number in facts.nonzero:
            assert np.all(values(node.args[1]) != 0)
        for dim, index in enumerate(node.args if node.op is Op.LOAD else ()):
            if (number, dim) in facts.bounded:
                size = case.captures[node.attr].shape[dim]
                assert np.all((values(index) >= -size) & (values(index) < size))


def test_ranges_of_catalogue_indices_are_tight_enough():
    """A relative table, a table by blocks and a clamped distance are read without checks."""
    for body, shape in (
        ("c0[q_idx - kv_idx + 6] == 0", (11,)),
        ("c0[q_idx // 2 * 4 + kv_idx // 2] == 0", (12,)),
        ("c0[minimum(abs(kv_idx - q_idx), 3)] == 0", (4,)),
        ("c0[kv_idx % 3 - 3] == 0", (3,)),
        ("c0[(kv_idx & 3) ^ 1] == 0", (4,)),
        ("c0[where(kv_idx < q_idx, kv_idx, q_idx)] == 0", (7,)),
        ("c0[(kv_idx << 1) >> 1] == 0", (7,)),
    ):
        structure = parsed(body, "c0: i64[1]")
        assert len(prove(structure, shapes=(shape,), **SIZES).bounded) == 1, body
        short = (shape[0] - 1,)
        if "kv_idx % 3" not in body:  # whose range is not the tensor's
            assert not prove(structure, shapes=(short,), **SIZES).bounded, body


def test_an_axis_that_two_reductions_bind_has_the_longer_extent():
    for first, second in ((2, 5), (5, 2)):
        body = f"sum(axis0 < {first}, c0[axis0]) < sum(axis0 < {second}, c0[axis0])"
        structure = parsed(body, "c0: i64[1]")
        assert len(prove(structure, shapes=((5,),), **SIZES).bounded) == 1
        assert not prove(structure, shapes=((4,),), **SIZES).bounded


def test_numbers_in_indices_are_known():
    structure = parsed("c0[kv_idx + n0] == 0", "c0: i64[1], ", "n0: i64")
    for number, is_bounded in ((3, True), (4, False), (-7, True), (-10, True), (-11, False)):
        facts = prove(structure, shapes=((10,),), numbers=(number,), **SIZES)
        assert bool(facts.bounded) is is_bounded, number


def test_an_index_is_bounded_by_itself():
    structure = parsed("c0[c1[kv_idx], h] == 0", "c0: i64[2], c1: i64[1]")
    facts = prove(structure, shapes=((4, 2), (7,)), **SIZES)
    assert sorted(dim for _, dim in facts.bounded) == [0, 1]
    assert len({number for number, _ in facts.bounded}) == 2


def test_products_beyond_32_bits_are_wide():
    structure = parsed("kv_idx * kv_idx * kv_idx < q_idx")
    order = list(walk(lower(structure.root)))
    (cube,) = (i for i, node in enumerate(order) if node.op is Op.MUL and node.args[0].op is Op.MUL)
    for kv_len, fits in ((1000, True), (10000, False)):
        facts = prove(structure, batch=1, heads=1, q_len=1, kv_len=kv_len)
        assert (cube in facts.narrow) is fits


def test_growing_lengths_keep_the_facts():
    """512 steps of decoding, and many lengths with many windows: one kernel."""
    causal = parsed("kv_idx <= q_idx + n0", numbers="n0: i64")
    decoding = {prove(causal, batch=1, heads=8, q_len=1, kv_len=n + 1, numbers=(n,)) for n in range(100, 612)}
    assert len(decoding) == 1
    window = parsed("(kv_idx <= q_idx) & (q_idx - kv_idx < n0)", numbers="n0: i64")
    windows = {
        prove(window, batch=1, heads=8, q_len=n, kv_len=n, numbers=(w,))
        for n in range(100, 3000, 57)
        for w in range(1, 900, 45)
    }
    assert len(windows) == 1
    biased = parsed("(c0[h, kv_idx] < 1) & (c0[h, q_idx + n0] < 1)", "c0: i64[2], ", "n0: i64")
    decoding = {
        prove(biased, batch=1, heads=8, q_len=1, kv_len=n + 1, numbers=(n,), shapes=((8, 612),))
        for n in range(100, 612)
    }
    assert len(decoding) == 1


def test_a_program_without_integers_or_loads_has_no_facts():
    structure = parse_structure("score(n0: f32) -> f32\nscore * n0")
    assert prove(structure, numbers=(2.0,), **SIZES) == ProgramFacts()


def test_nothing_is_proven_of_an_empty_tensor():
    structure = parsed("c0[kv_idx] == 0", "c0: i64[1]")
    assert not prove(structure, shapes=((0,),), **SIZES).bounded


def test_lengths_of_zero_prove_as_lengths_of_one():
    structure = parsed("c0[kv_idx] == 0", "c0: i64[1]")
    facts = prove(structure, batch=0, heads=1, q_len=0, kv_len=0, shapes=((1,),))
    assert facts == prove(structure, batch=1, heads=1, q_len=1, kv_len=1, shapes=((1,),))
    assert all(node.dtype is not DType.INT64 or i in facts.narrow for i, node in _vars(structure))


def _vars(structure: Structure) -> list[tuple[int, Expr]]:
    return [(i, node) for i, node in enumerate(walk(lower(structure.root))) if node.op is Op.VAR]
