"""Which blocks the calls of a problem walk: those given, those found for a mask_mod alone, or none.

What was found is kept as long as it holds: for good where the mod reads no tensor, else for tensors that live
and were not written to. Invariant: what is kept holds no tensor of a call.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

from torch import Tensor

from saccade.backends.base import Operands
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.block_mask import BlockMask, create_block_mask
from saccade.codegen.triton.spec import Walk
from saccade.ir.program import Program
from saccade.problem import AttentionProblem

__all__ = ["Blocks", "blocks_of"]

_LATEST = 4  # of one problem, as layers that alternate between tensors need

_Mark = tuple[int, int]


@final
@dataclass(frozen=True, eq=False)
class _Found:
    """The blocks of a mask_mod for tensors as they were.

    Attributes:
        mask: A mask of these blocks, without the tensors.
        tensors: They, while they live.
        marks: Version and address of each then.
    """

    mask: BlockMask
    tensors: tuple[weakref.ref[Tensor], ...]
    marks: tuple[_Mark, ...]

    def is_of(self, tensors: tuple[Tensor, ...]) -> bool:
        """Tell whether these are the tensors, unchanged."""
        same = all(mine() is yours for mine, yours in zip(self.tensors, tensors, strict=True))
        return same and self.marks == tuple(map(_mark, tensors))


@final
class Blocks:
    """Which blocks the calls of a problem walk.

    Args:
        problem: The problem.
        analyses: Whether the blocks of a mask_mod alone are found before it is computed.

    Attributes:
        otherwise: How a kernel walks where there are no blocks.
    """

    def __init__(self, problem: AttentionProblem, *, analyses: bool) -> None:
        self._problem = problem
        lone_mask = problem.block_mask is None and problem.mask_mod is not None
        self.otherwise = Walk.PARTIAL if lone_mask else Walk.FULL
        self._analyses = lone_mask and analyses
        # Never changed but replaced, so that threads may look through it meanwhile.
        self._found: tuple[_Found, ...] = ()

    def of(self, operands: Operands) -> BlockMask | None:
        """Return the blocks to walk; None for every pair.

        Raises:
            UnsupportedError: They are found for a mask_mod, and a graph is captured.
        """
        if operands.block_mask is not None or not self._analyses:
            return operands.block_mask
        # Even those that are kept: a replay would not see that they changed, nor hold their tables.
        require_no_capture(
            operands.query.device,
            "blocks of a mask_mod are worked out on the host, which a replay does not do",
        )
        program = operands.mask
        assert program is not None, "a mask_mod alone is analysed"
        tensors = tuple([one for one in program.captures if isinstance(one, Tensor)])
        countable = len(tensors) == len(program.captures) and not any(map(Tensor.is_inference, tensors))
        if countable:
            for found in self._found:
                if found.is_of(tensors):
                    return found.mask
        mask = self._analysed(program)
        if countable:
            marks = tuple([_mark(one) for one in tensors])
            found = _Found(mask, tuple(map(weakref.ref, tensors)), marks)
            self._found = (*self._found, found)[-_LATEST:]
        return mask

    def _analysed(self, program: Program) -> BlockMask:
        problem = self._problem
        batch = problem.batch if program.reads("b") else None
        heads = problem.q_heads if program.reads("h") else None
        found = create_block_mask(program, batch, heads, problem.q_len, problem.kv_len, device="cpu")
        if not program.captures:
            return found
        bare = Program(program.structure, (), program.numbers, program.names)
        return replace(found, program=bare, mask_mod=bare, watched=())


@lru_cache(maxsize=256)
def blocks_of(problem: AttentionProblem, *, analyses: bool) -> Blocks:
    """Return the blocks of a problem, the same object for its forward and its backward."""
    return Blocks(problem, analyses=analyses)


def _mark(tensor: Tensor) -> _Mark:
    return tensor._version, tensor.data_ptr()
