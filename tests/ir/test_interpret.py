"""The interpreter: each op's meaning, the poison rule, reductions and the errors users see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ir.strategies import Case, mask_structures
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError, ProgramError
from saccade.ir import interpret as interpret_module
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, load, make, number, var
from saccade.ir.interpret import Evaluated, evaluate, host_array, interpret
from saccade.ir.ops import Op
from saccade.ir.program import Program
from saccade.ir.text import parse_structure

BOOL, I64, F32, F64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-3, 40.0, -40.0, 200.0, np.inf, -np.inf, np.nan]


def values(text: str, **variables: object) -> np.ndarray:
    """The result of a float32 expression over variables."""
    structure = parse_structure(f"score() -> f32\n{text}")
    return evaluate(structure.root, {name: np.asarray(value) for name, value in variables.items()}).value


TORCH_UNARY = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "abs": torch.abs,
    "neg": torch.neg,
}


@pytest.mark.parametrize("name", TORCH_UNARY)
def test_functions_agree_with_torch(name: str):
    given_values = np.array(SPECIAL, np.float32)
    found = values(f"{name}(score)", score=given_values)
    assert found.dtype == np.float32
    expected = TORCH_UNARY[name](torch.from_numpy(given_values)).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("c0[q_idx] ** c1[q_idx]", torch.pow),
        ("c0[q_idx] % c1[q_idx]", torch.remainder),
        ("c0[q_idx] / c1[q_idx]", torch.div),
        ("minimum(c0[q_idx], c1[q_idx])", torch.minimum),
        ("maximum(c0[q_idx], c1[q_idx])", torch.maximum),
    ],
)
def test_binary_float_ops_agree_with_torch(text: str, function):
    a, c = (grid.astype(np.float32).ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    structure = parse_structure(f"score(c0: f32[1], c1: f32[1]) -> f32\n{text}")
    result = evaluate(structure.root, {"q_idx": np.arange(a.size)}, (a, c))
    expected = function(torch.from_numpy(a), torch.from_numpy(c)).numpy()
    np.testing.assert_allclose(result.value, expected, rtol=1e-6)


def test_float32_stays_float32():
    assert values("score + 1.0", score=np.float32(2**24)) == np.float32(2**24)
    assert values("score * score", score=np.float32(1e30)) == np.inf
    assert values(
        "f32(f64(score) * const(1e30, f64) / const(1e30, f64))", score=np.float32(1e30)
    ) == np.float32(1e30)


INTEGERS = [INT_MIN, INT_MIN + 1, -64, -7, -2, -1, 0, 1, 2, 3, 7, 63, 64, 65, INT_MAX]


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("q_idx + kv_idx", torch.add),
        ("q_idx - kv_idx", torch.sub),
        ("q_idx * kv_idx", torch.mul),
        ("q_idx << kv_idx", torch.bitwise_left_shift),
        ("q_idx >> kv_idx", torch.bitwise_right_shift),
        ("q_idx & kv_idx", torch.bitwise_and),
        ("q_idx | kv_idx", torch.bitwise_or),
        ("q_idx ^ kv_idx", torch.bitwise_xor),
        ("q_idx // kv_idx", lambda a, b: torch.div(a, b, rounding_mode="floor")),
        ("q_idx % kv_idx", torch.remainder),
        ("minimum(q_idx, kv_idx)", torch.minimum),
    ],
)
def test_integers_wrap_and_floor_as_in_torch(text: str, function):
    a, c = (grid.ravel() for grid in np.meshgrid(INTEGERS, INTEGERS))
    if "//" in text or "%" in text:
        kept = (c != 0) & ~((a == INT_MIN) & (c == -1))
        a, c = a[kept], c[kept]
    root = parse_structure(f"score() -> f32\nf32({text})").root.args[0]
    found = evaluate(root, {"q_idx": a, "kv_idx": c}).value
    np.testing.assert_array_equal(found, function(torch.from_numpy(a), torch.from_numpy(c)).numpy())


@pytest.mark.parametrize(
    "target", [DType.UINT8, DType.INT8, DType.INT16, DType.INT32, DType.FLOAT16, DType.BFLOAT16]
)
def test_casts_of_integers_agree_with_torch(target: DType):
    torch_type = {
        DType.UINT8: torch.uint8,
        DType.INT8: torch.int8,
        DType.INT16: torch.int16,
        DType.INT32: torch.int32,
        DType.FLOAT16: torch.float16,
        DType.BFLOAT16: torch.bfloat16,
    }[target]
    given_values = np.array([*INTEGERS, 127, 128, 255, 256, 257, 2049, 32768, 65519, 65520, 2**31], np.int64)
    found = evaluate(make(Op.CAST, (var("q_idx"),), target), {"q_idx": given_values}).value
    expected = torch.from_numpy(given_values).to(torch_type)
    np.testing.assert_array_equal(found, (expected.double() if target.is_float else expected.long()).numpy())


@given(st.floats(width=32))
def test_half_casts_round_as_torch(x: float):
    for target, kind in ((DType.FLOAT16, torch.float16), (DType.BFLOAT16, torch.bfloat16)):
        for dtype, array in ((F32, np.float32(x)), (F64, np.float64(x) * (1 + 2**-40))):
            found = evaluate(make(Op.CAST, (var("score", dtype),), target), {"score": array}).value
            expected = torch.tensor(array).to(kind).float().numpy()
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.float32


def test_casts_of_floats():
    given_values = np.array([1.9, -1.9, 0.0, -0.0, 1e10, np.nan, np.inf, -np.inf, 2.0**63, -(2.0**63)])

    def cast(target: DType) -> list[object]:
        return evaluate(make(Op.CAST, (var("score", F64),), target), {"score": given_values}).value.tolist()

    assert cast(I64) == [1, -1, 0, 0, 10**10, INT_MIN, INT_MIN, INT_MIN, INT_MIN, INT_MIN]
    assert cast(DType.INT8)[:5] == [1, -1, 0, 0, 0]
    assert cast(BOOL) == [True, True, False, False, True, True, True, True, True, True]
    assert cast(F32)[0] == float(np.float32(1.9))
    truth = evaluate(make(Op.CAST, (const(True, BOOL),), F32), {}).value
    assert truth == 1
    assert truth.dtype == np.float32


# Poison

TABLE = np.array([True, False, True])


def poison(text: str) -> list[list[int]]:
    """Where an expression over b, q_idx = 0, 1 and the poisoned `bad`, a load out of range, has no value."""
    structure = parse_structure(f"mask(t: bool[1]) -> bool\nbad = t[b + 7]\n{text}")
    result = evaluate(structure.root, {"b": np.zeros(()), "q_idx": np.arange(2)}, (TABLE,))
    full = np.broadcast_to(0 if result.poison is None else result.poison, (2,))
    return full.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bad", [1, 1]),
        ("bad & (q_idx == 1)", [0, 1]),
        ("(q_idx == 1) & bad", [0, 1]),
        ("bad | (q_idx == 1)", [1, 0]),
        ("(q_idx == 1) | bad", [1, 0]),
        ("bad & bad", [1, 1]),
        ("bad ^ (q_idx == 1)", [1, 1]),
        ("~bad", [1, 1]),
        ("bad == True", [1, 1]),
        ("where(bad, True, True)", [1, 1]),
        ("where(q_idx == 1, bad, True)", [0, 1]),
        ("where(q_idx == 1, True, bad)", [1, 0]),
        ("where(q_idx == 1, True, ~bad & False)", [0, 0]),
        ("q_idx // (q_idx - 1) < 0", [0, 1]),
        ("q_idx % q_idx < 0", [1, 0]),
        ("(q_idx % q_idx == 0) & bad", [1, 2]),  # the first argument is to blame
        ("bad & (q_idx % q_idx == 0)", [1, 1]),
        ("(i64(bad) & 0) == 0", [1, 1]),
        ("t[i64(bad)]", [1, 1]),
        ("sum(axis0 < 2, axis0 // (axis0 + q_idx)) == 0", [1, 0]),
        ("sum(axis0 < 3, i64(t[axis0 + 2 * q_idx])) == 0", [0, 1]),
        ("max(axis0 < 2, where(axis0 <= q_idx, axis0, i64(bad))) == 0", [1, 0]),
    ],
)
def test_poison_spreads_by_kleene(text: str, expected: list[int]):
    assert poison(text) == expected


def test_custom_is_its_value_alone():
    root = parse_structure("score(c0: f32[1]) -> f32\ncustom(score, c0[9], cotangent)").root
    assert evaluate(root, {"score": np.float32([1, 2])}, [np.zeros(1)]).poison is None


def test_poison_names_its_sites():
    structure = parse_structure("mask(t: bool[1]) -> bool\nt[q_idx] & (kv_idx // (h - 1) == 0)")
    result = evaluate(structure.root, {"q_idx": np.arange(5), "kv_idx": 1, "h": 1}, (TABLE,))
    assert isinstance(result, Evaluated)
    assert result.is_poisoned
    blamed = [result.sites[p - 1].op for p in result.poison]
    assert blamed[0] is Op.FLOOR_DIV
    assert blamed[3] is Op.LOAD
    assert [bool(p) for p in result.poison] == [True, False, True, True, True]


def test_negative_indices_count_from_the_end():
    structure = parse_structure("mask(t: i64[1]) -> bool\nt[q_idx] == kv_idx")
    result = evaluate(structure.root, {"q_idx": np.arange(-4, 4), "kv_idx": 7}, (np.array([5, 6, 7]),))
    assert result.value.tolist()[1:-1] == [False, False, True, False, False, True]
    assert np.flatnonzero(result.poison).tolist() == [0, 7]


def test_an_empty_capture_has_no_element():
    structure = parse_structure("mask(t: bool[1]) -> bool\nt[q_idx]")
    assert evaluate(structure.root, {"q_idx": np.arange(2)}, (np.zeros(0, bool),)).poison.tolist() == [1, 1]


# Reductions


def test_no_pair_reads_nothing():
    """The second index is out of range, and there is no pair for which that would matter."""
    body = load(0, [var("q_idx"), const(9, I64)], I64)
    found = evaluate(body, {"q_idx": np.arange(0)}, (np.ones((2, 3), np.int64),))
    assert found.value.shape == (0,)
    assert not found.is_poisoned


def test_reductions_nest_and_take_parts(monkeypatch: pytest.MonkeyPatch):
    structure = parse_structure(
        "score(c0: f32[2]) -> f32\n"
        "score + sum(axis0 < 5, c0[h, axis0] * max(axis1 < 3, c0[h, axis0 + axis1]))"
    )
    table = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    expected = [sum(row[a] * row[a : a + 3].max() for a in range(5)) for row in table]
    variables = {"score": np.zeros((3, 1), np.float32), "h": np.arange(2)}
    whole = evaluate(structure.root, variables, [table]).value
    np.testing.assert_allclose(whole, np.broadcast_to(expected, (3, 2)), rtol=1e-6)
    monkeypatch.setattr(interpret_module, "_ELEMENTS_AT_ONCE", 4)
    np.testing.assert_array_equal(evaluate(structure.root, variables, [table]).value, whole)


def test_a_result_does_not_depend_on_how_many_pairs_go_at_once():
    structure = parse_structure("score(c0: f32[1]) -> f32\nsum(axis0 < 300, c0[axis0] * score)")
    table = np.random.default_rng(0).normal(size=300).astype(np.float32)
    score = np.random.default_rng(1).normal(size=16).astype(np.float32)
    whole = evaluate(structure.root, {"score": score}, [table]).value
    alone = [float(evaluate(structure.root, {"score": value}, [table]).value) for value in score]
    assert whole.tolist() == alone


def test_reductions_over_nothing_over_constants_and_over_nan():
    assert values("f32(sum(axis0 < 0, axis0))") == 0
    assert values("sum(axis0 < 4, score)", score=np.float32(1.5)) == 6
    assert np.isnan(values("max(axis0 < 3, where(axis0 == 1, nan, score))", score=np.float32(1)))
    assert values("f32(min(axis0 < 3, axis0 - 1))") == -1


def test_an_axis_of_two_extents():
    text = "score() -> f32\nf32(sum(axis0 < 3, axis0) * 100 + sum(axis0 < 4, axis0))"
    assert interpret(parse_structure(text), (0.0, 0, 0, 0, 0)) == 306


# Calls and errors


def test_a_program_is_called_as_its_mod():
    text = "mask(c0: i64[1], n0: i64) -> bool\n(c0[q_idx] == c0[kv_idx]) & (q_idx - kv_idx < n0)"
    program = Program(parse_structure(text), (np.array([0, 0, 1]),), (1,), ("doc",))
    found = program(0, 0, np.arange(3)[:, None], np.arange(3))
    np.testing.assert_array_equal(found, [[True, True, False], [False, True, False], [False, False, True]])
    assert program(0, 0, 1, 1).shape == ()


def test_torch_captures_are_read():
    structure = parse_structure("score(c0: bf16[1], c1: f32[0]) -> f32\nscore + c0[h] * c1[()]")
    captures = (torch.tensor([0.5, 2.0], dtype=torch.bfloat16), torch.tensor(3.0, requires_grad=True))
    assert interpret(structure, (1.0, 0, torch.arange(2), 0, 0), captures).tolist() == [2.5, 7.0]


def test_results_are_fresh_arrays():
    score = np.zeros(3, np.float32)
    found = interpret(parse_structure("score() -> f32\nscore"), (score, 0, 0, 0, 0))
    found[0] = 1
    assert score[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "doc[kv_idx] == 0",
            r"^doc has 3 entries in dimension 0, got index 3 in doc\[kv_idx\] at \(b=0, .*kv_idx=3\); guard",
        ),
        ("(q_idx == 2) & (doc[kv_idx] == 0)", r"at \(b=0, h=0, q_idx=2, kv_idx=3\)"),
        ("doc[q_idx - 9] == 0", r"got index -9 in doc\[q_idx - 9\] at \(b=0, h=0, q_idx=0"),
        ("wide[q_idx, kv_idx + 8] < 0", r"wide has 4 entries in dimension 1, got index 8"),
        ("sum(axis0 < 5, doc[axis0]) == 0", r"doc has 3 entries .*got index 3 in doc\[axis0\]"),
    ],
)
def test_an_index_out_of_range_is_named_with_its_tensor_and_pair(text: str, message: str):
    structure = parse_structure(f"mask(doc: i64[1], wide: i64[2]) -> bool\n{text}")
    captures = (np.zeros(3, int), np.zeros((4, 4), int))
    with pytest.raises(IndexOutOfRangeError, match=message):
        interpret(structure, (0, 0, np.arange(4)[:, None], np.arange(4)), captures, names=("doc", "wide"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kv_idx // (q_idx - 2) == 0",
            r"^expected a divisor other than 0, got 0 in kv_idx // \(q_idx - 2\) at ",
        ),
        ("kv_idx % (q_idx - 2) == 0", r"at \(b=0, h=0, q_idx=2, kv_idx=0\); guard it"),
        ("sum(axis0 < 3, kv_idx % (axis0 - 1)) == 0", r"kv_idx % \(axis0 - 1\) at"),
    ],
)
def test_a_division_by_zero_is_named_with_its_pair(text: str, message: str):
    structure = parse_structure(f"mask() -> bool\n{text}")
    with pytest.raises(DivisionByZeroError, match=message):
        interpret(structure, (0, 0, np.arange(4)[:, None], np.arange(4)))


def test_an_unnamed_capture_is_named_by_its_slot():
    structure = parse_structure("mask(c0: bool[1]) -> bool\nc0[q_idx]")
    with pytest.raises(IndexError, match=r"^capture 0 has 3 entries .* in c0\[q_idx\]"):
        interpret(structure, (0, 0, 5, 0), (TABLE,))


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (var("kv_idx"), "the expression reads kv_idx; got q_idx: pass kv_idx too"),
        (make(Op.AXIS, (), 2, I64), "the expression reads axis2; got q_idx"),
        (number(0, I64), "expected a value for number 0; got 0 numbers"),
        (load(1, [var("q_idx")], I64), "expected capture 1; got 1 captures"),
    ],
)
def test_what_is_not_given_is_named(root: Expr, message: str):
    with pytest.raises(ProgramError, match=message):
        evaluate(root, {"q_idx": np.arange(2)}, (TABLE,))


def test_a_call_passes_every_argument():
    with pytest.raises(ProgramError, match=r"a mask program takes \(b, h, q_idx, kv_idx\); got 3 arguments"):
        interpret(parse_structure("mask() -> bool\nTrue"), (0, 0, 0))


@given(mask_structures())
def test_all_at_once_is_one_by_one(case: Case):
    variables = case.variables(batch=1, heads=2, q_len=3, kv_len=4)
    whole = evaluate(case.structure.root, variables, case.captures, case.numbers)
    value = np.broadcast_to(whole.value, (1, 2, 3, 4))
    faults = np.broadcast_to(0 if whole.poison is None else whole.poison, (1, 2, 3, 4))
    for place in np.ndindex(1, 2, 3, 4):
        pair = {name: np.broadcast_to(array, (1, 2, 3, 4))[place] for name, array in variables.items()}
        alone = evaluate(case.structure.root, pair, case.captures, case.numbers)
        assert alone.is_poisoned == bool(faults[place])
        if not alone.is_poisoned:
            assert bool(alone.value) == value[place]


def test_host_array() -> None:
    learned = torch.tensor([1.0, 2.5], dtype=torch.bfloat16, device="cpu").requires_grad_()
    assert host_array(learned).dtype == np.float32
    assert host_array(learned).tolist() == [1.0, 2.5]
    array = np.arange(3)
    assert host_array(array) is array
    shared = torch.zeros(2, device="cpu")
    assert np.shares_memory(host_array(shared), shared.numpy())
