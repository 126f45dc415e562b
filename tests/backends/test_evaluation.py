"""The torch evaluation of expressions against the numpy interpreter, op by op, and its gradients."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from saccade.backends.evaluation import ELEMENTWISE, SHAPED, Evaluated, evaluate
from saccade.ir import interpret
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, cast, const, load, make, number, var
from saccade.ir.ops import OPS, REDUCTIONS, Op, TypeRule

CPU = torch.device("cpu")
Q_IDX = var("q_idx")
KV_IDX = var("kv_idx")
SCORE = var("score", DType.FLOAT64)
GRAD = var("grad", DType.FLOAT64)

FLOATS = np.array([-math.inf, -2.5, -1.0, -0.5, 0.0, 0.5, 1.5, 2.5, 3.0, math.inf, math.nan])
INTS = np.array([-70, -3, -2, -1, 0, 1, 2, 3, 5, 64, 70])


def both(root: Expr, variables: dict[str, np.ndarray], captures=(), numbers=()) -> tuple:
    """What torch and numpy make of an expression."""
    tensors = {name: torch.from_numpy(array) for name, array in variables.items()}
    mine = evaluate(root, tensors, [torch.as_tensor(c) for c in captures], numbers, device=CPU)
    return mine, interpret.evaluate(root, variables, captures, numbers)


def assert_same(
    root: Expr, variables: dict[str, np.ndarray], captures=(), numbers=(), rtol: float = 1e-12
) -> None:
    mine, theirs = both(root, variables, captures, numbers)
    shape = np.broadcast_shapes(*(array.shape for array in variables.values()))
    poison = np.zeros(shape, bool) if theirs.poison is None else np.broadcast_to(theirs.poison != 0, shape)
    assert np.array_equal(poisoned(mine, shape), poison)
    value = np.broadcast_to(mine.value.numpy(), shape) if mine.value.dim() <= len(shape) else None
    assert value is not None, f"expected at most {len(shape)} dimensions, got {tuple(mine.value.shape)}"
    np.testing.assert_allclose(value[~poison], np.broadcast_to(theirs.value, shape)[~poison], rtol=rtol)


def poisoned(result: Evaluated, shape: tuple[int, ...]) -> np.ndarray:
    if result.poison is None:
        return np.zeros(shape, bool)
    return np.broadcast_to(result.poison.numpy(), shape)


def test_every_op_has_one_row() -> None:
    assert set(Op) == ELEMENTWISE.keys() | SHAPED.keys()
    assert not ELEMENTWISE.keys() & SHAPED.keys()


@pytest.mark.parametrize(
    "op",
    [
        op
        for op, info in OPS.items()
        if info.rule in (TypeRule.NUMERIC, TypeRule.FLOAT) and op not in REDUCTIONS  # those are tested below
    ],
    ids=repr,
)
def test_float_ops_agree_with_the_interpreter(op: Op) -> None:
    other = var("grad", DType.FLOAT64)
    root = make(op, (SCORE, other)[: OPS[op].arity])
    assert_same(root, {"score": FLOATS[:, None], "grad": FLOATS})


@pytest.mark.parametrize(
    "op",
    [
        op
        for op, info in OPS.items()
        if info.arity == 2 and info.rule in (TypeRule.NUMERIC, TypeRule.INTEGER, TypeRule.LOGIC)
    ]
    + [Op.NEG, Op.ABS, Op.NOT],
    ids=repr,
)
def test_integer_ops_agree_with_the_interpreter(op: Op) -> None:
    root = make(op, (Q_IDX, KV_IDX)[: OPS[op].arity])
    assert_same(root, {"q_idx": INTS[:, None], "kv_idx": INTS})


@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE], ids=repr)
def test_comparisons_agree_with_the_interpreter(op: Op) -> None:
    assert_same(make(op, (Q_IDX, KV_IDX)), {"q_idx": INTS[:, None], "kv_idx": INTS})
    assert_same(make(op, (SCORE, GRAD)), {"score": FLOATS[:, None], "grad": FLOATS})


@pytest.mark.parametrize("target", list(DType), ids=repr)
def test_casts_agree_with_the_interpreter(target: DType) -> None:
    whole = np.array([-129.0, -1.7, -0.5, 0.0, 0.4, 1.6, 255.5, 300.0, 70000.0])
    assert_same(cast(SCORE, target), {"score": whole})
    assert_same(cast(Q_IDX, target), {"q_idx": INTS})
    assert_same(cast(make(Op.LT, (Q_IDX, KV_IDX)), target), {"q_idx": INTS, "kv_idx": INTS[::-1].copy()})


def test_numbers_and_constants() -> None:
    root = make(Op.ADD, (make(Op.MUL, (Q_IDX, number(0, DType.INT64))), const(-1, DType.INT64)))
    assert_same(root, {"q_idx": INTS}, numbers=(2**40,))


class TestLoads:
    table = np.arange(12.0).reshape(3, 4)

    def test_negative_indices_count_from_the_end(self) -> None:
        root = load(0, (Q_IDX, KV_IDX), DType.FLOAT64)
        assert_same(root, {"q_idx": np.arange(-3, 3)[:, None], "kv_idx": np.arange(-4, 4)}, [self.table])

    def test_an_index_out_of_range_is_poison(self) -> None:
        root = load(0, (Q_IDX, KV_IDX), DType.FLOAT64)
        variables = {"q_idx": np.arange(-5, 5)[:, None], "kv_idx": np.arange(-2, 6)}
        assert_same(root, variables, [self.table])
        assert both(root, variables, [self.table])[0].poison is not None

    def test_no_poison_is_kept_where_every_index_is_inside(self) -> None:
        assert (
            both(load(0, (Q_IDX, Q_IDX), DType.FLOAT64), {"q_idx": np.arange(3)}, [self.table])[0].poison
            is None
        )

    def test_everything_is_poison_in_an_empty_table(self) -> None:
        assert_same(load(0, (Q_IDX,), DType.INT64), {"q_idx": np.arange(3)}, [np.zeros(0, np.int64)])

    def test_a_zero_dimensional_tensor(self) -> None:
        assert_same(load(0, (), DType.FLOAT64), {"q_idx": np.arange(3)}, [np.array(2.5)])

    def test_half_precision_is_widened_before_reading(self) -> None:
        table = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
        q_idx = torch.zeros(300, dtype=torch.int64)
        read = evaluate(load(0, (Q_IDX,), DType.FLOAT32), {"q_idx": q_idx}, [table], (), device=CPU).value
        assert read.dtype is torch.float32
        (read * 0.01).sum().backward()
        # Added up in bfloat16, steps of 0.01 stop counting long before 300 of them.
        torch.testing.assert_close(
            table.grad, torch.tensor([3.0, 0.0], dtype=torch.bfloat16), rtol=2**-8, atol=0
        )


class TestPoison:
    indices: ClassVar = {"q_idx": np.arange(-1, 6)[:, None], "kv_idx": np.arange(-2, 3)}
    bools = np.array([True, False, True])

    def flag(self, index: Expr) -> Expr:
        return load(0, (index,), DType.BOOL)

    @pytest.mark.parametrize("op", [Op.AND, Op.OR, Op.XOR], ids=repr)
    def test_logic(self, op: Op) -> None:
        assert_same(make(op, (self.flag(Q_IDX), self.flag(KV_IDX))), self.indices, [self.bools])
        settled = make(Op.LT, (KV_IDX, const(1, DType.INT64)))
        assert_same(make(op, (self.flag(Q_IDX), settled)), self.indices, [self.bools])
        assert_same(make(op, (settled, self.flag(Q_IDX))), self.indices, [self.bools])

    def test_where_drops_the_side_not_taken(self) -> None:
        inside = make(Op.LT, (Q_IDX, const(3, DType.INT64)))
        root = make(Op.WHERE, (inside, self.flag(Q_IDX), self.flag(KV_IDX)))
        most = make(Op.LT, (Q_IDX, const(5, DType.INT64)))  # True at some of the poison, False at the rest
        for side in (self.flag(Q_IDX), inside), (inside, self.flag(Q_IDX)):
            assert_same(make(Op.WHERE, (inside, *side)), self.indices, [self.bools])
            assert_same(make(Op.WHERE, (most, *side)), self.indices, [self.bools])
        assert_same(root, self.indices, [self.bools])
        assert_same(make(Op.WHERE, (self.flag(Q_IDX), inside, self.flag(KV_IDX))), self.indices, [self.bools])

    def test_bits_of_integers_do_not_decide(self) -> None:
        entry = load(0, (Q_IDX,), DType.INT64)
        assert_same(make(Op.AND, (entry, const(0, DType.INT64))), self.indices, [np.array([1, 2, 3])])

    @pytest.mark.parametrize("op", [Op.FLOOR_DIV, Op.REMAINDER], ids=repr)
    def test_division_by_integer_zero(self, op: Op) -> None:
        assert_same(make(op, (Q_IDX, KV_IDX)), self.indices)
        assert_same(make(Op.NEG, (make(op, (Q_IDX, KV_IDX)),)), self.indices)


class TestReductions:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    columns = np.random.default_rng(1).normal(size=(7, 3))
    grid: ClassVar = {"q_idx": np.arange(5).reshape(1, 1, 5, 1), "kv_idx": np.arange(7).reshape(1, 1, 1, 7)}

    @pytest.mark.parametrize("op", [Op.SUM, Op.MAX, Op.MIN], ids=repr)
    def test_over_an_axis(self, op: Op) -> None:
        entry = load(0, (Q_IDX, axis(0)), DType.FLOAT64)
        assert_same(make(op, (entry,), (0, 3)), self.grid, [self.rows])

    @pytest.mark.parametrize("op", [Op.SUM, Op.MAX, Op.MIN], ids=repr)
    def test_a_body_that_does_not_read_the_axis(self, op: Op) -> None:
        assert_same(make(op, (Q_IDX,), (0, 3)), self.grid)

    def test_over_nothing(self) -> None:
        assert_same(make(Op.SUM, (load(0, (Q_IDX, axis(0)), DType.FLOAT64),), (0, 0)), self.grid, [self.rows])
        empty = np.zeros((5, 0))
        assert_same(make(Op.SUM, (load(0, (Q_IDX, axis(0)), DType.FLOAT64),), (0, 0)), self.grid, [empty])

    def test_one_axis_bound_to_two_extents(self) -> None:
        entry = load(0, (Q_IDX, axis(0)), DType.FLOAT64)
        both_sums = make(Op.SUB, (make(Op.SUM, (entry,), (0, 3)), make(Op.SUM, (entry,), (0, 2))))
        assert_same(both_sums, self.grid, [self.rows])

    def test_nested_axes(self) -> None:
        entry = load(0, (Q_IDX, axis(1)), DType.FLOAT64)
        inner = make(Op.MAX, (make(Op.MUL, (entry, load(1, (KV_IDX, axis(0)), DType.FLOAT64))),), (0, 3))
        assert_same(make(Op.SUM, (inner,), (1, 3)), self.grid, [self.rows, self.columns])
        single = make(Op.SUM, (make(Op.SUM, (entry,), (0, 2)),), (1, 1))
        assert_same(single, self.grid, [self.rows])

    def test_poison_of_any_element(self) -> None:
        entry = load(0, (Q_IDX, axis(0)), DType.FLOAT64)
        reach = make(Op.SUM, (load(0, (make(Op.ADD, (Q_IDX, axis(0))), axis(0)), DType.FLOAT64),), (0, 3))
        assert_same(reach, self.grid, [self.rows])
        assert_same(make(Op.SUM, (entry,), (0, 4)), self.grid, [self.rows])

    def product(self, swapped: bool = False) -> Expr:
        factors = (load(0, (Q_IDX, axis(0)), DType.FLOAT64), load(1, (KV_IDX, axis(0)), DType.FLOAT64))
        return make(Op.SUM, (make(Op.MUL, factors[::-1] if swapped else factors),), (0, 3))

    @pytest.mark.parametrize("swapped", [False, True])
    def test_a_dot_product_of_rows_is_a_matrix_product(self, swapped: bool) -> None:
        assert_same(self.product(swapped), self.grid, [self.rows, self.columns])

    def test_a_dot_product_knows_poison(self) -> None:
        assert_same(self.product(), self.grid, [self.rows[:3], self.columns])
        assert_same(self.product(), self.grid, [self.rows, self.columns[:, :2]])

    def test_a_dot_product_under_another_sum(self) -> None:
        scaled = make(Op.MUL, (self.product(), cast(axis(1), DType.FLOAT64)))
        assert_same(make(Op.SUM, (scaled,), (1, 4)), self.grid, [self.rows, self.columns])

    def test_no_gradient_comes_from_a_hidden_pair(self) -> None:
        rows = torch.tensor(self.rows, requires_grad=True)
        columns = torch.tensor(self.columns)
        tensors = {name: torch.from_numpy(array) for name, array in self.grid.items()}
        visible = (tensors["q_idx"] >= tensors["kv_idx"])[0, 0]
        result = evaluate(self.product(), tensors, [rows, columns], (), device=CPU, visible=visible).value
        upstream = torch.where(visible, 1.0, math.nan).to(torch.float64)
        (gradient,) = torch.autograd.grad(result, rows, upstream.expand_as(result))
        torch.testing.assert_close(gradient, visible.double() @ columns)


class TestCustom:
    """y = 2 s, with a derivative that is not 2."""

    def node(self, gradient: Expr) -> Expr:
        return make(Op.CUSTOM, (make(Op.ADD, (SCORE, SCORE)), SCORE, gradient), 1)

    def test_value_and_the_users_gradient(self) -> None:
        score = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        gradient = make(Op.MUL, (var("cotangent", DType.FLOAT64), make(Op.MUL, (SCORE, SCORE))))
        value = evaluate(self.node(gradient), {"score": score}, (), (), device=CPU).value
        torch.testing.assert_close(value, 2 * score)
        value.backward(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
        assert score.grad is not None
        assert score.grad.tolist() == [1.0, 40.0, 900.0]

    def test_each_pair_has_its_own_cotangent(self) -> None:
        """A value that reads no pair, and a derivative that does."""
        bias = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        entry = load(0, (), DType.FLOAT64)
        derivative = make(Op.MUL, (var("cotangent", DType.FLOAT64), cast(Q_IDX, DType.FLOAT64)))
        node = make(Op.CUSTOM, (const(1.0, DType.FLOAT64), entry, derivative), 1)
        value = evaluate(node, {"q_idx": torch.arange(4)}, [bias], (), device=CPU).value
        value.backward(torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64))
        assert bias.grad is not None
        assert bias.grad.item() == 0 + 1 + 2 + 2 * 3

    def test_only_the_value_is_poisoned(self) -> None:
        outside = load(0, (Q_IDX,), DType.FLOAT64)
        node = make(Op.CUSTOM, (const(1.0, DType.FLOAT64), outside, var("cotangent", DType.FLOAT64)), 1)
        assert_same(node, {"q_idx": np.arange(4)}, [np.zeros(2)])


def test_a_hidden_pair_sends_no_nan_to_a_captured_tensor() -> None:
    bias = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    steps = torch.arange(2)
    root = make(
        Op.MUL,
        (
            load(0, (Q_IDX,), DType.FLOAT64),
            make(Op.SQRT, (cast(make(Op.SUB, (Q_IDX, KV_IDX)), DType.FLOAT64),)),
        ),
    )
    variables = {"q_idx": steps[:, None], "kv_idx": steps}
    visible = steps[:, None] >= steps
    value = evaluate(root, variables, [bias], (), device=CPU, visible=visible).value
    torch.where(visible, value, 0.0).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [0.0, 1.0]


def test_a_meta_tensor_is_evaluated_without_reading_it() -> None:
    root = make(Op.FLOOR_DIV, (load(0, (Q_IDX,), DType.INT64), Q_IDX))
    meta = torch.arange(4, device="meta")
    result = evaluate(root, {"q_idx": meta}, [meta], (), device=torch.device("meta"))
    assert result.value.shape == (4,)
    assert result.poison is None


def test_long_chains_do_not_recurse() -> None:
    root = Q_IDX
    for _ in range(5000):
        root = make(Op.ADD, (root, KV_IDX))
    steps = torch.arange(3)
    assert evaluate(root, {"q_idx": steps, "kv_idx": steps}, (), (), device=CPU).value.tolist() == [
        0,
        5001,
        10002,
    ]
