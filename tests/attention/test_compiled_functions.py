"""Custom autograd Functions in a mod under torch.compile keep their backward, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.variables.misc import AutogradFunctionVariable
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import saccade
from saccade import flex_attention

COMPILERS = ["eager", "aot_eager"]
TABLE = torch.randn(2)
factor = 2.0

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated. Methods on autograd functions are all static:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# No backward here is the derivative of its forward, so that one for the other shows.
class StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.floor(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad


class Reversed(Function):
    """Its forward does nothing that could be recorded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None


class Apart(Function):
    @staticmethod
    def forward(x: Tensor, head: Tensor, weight: float = 2.0) -> Tensor:
        return x * weight + head

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.weight = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.weight * x, None, None


class Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return 5 * grad * y, 7 * grad * x


class Nested(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return StraightThrough.apply(x) + 1  # type: ignore[no-any-return, no-untyped-call]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return StraightThrough.apply(grad) + grad  # type: ignore[no-any-return, no-untyped-call]


class OfTable(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Tensor) -> Tensor:
        return x * TABLE[head]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return 9 * grad, None


class Pair(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * factor * grad


Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
straight_through = StraightThrough.apply
slopes = torch.randn(2, requires_grad=True)
scale = torch.tensor(0.7, requires_grad=True)

# fmt: off
MODS: dict[str, Mod] = {
    "straight through": lambda s, b, h, q, k: StraightThrough.apply(s),
    "bound before any trace": lambda s, b, h, q, k: straight_through(s),
    "nothing recorded in forward": lambda s, b, h, q, k: Reversed.apply(s, 0.5),
    "setup_context": lambda s, b, h, q, k: Apart.apply(s, h, 3.0),
    "setup_context, a default": lambda s, b, h, q, k: Apart.apply(s, h),
    "Python's abs of the score": lambda s, b, h, q, k: StraightThrough.apply(abs(s)) * s,
    "an element of a parameter": lambda s, b, h, q, k: Product.apply(s, slopes[h]),
    "a parameter of no dimension": lambda s, b, h, q, k: Product.apply(s, scale),
    "two of them, one within": lambda s, b, h, q, k: Nested.apply(Product.apply(s, s * 2)),
    "of a parameter alone": lambda s, b, h, q, k: s * Reversed.apply(slopes, 2.0)[h],
}
# fmt: on


def results(attend: Callable[..., Tensor], mod: object) -> list[Tensor]:
    """The output, and the gradients of all that could have one."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 2, 7, 6, generator=generator).requires_grad_() for _ in range(3)]
    out = attend(*inputs, score_mod=mod, backend="eager")
    gradients = torch.autograd.grad(
        out.sin().sum(), [*inputs, slopes, scale], allow_unused=True, materialize_grads=True
    )
    return [out, *gradients]


def compiled(compiler: str = "aot_eager", **options: Any) -> Callable[..., Tensor]:
    return torch.compile(flex_attention, fullgraph=True, backend=compiler, **options)  # type: ignore[return-value]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("mod", MODS.values(), ids=MODS.keys())
def test_the_backward_is_kept(mod: Mod, compiler: str) -> None:
    attend, expected = compiled(compiler), results(flex_attention, mod)
    for _ in range(2):
        torch.testing.assert_close(results(attend, mod), expected)


def test_a_number_that_forward_reads_is_seen_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = compiled()

    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return Scaled.apply(s)  # type: ignore[no-any-return, no-untyped-call]

    for number in (2.0, 5.0):
        monkeypatch.setattr(f"{__name__}.factor", number)
        torch.testing.assert_close(results(attend, mod), results(flex_attention, mod))


def test_one_outside_a_mod_is_left_to_dynamo() -> None:
    query = torch.randn(1, 2, 7, 6, requires_grad=True)

    def run(query: Tensor) -> Tensor:
        rounded = StraightThrough.apply(query)  # type: ignore[no-untyped-call]
        mod = MODS["straight through"]
        return StraightThrough.apply(flex_attention(rounded, query, query, mod, backend="eager") * 9)  # type: ignore[no-any-return, no-untyped-call]

    expected, found = (
        torch.autograd.grad(function(query).sin().sum(), query)
        for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager"))
    )
    torch.testing.assert_close(found, expected)


def test_a_tensor_that_the_function_was_not_given_is_refused() -> None:
    def mod(s: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return OfTable.apply(s, h)  # type: ignore[no-any-return, no-untyped-call]

    with pytest.raises(Exception, match=r"reads a tensor that it was not given.*score_mod=saccade\.trace"):
        results(compiled(), mod)
    torch._dynamo.reset()
    with torch.no_grad():
        query = torch.randn(1, 2, 7, 6)
        found = compiled()(query, query, query, mod, backend="eager")
        torch.testing.assert_close(found, flex_attention(query, query, query, mod, backend="eager"))
    torch._dynamo.reset()
    torch.testing.assert_close(results(compiled(), saccade.trace(mod)), results(flex_attention, mod))


def test_two_outputs_are_refused() -> None:
    with pytest.raises(Exception, match="Pair: a custom Function in a mod has one output, got 2"):
        results(compiled(), lambda s, b, h, q, k: Pair.apply(s)[0])


def test_a_compiler_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(AutogradFunctionVariable, "call_apply")
    mod = MODS["straight through"]
    with pytest.raises(Exception, match=r"would lose its backward; .* score_mod=saccade\.trace\(mod\)"):
        results(compiled(), mod)
    torch._dynamo.reset()
    torch.testing.assert_close(results(compiled(), saccade.trace(mod)), results(flex_attention, mod))
