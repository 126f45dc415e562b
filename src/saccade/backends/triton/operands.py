"""The operands of a call as arguments of kernels, the same for its forward and its backward."""

from __future__ import annotations

from typing import NamedTuple, final

from saccade.backends.base import Operands
from saccade.backends.mods import mods_of, programs_of
from saccade.backends.triton.arguments import (
    Capture,
    Layout,
    Values,
    fill_captures,
    fill_rows,
    fill_seed,
    fill_tensor,
    template,
)
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.problem import AttentionProblem

__all__ = ["OperandReader", "Read"]


class Read(NamedTuple):
    """The operands of a call, read.

    Attributes:
        values: The arguments that they and the problem give.
        aligned: Whether all addresses and strides of query, key and value allow loads of 16 bytes.
        layouts: How each capture lies, program by program.
    """

    values: Values
    aligned: bool
    layouts: tuple[Layout, ...]


@final
class OperandReader:
    """Reads the operands of a problem's calls.

    Args:
        problem: The problem.

    Attributes:
        mods: Its programs.
    """

    def __init__(self, problem: AttentionProblem) -> None:
        self.mods = mods_of(problem)
        self._template = template(problem, self.mods)

    def read(self, operands: Operands) -> Read:
        """Read the operands of a call.

        Raises:
            OperandError: The storage of a tensor ends before its last element.
            UnsupportedError: A graph is captured, and there is dropout, or a mod reads what is on the host.
        """
        values = self._template.copy()
        aligned = fill_tensor(values, "query", operands.query)
        aligned &= fill_tensor(values, "key", operands.key)
        aligned &= fill_tensor(values, "value", operands.value)
        if operands.sinks is not None:
            fill_rows(values, "sinks", operands.sinks)
        if operands.dropout_seed is not None:
            require_no_capture(
                operands.query.device,
                "the seed of dropout is drawn on the host, anew for every call, which a replay does not do",
                "pass dropout_p=0.0, or leave the call out of the graph",
            )
            fill_seed(values, operands.dropout_seed)
        layouts: tuple[Layout, ...] = ()
        if self.mods:
            device = operands.query.device
            for which, program in programs_of(operands).items():
                captures = tuple([Capture.of(each, device) for each in program.captures])
                fill_captures(values, which, captures)
                layouts += tuple([capture.layout for capture in captures])
        return Read(values, aligned, layouts)
