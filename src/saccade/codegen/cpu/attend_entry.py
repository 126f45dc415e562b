"""What the entries `attend` of both kernels begin with: arguments, programs, the scale, a thread's memory.

How items are found and walked is each kernel's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.rows import RowTables
from saccade.codegen.cpu.score_tiling import AttendTiling
from saccade.codegen.cpu.tile_programs import TilePrograms
from saccade.codegen.cpu.work import private_memory
from saccade.codegen.cpu.work_item import read_scale

__all__ = ["AttendEntry"]

Tiling = TypeVar("Tiling", bound=AttendTiling)


class AttendEntry(ABC, Generic[Tiling]):
    """An entry under construction.

    Args:
        tiling: Its sizes.
        module: Where it goes.
        layout: Where its arguments stand.
        name: Its name.

    Attributes:
        e: The function.
        tiling: Its sizes.
        arguments: Its arguments.
        programs: Its programs.
        scale: The scale of scores.
        scratch: Where the parts of a thread's memory stand.
        memory: Their addresses.
        tables: Those of the rows.
    """

    row_variables: tuple[str, ...]
    """The index variables that vary from row to row."""

    def __init__(self, tiling: Tiling, module: ir.Module, layout: ArgumentLayout, name: str) -> None:
        e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
        self.e, self.tiling = e, tiling
        self.arguments = Arguments(e, e.function.args[0], layout)
        self.programs = TilePrograms(e, tiling.spec, self.arguments, self.row_variables)
        self.scale = read_scale(e, self.arguments, changed=self.programs.has_score)
        self.scratch = tiling.scratch(self.programs.table_bytes)
        memory = private_memory(e, self.arguments, self.scratch.size)
        self.memory = {part: e.at(memory, offset) for part, offset in self.scratch.offsets.items()}
        self.tables = RowTables(*(self.memory[part] for part in RowTables.PARTS))

    @abstractmethod
    def emit(self) -> int:
        """Write the function and return the bytes of scratch memory that each thread needs."""

    def scores_at(self, row: Value, column: Value | None = None) -> Value:
        """Return the address of a score, of a row that is in memory."""
        e = self.e
        at = e.nth(self.memory["scores"], row, self.tiling.score_row)
        return at if column is None else e.nth(at, column, self.tiling.word)
