"""What torch does around a call is told, and only while it does it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from saccade.backends.surroundings import carries_tangent, follower


class TestTangents:
    def test_only_the_tensor_that_has_one(self) -> None:
        plain = torch.ones(3)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(plain, plain)
            assert carries_tangent([None, plain, dual])
            assert not carries_tangent([None, plain])
            with torch.no_grad():  # forward mode does not ask
                assert carries_tangent([dual])
            with forward_ad._set_fwd_grad_enabled(False):
                assert not carries_tangent([dual])
        assert not carries_tangent([plain, dual])

    def test_an_outer_one_behind_the_wrappers_of_an_inner_transform(self) -> None:
        told = []

        def inner(y: Tensor, outer: Tensor) -> Tensor:
            told.append(carries_tangent([outer]))
            return (y * outer).sum()

        x = torch.ones(3)
        torch.func.jvp(lambda outer: torch.func.jvp(lambda y: inner(y, outer), (x,), (x,))[0], (x,), (x,))
        torch.func.jvp(lambda outer: torch.func.grad(inner)(x, outer), (x,), (x,))
        torch.func.grad(inner)(x, x)
        assert told == [True, True, False]


def test_who_follows() -> None:
    told = []

    def ask(x: Tensor) -> Tensor:
        told.append(follower())
        return 2 * x

    x = torch.ones(3)
    ask(x)
    torch.func.vmap(ask)(x)
    torch.func.vmap(torch.func.grad(lambda y: ask(y).sum()))(x)
    torch.func.grad(lambda y: ask(y).sum())(x)
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        torch.jit.trace(ask, x, check_trace=False)
    assert told == ["", "torch.func.vmap", "torch.func.vmap", "", "torch.jit.trace"]
