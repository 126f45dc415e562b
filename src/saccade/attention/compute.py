"""The last step of a call: what was asked is computed, by the kernel itself or through the operator."""

from __future__ import annotations

from torch import Tensor

from saccade.attention.request import Request
from saccade.backends.base import Results
from saccade.planner import Plan, plan
from saccade.torch_ops import attention, goes_through_operator

__all__ = ["compute", "planned"]


def planned(request: Request) -> Plan:
    """Choose who computes a call.

    Raises:
        BackendError: No backend, or not the one named, takes it.
    """
    return plan(request.problem, request.backend, request.schedule)


def compute(request: Request, chosen: Plan) -> Results:
    """Compute a call as planned.

    Raises:
        UnsupportedError: It must be one operation to torch, and asks for what that has not.
        StaleMaskError: A tensor that its block mask was made from has changed.
        IndexOutOfRangeError: A mod reads out of range where that decides something.
        DivisionByZeroError: It divides by integer zero likewise.
    """
    operands = request.drawn()
    tensors = [operands.query, operands.key, operands.value]
    for program in (operands.score, operands.mask, request.packed):
        if program is not None:
            tensors += [capture for capture in program.captures if isinstance(capture, Tensor)]
    if goes_through_operator(chosen.backend, tensors):
        return attention(request.problem, operands, request.packed, chosen.backend)
    return chosen.compile()(operands)
