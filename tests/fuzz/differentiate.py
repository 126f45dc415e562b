"""The gradients of a fuzzed call by the engine, and their repetition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fuzz.call import Call
from fuzz.operands import Operands, upstream
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError

__all__ = ["POISON", "Differentiated", "differentiated", "threads"]

POISON = (IndexOutOfRangeError, DivisionByZeroError)
"""What a call raises whose mod has no value at a visible pair."""


@dataclass(frozen=True, eq=False)
class Differentiated:
    """A backward of the engine.

    Attributes:
        out: The output that it was of.
        grad_out: The output's gradient; None where it is 0.
        grad_lse: That of lse, likewise.
        gradients: What came of it, by name, or the error that poison raised.
        again: The same of the repetition, if there was one.
    """

    out: Tensor
    grad_out: Tensor | None
    grad_lse: Tensor | None
    gradients: Mapping[str, Tensor] | Exception
    again: Mapping[str, Tensor] | None = None


def differentiated(
    call: Call, operands: Operands, out: Tensor | None, lse: Tensor | None
) -> Differentiated | None:
    """Differentiate a call; None where there is nothing to differentiate.

    Args:
        call: The call.
        operands: Its operands, of which those that learn require gradients.
        out: Its output.
        lse: Its lse, if that was asked for.
    """
    learned = operands.learned(call)
    if call.backward is None or not learned or out is None or not out.requires_grad:
        return None
    grads = upstream(call, out, lse)
    pairs = [(one, grad) for one, grad in zip((out, lse), grads, strict=True) if grad is not None]
    if not pairs:
        return None
    outputs, given = zip(*pairs, strict=True)

    def gradients() -> dict[str, Tensor]:
        found = torch.autograd.grad(
            outputs,
            list(learned.values()),
            given,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(learned, found, strict=True))

    try:
        found = gradients()
    except POISON as fault:
        return Differentiated(out.detach(), *grads, fault)
    again = None
    if call.backward.again is not None:
        with threads(call.backward.again):
            again = gradients()
    return Differentiated(out.detach(), *grads, found, again)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch's number of threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
