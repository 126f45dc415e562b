"""Which blocks the calls of a problem walk."""

from __future__ import annotations

from typing import final

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands
from saccade.backends.cpu.specialise import analysis_pays
from saccade.block_mask import BlockMask, create_block_mask
from saccade.problem import AttentionProblem

__all__ = ["Blocks"]


@final
class Blocks:
    """Which blocks the calls of a problem walk.

    Args:
        problem: The problem.

    Attributes:
        everything: The kind of all pairs, where there are no blocks.
    """

    def __init__(self, problem: AttentionProblem) -> None:
        self._problem = problem
        lone_mask = problem.block_mask is None and problem.mask_mod is not None
        self.everything = BlockKind.PARTIAL if lone_mask else BlockKind.FULL
        self._analyses = lone_mask and analysis_pays(problem)
        self._analysed: BlockMask | None = None  # of a mask_mod that reads no tensor: the problem says it all

    def of(self, operands: Operands) -> BlockMask | None:
        """Return the blocks to walk; None for every pair."""
        if operands.block_mask is not None or not self._analyses:
            return operands.block_mask
        if self._analysed is not None:
            return self._analysed
        problem, program = self._problem, operands.mask
        assert program is not None, "a mask_mod alone is analysed"
        batch = problem.batch if program.reads("b") else None
        heads = problem.q_heads if program.reads("h") else None
        mask = create_block_mask(program, batch, heads, problem.q_len, problem.kv_len, device="cpu")
        if not program.captures:
            self._analysed = mask
        return mask
