"""Derivatives against central differences in float64, and against torch at ties and kinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given

from ir.strategies import Case, score_structures
from saccade.errors import ProgramError
from saccade.ir.axes import free_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, load, make, var, walk
from saccade.ir.grad import NO_GRADIENT, RULES, Derivative, differentiate
from saccade.ir.interpret import evaluate
from saccade.ir.ops import INDEX_VARIABLES, Op
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.text import format_expression, parse_structure
from saccade.ir.verify import verify_expression

F64 = DType.FLOAT64
SHAPE = (2, 2, 5, 7)  # [B, Hq, Q, K], as Case.variables has it
STEP = 1e-6


def float_slots(structure: Structure) -> list[int]:
    return [slot for slot, capture in enumerate(structure.captures) if capture.dtype is F64]


def full(array: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.broadcast_to(array, shape)


def poisoned(root: Expr, case: Case, variables: dict[str, np.ndarray]) -> np.ndarray:
    poison = evaluate(root, variables, case.captures, case.numbers).poison
    return full(np.zeros(()) if poison is None else poison) != 0


def forward(
    case: Case, variables: dict[str, np.ndarray], captures: list[np.ndarray] | None = None
) -> np.ndarray:
    return full(evaluate(case.structure.root, variables, captures or case.captures, case.numbers).value)


def scatter(case: Case, derivative: Derivative, variables: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Gradients of the captures [capture.shape], by slot: what every load contributes, added up."""
    totals = {slot: np.zeros(array.shape) for slot, array in enumerate(case.captures)}
    for part in derivative.captures:
        extents = tuple(extent for _, extent in part.axes)
        shape = extents + SHAPE
        axes = {
            k: np.arange(extent).reshape((-1,) + (1,) * (len(shape) - place - 1))
            for place, (k, extent) in enumerate(part.axes)
        }
        data = (case.captures, case.numbers)
        value = full(evaluate(part.value, variables, *data, axes=axes).value, shape)
        indices = [full(evaluate(index, variables, *data, axes=axes).value, shape) for index in part.indices]
        sizes = case.captures[part.slot].shape
        inside = np.ones(shape, bool)
        for index, size in zip(indices, sizes, strict=True):
            inside &= (-size <= index) & (index < size)
        kept = tuple(index[inside] for index in indices)
        np.add.at(totals[part.slot], kept if kept else ..., value[inside] if kept else value.sum())
    return totals


def central(f: Callable[[float], np.ndarray]) -> np.ndarray:
    return (f(STEP) - f(-STEP)) / (2 * STEP)


@given(score_structures(dtype=F64, smooth=True, customs=False))
def test_matches_central_differences(case: Case):
    variables = case.variables()
    derivative = differentiate(case.structure, wrt=float_slots(case.structure))
    clean = ~poisoned(case.structure.root, case, variables)
    if not np.isfinite(forward(case, variables)[clean]).all():
        return
    weight = np.where(clean, np.cos(np.arange(clean.size)).reshape(SHAPE), 0.0)

    def moved(step: float) -> np.ndarray:
        return np.where(clean, forward(case, {**variables, "score": variables["score"] + step}), 0)

    score = evaluate(
        derivative.score if derivative.score is not None else const(0.0, F64),
        {**variables, "grad": np.ones(())},
        case.captures,
        case.numbers,
    )
    scale = 1 + np.abs(moved(0.0)).max()
    np.testing.assert_allclose(full(score.value)[clean], central(moved)[clean], rtol=1e-4, atol=1e-7 * scale)

    gradients = scatter(case, derivative, {**variables, "grad": weight})
    for slot in float_slots(case.structure):
        for place in np.ndindex(case.captures[slot].shape):

            def moved_capture(step: float, slot: int = slot, place: tuple[int, ...] = place) -> np.ndarray:
                captures = [array.copy() for array in case.captures]
                captures[slot][place] += step
                return np.where(clean, forward(case, variables, captures), 0)

            expected = (weight * central(moved_capture)).sum()
            assert gradients[slot][place] == pytest.approx(expected, rel=1e-4, abs=1e-5 * scale)


@given(score_structures(dtype=F64, customs=False))
def test_poison_only_where_the_program_has_it(case: Case):
    variables = {**case.variables(), "grad": np.ones(())}
    derivative = differentiate(case.structure, wrt=float_slots(case.structure))
    program = poisoned(case.structure.root, case, variables)
    if derivative.score is not None:
        assert not (poisoned(derivative.score, case, variables) & ~program).any()
    for part in derivative.captures:
        if not part.axes:
            assert not (poisoned(part.value, case, variables) & ~program).any()


@given(score_structures(dtype=F64))
def test_results_are_right_expressions(case: Case):
    derivative = differentiate(case.structure, wrt=float_slots(case.structure))
    readable = frozenset({*INDEX_VARIABLES, "score", "grad"})
    types = (case.structure.captures, case.structure.numbers)
    if derivative.score is not None:
        verify_expression(derivative.score, *types, variables=readable)
        assert derivative.score.dtype is F64
    seen = [(part.slot, part.indices, part.axes) for part in derivative.captures]
    for part in derivative.captures:
        axes = frozenset(k for k, _ in part.axes)
        for root in (part.value, *part.indices):
            verify_expression(root, *types, variables=readable, axes=axes)
            assert free_axes(root) <= axes
            assert not any(node.op is Op.CUSTOM for node in walk(root))
    assert len(set(seen)) == len(seen)


# Ties, kinks and edges, against torch

POINTS = np.array([-2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0])
UNARY = {
    Op.NEG: torch.neg,
    Op.ABS: torch.abs,
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
}
BINARY = {
    Op.ADD: torch.add,
    Op.SUB: torch.sub,
    Op.MUL: torch.mul,
    Op.DIV: torch.div,
    Op.REMAINDER: torch.remainder,
    Op.POW: torch.pow,
    Op.MINIMUM: torch.minimum,
    Op.MAXIMUM: torch.maximum,
}


def score64(text: str) -> Structure:
    return parse_structure(f"score(c0: f64[1], c1: f64[1]) -> f64\n{text}")


def at(root: Expr | None, captures: Sequence[np.ndarray] = (), **variables: object) -> np.ndarray:
    assert root is not None
    return evaluate(root, {name: np.asarray(value) for name, value in variables.items()}, captures).value


@pytest.mark.parametrize("op", UNARY)
def test_slopes_agree_with_torch(op: Op):
    structure = Structure(ModKind.SCORE, make(op, (var("score", F64),)))
    points = torch.tensor(POINTS, requires_grad=True)
    UNARY[op](points).backward(torch.full_like(points, 3.0))
    found = at(differentiate(structure).score, score=POINTS, grad=3.0)
    np.testing.assert_allclose(np.broadcast_to(found, POINTS.shape), points.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("op", BINARY)
def test_slopes_of_two_arguments_agree_with_torch(op: Op):
    loads = tuple(load(slot, [var("q_idx")], F64) for slot in (0, 1))
    structure = Structure(ModKind.SCORE, make(op, loads), (CaptureType(F64, 1), CaptureType(F64, 1)))
    grids = [grid.ravel() for grid in np.meshgrid(POINTS, POINTS)]
    tensors = [torch.tensor(grid, requires_grad=True) for grid in grids]
    BINARY[op](*tensors).backward(torch.full_like(tensors[0], 3.0))
    parts = differentiate(structure, wrt=[0, 1]).captures
    assert [part.slot for part in parts] == [0, 1]
    for part, tensor in zip(parts, tensors, strict=True):
        found = at(part.value, grids, q_idx=np.arange(len(grids[0])), grad=3.0)
        np.testing.assert_allclose(np.broadcast_to(found, tensor.shape), tensor.grad.numpy(), rtol=1e-12)


def test_every_op_is_compared_or_tested_apart():
    apart = {Op.WHERE, Op.CAST, Op.SUM, Op.MAX, Op.MIN, Op.CUSTOM}
    assert set(UNARY) | set(BINARY) | apart == set(RULES)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 0.5, -1.0])
def test_powers_of_a_constant_exponent(exponent: float):
    bases = np.delete(POINTS, 3)  # torch takes the root of -0.0, where IEEE's power forgets the sign
    points = torch.tensor(bases, requires_grad=True)
    points.pow(exponent).sum().backward()
    derivative = differentiate(score64(f"score ** {exponent}"))
    found = at(derivative.score, score=bases, grad=1.0)
    np.testing.assert_allclose(np.broadcast_to(found, bases.shape), points.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("name", "function"), [("max", torch.amax), ("min", torch.amin)])
def test_extrema_share_ties_evenly(name: str, function):
    row = np.array([1.0, 3.0, 3.0, -2.0, -2.0, -2.0])
    tensor = torch.tensor(row, requires_grad=True)
    function(tensor, 0).mul(6.0).backward()
    (part,) = differentiate(score64(f"score + {name}(axis0 < 6, c0[axis0])"), wrt=[0]).captures
    assert part.axes == ((0, 6),)
    found = evaluate(part.value, {"grad": np.asarray(6.0)}, [row], axes={0: np.arange(6)}).value
    np.testing.assert_array_equal(found, tensor.grad.numpy())


def test_casts_and_rounding():
    derivative = differentiate(
        score64("f64(f16(score)) + floor(score) + round(score) * score + f64(i64(score))")
    )
    assert at(derivative.score, score=2.6, grad=1.0) == 1.0 + 3.0


# Where


def slope(text: str, wrt: Sequence[int] = ()) -> str:
    derivative = differentiate(score64(text), wrt)
    if not wrt:
        assert derivative.score is not None
        return format_expression(derivative.score, float_type=F64)
    return "\n".join(
        f"c{part.slot}[{', '.join(map(format_expression, part.indices))}] += "
        + format_expression(part.value, float_type=F64)
        for part in derivative.captures
    )


def test_where_routes():
    assert slope("where(q_idx < 3, score, 0.0)") == "where(q_idx < 3, grad, 0.0)"
    assert slope("where(q_idx < 3, score, 2.0 * score)") == "where(q_idx < 3, grad, grad * 2.0)"
    assert slope("where(q_idx < 3, 1.0, score)") == "where(3 <= q_idx, grad, 0.0)"
    nested = "where(q_idx < 3, where(h < 1, score, score * 3.0), 0.0)"
    assert slope(nested) == "where(q_idx < 3, where(h < 1, grad, grad * 3.0), 0.0)"
    clamp = "where(score < -1.0, -1.0, where(1.0 < score, 1.0, score))"
    found = at(differentiate(score64(clamp)).score, score=[-2.0, -1.0, 0.0, 1.0, 2.0], grad=1.0)
    assert found.tolist() == [0, 1, 1, 1, 0]


def test_a_side_not_taken_has_no_say():
    """Neither an infinite slope nor an index out of range behind a `where` reaches a gradient."""
    root = differentiate(score64("where(0.0 < score, sqrt(score), score * 0.5)")).score
    assert at(root, score=[4.0, 0.0], grad=1.0).tolist() == [0.25, 0.5]
    derivative = differentiate(score64("where(kv_idx < 2, c0[kv_idx] * score, score) * 2.0"), wrt=[0])
    table, variables = (
        [np.array([5.0, 7.0])],
        {"score": np.full(4, 3.0), "kv_idx": np.arange(4), "grad": np.ones(4)},
    )
    score = evaluate(derivative.score, variables, table)
    assert not score.is_poisoned
    assert score.value.tolist() == [10, 14, 2, 2]
    value = evaluate(derivative.captures[0].value, variables, table)
    assert not value.is_poisoned
    assert value.value.tolist() == [6, 6, 0, 0]


def test_a_guard_inside_a_reduction_leaves_it():
    """The factor before the sum is out of range exactly where no term of the sum is taken."""
    term = "score * c0[q_idx - 1 + 4 * i64(q_idx < 1)] * f64(axis0 + 1)"
    text = f"sum(axis0 < 3, where(axis0 < q_idx, {term}, 0.0))"
    derivative = differentiate(score64(text), wrt=[0])
    variables = {"q_idx": np.arange(4), "score": np.full(4, 2.0), "grad": np.ones(4)}
    table = [np.array([1.0, 10.0, 100.0])]
    score = evaluate(derivative.score, variables, table)
    assert not score.is_poisoned
    assert np.broadcast_to(score.value, 4).tolist() == [0, 1, 30, 600]
    (part,) = derivative.captures
    assert part.axes == ()
    value = evaluate(part.value, variables, table)
    assert not value.is_poisoned
    assert value.value.tolist() == [0, 2, 6, 12]


def test_a_sum_over_nothing_passes_nothing():
    derivative = differentiate(
        score64("score + sum(axis0 < 0, where(axis0 < 1, c0[h] * score, 0.0))"), wrt=[0]
    )
    assert derivative.captures == ()
    assert derivative.score is var("grad", F64)


# Captures


def test_loads_of_one_element_are_merged():
    assert slope("c0[h] * score + c0[h + 0] + c1[h]", wrt=[0]) == "c0[h] += grad * score + grad"
    assert slope("c0[h] * c0[kv_idx]", wrt=[0]) == "c0[h] += grad * c0[kv_idx]\nc0[kv_idx] += grad * c0[h]"


def test_only_wanted_captures_are_answered():
    structure = score64("score * c0[h] + c1[q_idx]")
    assert [part.slot for part in differentiate(structure, wrt=[1]).captures] == [1]
    assert differentiate(structure).captures == ()
    assert differentiate(score64("c0[h] + floor(score)"), wrt=[0]).score is None
    assert differentiate(score64("score"), wrt=[0]).captures == ()


def test_a_scalar_capture():
    structure = parse_structure("score(c0: f32[0]) -> f32\nscore * c0[()]")
    (part,) = differentiate(structure, wrt=[0]).captures
    assert part.indices == ()
    assert format_expression(part.value) == "grad * score"


def test_loads_in_reductions_carry_their_axes():
    text = (
        "score(c0: f32[2], c1: f32[2]) -> f32\nscore + sum(axis7 < 8, c0[q_idx, axis7] * c1[kv_idx, axis7])"
    )
    first, second = differentiate(parse_structure(text), wrt=[0, 1]).captures
    assert (first.axes, second.axes) == (((0, 8),), ((0, 8),))
    assert format_expression(first.value) == "grad * c1[kv_idx, axis0]"
    assert format_expression(first.indices[1]) == "axis0"
    assert format_expression(second.value) == "grad * c0[q_idx, axis0]"


def test_an_axis_of_two_extents():
    text = "score + sum(axis0 < 2, c0[axis0]) + 3.0 * sum(axis0 < 3, c0[axis0])"
    parts = differentiate(score64(text), wrt=[0]).captures
    assert [(part.axes, format_expression(part.value, float_type=F64)) for part in parts] == [
        (((0, 2),), "grad"),
        (((1, 3),), "grad * 3.0"),
    ]


# Custom


def test_custom_gradients_are_the_users_even_if_wrong():
    assert slope("custom(tanh(score), score, cotangent * 100.0)") == "grad * 100.0"
    assert slope("2.0 * custom(tanh(score), score, cotangent * 100.0)") == "grad * 2.0 * 100.0"
    assert slope("custom(score * score, score, 7.0)") == "7.0"


def test_custom_of_several_inputs():
    text = "custom(score * c0[h], score, c0[h], cotangent * c0[h], cotangent * 5.0) + c1[h]"
    assert slope(text) == "grad * c0[h]"
    assert slope(text, wrt=[0]) == "c0[h] += grad * 5.0"


def test_nested_customs_bind_their_own_cotangent():
    inner = "custom(score, score, cotangent * 3.0)"
    assert slope(f"custom({inner}, {inner}, cotangent * 2.0)") == "grad * 2.0 * 3.0"
    # A CUSTOM within a gradient is evaluated, not differentiated.
    assert slope(f"custom(score, score, cotangent * {inner})") == "grad * score"


def test_an_integer_input_takes_no_gradient():
    assert slope("custom(score, score, q_idx, cotangent, 0)") == "grad"


def test_a_value_unrelated_to_its_inputs():
    assert differentiate(score64("custom(score, c0[h], cotangent)")).score is None


# Refusals


def test_masks_are_refused():
    with pytest.raises(ProgramError, match="expected a score program, got a mask"):
        differentiate(parse_structure("mask() -> bool\nTrue"))


@pytest.mark.parametrize("slot", [0, 2, -1])
def test_only_float_captures_have_gradients(slot: int):
    structure = parse_structure("score(c0: i64[1], c1: f32[1]) -> f32\nscore + f32(c0[h])")
    with pytest.raises(ProgramError, match=f"expected slots of float captures, got wrt={slot}"):
        differentiate(structure, wrt=[slot])


def test_thousands_of_nodes():
    root: Expr = var("score", F64)
    for step in range(1500):
        root = make(Op.ADD, (make(Op.SIN, (root,)), make(Op.MUL, (root, const(1.0 / (step + 2), F64)))))
    derivative = differentiate(Structure(ModKind.SCORE, root))
    assert np.isfinite(at(derivative.score, score=0.5, grad=1.0))


def test_ops_without_a_rule_say_why():
    assert set(RULES) | set(NO_GRADIENT) == set(Op)
    assert not set(RULES) & set(NO_GRADIENT)
    assert all(NO_GRADIENT.values())
