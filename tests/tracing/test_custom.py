"""Custom autograd Functions, custom ops and rules given by users."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.autograd import Function

from pairwise import check
from saccade.errors import ArgumentTypeError, TraceError, UnsupportedOpError
from saccade.ir.expr import walk
from saccade.ir.grad import differentiate
from saccade.ir.interpret import evaluate
from saccade.ir.ops import Op
from saccade.ir.structure import ModKind
from saccade.tracing import register_rule, trace
from saccade.tracing.registration import op_name

SCORE = ModKind.SCORE
SLOPE = torch.tensor(1.5, requires_grad=True)
TABLE = torch.tensor([1.0, 2.0])


class StraightThrough(Function):
    """Rounds, and passes the gradient through three times over: not the derivative of what it computes."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class Tenfold(Function):
    """Its backward gives ten times the derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 20 * grad


class Scaled(Function):
    """The separate setup_context, saved values, attributes, a Python number, an integer."""

    @staticmethod
    def forward(x, h, factor=2.0):
        return x * factor + h

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, factor = inputs
        ctx.save_for_backward(x, output)
        ctx.save_for_forward(x)
        ctx.set_materialize_grads(False)
        ctx.factor = factor
        ctx.wanted = ctx.needs_input_grad

    @staticmethod
    def backward(ctx, grad):
        x, output = ctx.saved_tensors
        assert ctx.wanted == (True, False, False)
        return grad * ctx.factor + 0 * x * output, None, None


class Product(Function):
    """Two differentiable inputs, one of them captured; other backward than derivative."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y * 10, grad * x * 100


class Nested(Function):
    """Applies another Function in both directions."""

    @staticmethod
    def forward(ctx, x):
        return StraightThrough.apply(x) + x

    @staticmethod
    def backward(ctx, grad):
        return StraightThrough.apply(grad) * 5


def gradient_of_score(mod, score: np.ndarray, cotangent: float = 1.0) -> np.ndarray:
    """The derivative of a score mod with respect to its score, times `cotangent`."""
    program = trace(mod, SCORE)
    derivative = differentiate(program.structure, ())
    assert derivative.score is not None
    grid = {name: np.zeros(len(score), np.int64) for name in ("b", "h", "q_idx", "kv_idx")}
    grad = np.full(len(score), cotangent, np.float32)
    result = evaluate(
        derivative.score, {**grid, "score": score, "grad": grad}, program.captures, program.numbers
    )
    return np.broadcast_to(result.value, score.shape)


POINTS = np.array([-1.4, 0.3, 2.6], np.float32)


def test_backward_is_the_derivative_even_where_it_is_not() -> None:
    mod = lambda score, b, h, q_idx, kv_idx: 2 * StraightThrough.apply(score)  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), [6, 6, 6])


def test_apply_bound_before_the_first_trace_keeps_its_backward() -> None:
    """`f = MyFunction.apply` at the top of a module, as torch's documentation writes it."""
    script = """
import torch

class Tenfold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 20 * grad

class Apart(Tenfold):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

bound = Tenfold.apply, Apart.apply
from saccade.tracing import trace

for apply in bound:
    print(trace(lambda score, b, h, q_idx, kv_idx: apply(score)))
    x = torch.tensor(3.0, requires_grad=True)
    apply(x).backward()
    print(x.grad.item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    program = repr(trace(lambda score, b, h, q_idx, kv_idx: Tenfold.apply(score), SCORE))
    assert done.stdout == f"{program}\n20.0\n" * 2
    assert "custom" in program


def test_setup_context_saved_values_and_defaults() -> None:
    mod = lambda score, b, h, q_idx, kv_idx: Scaled.apply(score, h)  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), [2, 2, 2])
    mod = lambda score, b, h, q_idx, kv_idx: Scaled.apply(x=score, h=h, factor=-1.5)  # noqa: E731
    np.testing.assert_allclose(gradient_of_score(mod, POINTS, 2.0), [-3, -3, -3])


def test_two_inputs_of_which_one_is_captured() -> None:
    mod = lambda score, b, h, q_idx, kv_idx: Product.apply(score, SLOPE)  # noqa: E731
    program = check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), [15, 15, 15])
    derivative = differentiate(program.structure, (0,))
    (captured,) = derivative.captures
    variables = {"score": POINTS, "grad": np.float32(1)}
    result = evaluate(captured.value, variables, program.captures, program.numbers)
    np.testing.assert_allclose(result.value, 100 * POINTS, rtol=1e-6)


def test_functions_inside_functions() -> None:
    mod = lambda score, b, h, q_idx, kv_idx: Nested.apply(score)  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS, 1.4), [5, 5, 5])


def test_integers_and_double_application() -> None:
    mod = lambda score, b, h, q_idx, kv_idx: score + StraightThrough.apply(q_idx * 0.3)  # noqa: E731
    check(mod, SCORE)
    mod = lambda score, b, h, q_idx, kv_idx: StraightThrough.apply(StraightThrough.apply(score))  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), [9, 9, 9])


def test_a_function_of_integers_alone_is_a_value() -> None:
    class Halved(Function):
        @staticmethod
        def forward(ctx, x):
            return x // 2

        @staticmethod
        def backward(ctx, grad):
            return None

    program = check(lambda b, h, q_idx, kv_idx: Halved.apply(q_idx) >= kv_idx, ModKind.MASK)
    assert all(node.op is not Op.CUSTOM for node in walk(program.root))


def test_detach_and_non_differentiable_stop_the_gradient() -> None:
    class Frozen(Function):
        @staticmethod
        def forward(ctx, x):
            y = x * x
            ctx.mark_non_differentiable(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("never called")

    mod = lambda score, b, h, q_idx, kv_idx: score * 2 + Frozen.apply(score) + score.detach()  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), [2, 2, 2])


def test_ordinary_use_of_functions_is_untouched() -> None:
    trace(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = StraightThrough.apply(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 2.0]
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]
    Product.apply(x, x).sum().backward()
    assert x.grad.tolist() == pytest.approx([3 + 110 * 0.4, 3 + 110 * 1.6])


def test_threads_trace_independently() -> None:
    texts: list[str] = []

    def work(factor: int) -> None:
        texts.extend(
            repr(trace(lambda s, b, h, q, k: StraightThrough.apply(s) * factor, SCORE)) for _ in range(20)
        )

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 40
    assert len(set(texts)) == 2


class _Refused:
    class Pair(Function):
        @staticmethod
        def forward(ctx, x):
            return x, x

    class Dirty(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x

    class Short(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, grad):
            return grad

    class ForTable(Function):
        @staticmethod
        def forward(ctx, x, table, h):
            return x * table[h]

        @staticmethod
        def backward(ctx, grad):
            return grad, grad, None

    class Wide(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * TABLE


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        (
            lambda s, b, h, q, k: _Refused.Pair.apply(s),
            "Pair: a custom Function in a mod has one output, got 2",
        ),
        (lambda s, b, h, q, k: _Refused.Dirty.apply(s), r"mark_dirty\(\) announces a write"),
        (
            lambda s, b, h, q, k: _Refused.Short.apply(s, h),
            "Short: backward must return one gradient for each",
        ),
        (
            lambda s, b, h, q, k: _Refused.ForTable.apply(s, TABLE, h),
            "ForTable: backward gives a gradient for arg",
        ),
        (
            lambda s, b, h, q, k: _Refused.Wide.apply(s),
            r"Wide: backward must return single elements, got shape \(2,",
        ),
        (
            lambda s, b, h, q, k: StraightThrough.apply(s * TABLE).sum(),
            r"single elements, got shapes \(2,\), \(2,\)",
        ),
    ],
)
def test_what_a_function_in_a_mod_cannot_do(mod, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(mod, SCORE)


@torch.library.custom_op("saccade_test::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


@torch.library.custom_op("saccade_test::fast_tanh", mutates_args=())
def fast_tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


class FastTanh(Function):
    """attention-gym's form of softcap: a custom op, its derivative in a Function of its own."""

    @staticmethod
    def forward(x):
        return torch.ops.saccade_test.fast_tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        (result,) = ctx.saved_tensors
        return grad * (1 - result * result)


def test_an_unknown_custom_op_shows_how_to_give_it_a_rule() -> None:
    with pytest.raises(
        UnsupportedOpError,
        match=r"torch\.ops\.saccade_test\.cube has no meaning in a mod: .*"
        r"saccade\.register_rule\(torch\.ops\.saccade_test\.cube, lambda \*args: \.\.\.\)",
    ):
        trace(lambda score, b, h, q_idx, kv_idx: cube(score), SCORE)


def test_rules_reach_every_form_of_an_op() -> None:
    register_rule(fast_tanh, torch.tanh)
    for call in (fast_tanh, torch.ops.saccade_test.fast_tanh, torch.ops.saccade_test.fast_tanh.default):
        check(lambda score, b, h, q_idx, kv_idx, call=call: call(score), SCORE)
    mod = lambda score, b, h, q_idx, kv_idx: 2 * FastTanh.apply(score / 2)  # noqa: E731
    check(mod, SCORE)
    np.testing.assert_allclose(gradient_of_score(mod, POINTS), 1 - np.tanh(POINTS / 2) ** 2, rtol=1e-5)


def test_a_rule_may_replace_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["saccade.tracing.registration"], "_rules", {})
    register_rule(torch.sinc, lambda x: torch.where(x == 0, 1.0, torch.sin(x * torch.pi) / (x * torch.pi)))
    check(lambda score, b, h, q_idx, kv_idx: torch.sinc(score), SCORE)
    register_rule(torch.tanh, lambda x: x + 1)
    program = trace(lambda score, b, h, q_idx, kv_idx: torch.tanh(score), SCORE)
    assert program.root.op is Op.ADD


def test_register_rule_wants_two_functions() -> None:
    with pytest.raises(ArgumentTypeError, match=r"register_rule\(\) expects two functions, got rule=3"):
        register_rule(torch.tanh, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="got torch_op='tanh'"):
        register_rule("tanh", torch.tanh)  # type: ignore[arg-type]


def test_names_of_operations() -> None:
    assert op_name(torch.ops.aten.tanh.default) == "torch.ops.aten.tanh"
    assert op_name(torch.Tensor.sort) == "torch.Tensor.sort"
    assert op_name(torch.sort) == "torch.sort"
    assert op_name(torch.nn.functional.pad) == "torch.nn.functional.pad"
    assert op_name(cube) == "torch.ops.saccade_test.cube"
    assert op_name(len) == "len"


def test_a_table_argument_without_a_gradient_is_read() -> None:
    class Indexed(Function):
        @staticmethod
        def forward(ctx, x, table, h):
            return x * table[h]

        @staticmethod
        def backward(ctx, grad):
            return (grad, None, None, None)

    check(lambda score, b, h, q_idx, kv_idx: Indexed.apply(score, TABLE, h), SCORE)


def test_torch_keeps_knowing_a_bound_apply() -> None:
    apply, plain = StraightThrough.apply, Function.__dict__["apply"]

    def score_mod(score, b, h, q_idx, kv_idx):
        return StraightThrough.apply(score)

    def scaled(x):
        traced = trace(score_mod, SCORE)  # a Function inside a transform, without a setup_context
        assert any(expr.op is Op.CUSTOM for expr in walk(traced.root))
        return (2 * x).sum()

    torch.testing.assert_close(torch.func.grad(scaled)(torch.ones(3)), torch.full((3,), 2.0))
    assert Function.__dict__["apply"] is plain
    assert StraightThrough.apply == apply  # by which torch.compile knows it
