"""The approximate tanh is its definition, near tanh, and has the derivative that is promised."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from saccade.attention import flex_attention
from saccade.scores import softcap
from saccade.scores.approximate_tanh import approximate_tanh
from saccade.tracing import trace


def defined(x: float) -> float:
    """The definition, in exact arithmetic."""
    held = Fraction(max(-4.97, min(4.97, x)))
    s = held * held
    above = held * (135135 + 17325 * s + 378 * s**2 + s**3)
    return float(above / (135135 + 62370 * s + 3150 * s**2 + 28 * s**3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_is_its_definition(dtype: torch.dtype) -> None:
    points = torch.linspace(-12, 12, 501, dtype=dtype)
    expected = torch.tensor([defined(float(x)) for x in points], dtype=torch.float64)
    error = (approximate_tanh(points).double() - expected).abs().max()
    assert float(error) <= 8 * torch.finfo(dtype).eps


def test_it_is_the_continued_fraction() -> None:
    """1/x, 3/x, 5/x, ..., 13/x, each plus the inverse of the next."""
    x = Fraction(7, 3)
    tail = Fraction(13) / x
    for odd in (11, 9, 7, 5, 3, 1):
        tail = odd / x + 1 / tail
    assert float(1 / tail) == pytest.approx(defined(7 / 3), rel=1e-14)


def test_it_is_near_tanh_odd_and_growing() -> None:
    points = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    made, exact = approximate_tanh(points), torch.tanh(points)
    assert float((made - exact).abs().max()) < 1e-4
    nonzero = exact != 0
    assert float(((made - exact)[nonzero] / exact[nonzero]).abs().max()) < 1e-4
    assert float(made.abs().max()) < 1
    assert torch.equal(made, -approximate_tanh(-points))
    assert bool((made.diff() >= 0).all())


def test_extremes_stay_numbers_and_no_number_stays_none() -> None:
    made = approximate_tanh(torch.tensor([torch.inf, -torch.inf, 3e38, -3e38, torch.nan]))
    assert bool((made[:4].abs() < 1).all())
    assert torch.equal(made[:4].sign(), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert bool(made[4].isnan())


def test_the_derivative_is_one_less_the_square_of_the_value() -> None:
    points = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    made = approximate_tanh(points)
    (found,) = torch.autograd.grad(made.sum(), points)
    torch.testing.assert_close(found, (1 - made * made).detach(), rtol=1e-14, atol=0)
    # Not the quotient's own, which is 0 where x is held.
    assert bool((found > 0).all())


def test_it_works_under_vmap() -> None:
    points = torch.linspace(-6, 6, 12).view(3, 4)
    assert torch.equal(torch.vmap(approximate_tanh)(points), approximate_tanh(points))


def test_a_traced_softcap_keeps_the_derivative() -> None:
    assert "custom(" in str(trace(softcap(2.0, approximate=True)))
    query, key, value = (torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def weighted(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((out * torch.arange(4.0)).sum(), (query, key, value))

    found = weighted(flex_attention(query, key, value, softcap(0.1, approximate=True), backend="eager"))
    scores = 0.1 * approximate_tanh(query @ key.mT / 2 / 0.1)
    expected = weighted(scores.softmax(-1) @ value)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
