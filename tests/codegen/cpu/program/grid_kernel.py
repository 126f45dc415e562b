"""A little kernel around one program: its value and poison at every pair, by the tiles of a real kernel.

`Grid` says what is evaluated where; `evaluate_grid` compiles it for an instruction set of this host and runs
it; `reference` is the interpreter's answer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.emitter import BOOL, I8, I64, Emitter, Value
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.program.code import ProgramCode, Row
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.interpret import Evaluated, evaluate
from saccade.ir.structure import ModKind, Structure
from saccade.problem import AttentionProblem, KernelKey, ModFacts
from saccade.runtime.host import this_host
from saccade.runtime.llvm import CompiledKernel, Target, compile_kernel, host_triple

ROWS = 5  # of a tile, so that vectors of rows are ragged
ORDER = ("avx512_bf16", "avx512", "avx2", "baseline")


def host_isas() -> list[str]:
    """The instruction sets this processor can run, `avx512_bf16` left out: programs do not tell it apart."""
    best = this_host().isa()
    return list(ORDER[max(1, ORDER.index(best)) :]) if best in ORDER else [best]


@dataclass(frozen=True, eq=False)
class Grid:
    """A program with its data, over all pairs of a small problem.

    Attributes:
        structure: The program.
        captures: Arrays of the stored types, any strides; of BFLOAT16 its bits as uint16.
        numbers: The run-time numbers.
        batch: B.
        heads: Query heads.
        q_len: Q.
        kv_len: K.
        head_rows: Whether the rows of a tile run over heads and queries, as in decoding.
        proven: Whether the prover's facts are used; else nothing is known but the strides.
    """

    structure: Structure
    captures: Sequence[np.ndarray] = ()
    numbers: tuple[int | float, ...] = ()
    batch: int = 2
    heads: int = 2
    q_len: int = 5
    kv_len: int = 7
    head_rows: bool = False
    proven: bool = True

    @property
    def precise(self) -> DType:
        root = self.structure.root.dtype
        return root if root.is_float else DType.FLOAT32

    @property
    def facts(self) -> ProgramFacts:
        dense = tuple(array.ndim > 0 and array.strides[-1] == array.itemsize for array in self.captures)
        if not self.proven:
            return ProgramFacts(dense=dense)
        return prove(
            self.structure,
            batch=self.batch,
            heads=self.heads,
            q_len=self.q_len,
            kv_len=self.kv_len,
            numbers=self.numbers,
            shapes=tuple(array.shape for array in self.captures),
            dense=dense,
        )

    @property
    def scores(self) -> np.ndarray:
        """[B, H, Q, K], of the precise type; what `strategies.Case.variables` gives as well."""
        b, h, q, k = np.ogrid[: self.batch, : self.heads, : self.q_len, : self.kv_len]
        score = np.sin(1.0 + 3 * b + 1.7 * h + 0.37 * q + 0.9 * k)
        return score.astype(NUMPY_TYPE[self.precise])


def reference(grid: Grid, captures: Sequence[np.ndarray] | None = None) -> Evaluated:
    """The interpreter's values and poison, [B, H, Q, K]; `captures` where it needs another form of them."""
    b, h, q, k = np.ogrid[: grid.batch, : grid.heads, : grid.q_len, : grid.kv_len]
    variables = {"b": b, "h": h, "q_idx": q, "kv_idx": k}
    if grid.structure.kind is ModKind.SCORE:
        variables["score"] = grid.scores
    given = grid.captures if captures is None else captures
    return evaluate(grid.structure.root, variables, given, grid.numbers)


def evaluate_grid(grid: Grid, isa: str) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's values and poison, each [B, H, Q, K]."""
    return run(grid, compiled(grid, isa), isa)


def key_of(grid: Grid, isa: str) -> KernelKey:
    problem = AttentionProblem("cpu", grid.precise, 1, 1, 1, 1, 1, 1, 1, 1, 1.0)
    mod = ModFacts(grid.structure)
    if grid.structure.kind is ModKind.MASK:
        problem = replace(problem, mask_mod=mod)
    else:
        problem = replace(problem, score=mod)
    return problem.kernel_key(isa, small_indices=False)


def target_of(isa: str) -> Target:
    known = ISAS[isa]
    triple = host_triple() if known.arch == "x86_64" else "aarch64-unknown-linux-gnu"
    return Target(triple, known.cpu, known.features)


def compiled(grid: Grid, isa: str) -> CompiledKernel:
    return compile_kernel("grid", kernel_text(grid, isa), ["entry"], target_of(isa))


def run(grid: Grid, kernel: CompiledKernel, isa: str) -> tuple[np.ndarray, np.ndarray]:
    """Run a kernel that was compiled for a grid of the same structure and facts."""
    layout = ArgumentLayout.of(key_of(grid, isa))
    which = _which(grid)
    width = _width(grid, isa)
    shape = (grid.batch, grid.heads, grid.q_len, grid.kv_len)
    padded = (*shape[:3], -(-grid.kv_len // width) * width)
    values = np.zeros(padded, NUMPY_TYPE[grid.structure.root.dtype])
    poison = np.zeros(padded, np.uint8)
    scores = np.zeros(padded, NUMPY_TYPE[grid.precise])
    scores[..., : grid.kv_len] = grid.scores
    memory = np.zeros(1 << 16, np.uint8)
    aligned = memory.ctypes.data + -memory.ctypes.data % 64
    arguments = np.zeros(layout.size, np.int64)
    fixed = {
        "batch": grid.batch,
        "q_heads": grid.heads,
        "q_len": grid.q_len,
        "kv_len": grid.kv_len,
        "query": scores.ctypes.data,
        "out": values.ctypes.data,
        "lse": poison.ctypes.data,
        "scratch": aligned,
    }
    for name, value in fixed.items():
        arguments[layout.slot(name)] = value
    for array, slots in zip(grid.captures, layout.captures[which], strict=True):
        arguments[slots.pointer] = array.ctypes.data
        arguments[list(slots.sizes)] = array.shape
        arguments[list(slots.strides)] = array.strides
    for number, dtype, slot in zip(grid.numbers, grid.structure.numbers, layout.numbers[which], strict=True):
        arguments[slot] = number if dtype is DType.INT64 else np.float64(number).view(np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address("entry"))(arguments.ctypes.data)
    return values[..., : grid.kv_len], poison[..., : grid.kv_len] != 0


def _which(grid: Grid) -> Which:
    return Which.MASK_MOD if grid.structure.kind is ModKind.MASK else Which.SCORE


def _width(grid: Grid, isa: str) -> int:
    return 2 * ISAS[isa].lanes(grid.precise)  # keys of a tile


def kernel_text(grid: Grid, isa: str, facts: ProgramFacts | None = None) -> str:
    """LLVM IR of `entry(ptr arguments)`, by the grid's own facts unless others are given."""
    e = Emitter(ISAS[isa], grid.precise, ir.Module("grid"), "entry")
    arguments = Arguments(e, e.function.args[0], ArgumentLayout.of(key_of(grid, isa)))
    code = ProgramCode(
        e,
        _which(grid),
        grid.structure,
        grid.facts if facts is None else facts,
        arguments,
        rows=ROWS,
        keys=_width(grid, isa),
        row_variables=("h", "q_idx") if grid.head_rows else ("q_idx",),
    )
    heads, q_len = arguments.get("q_heads"), arguments.get("q_len")
    with e.loop(0, arguments.get("batch")) as batches:
        b = batches.index
        if grid.head_rows:
            code.begin_item({"b": b})
            _rows(e, code, arguments, b, None, e.builder.mul(heads, q_len), _width(grid, isa))
        else:
            with e.loop(0, heads) as each_head:
                code.begin_item({"b": b, "h": each_head.index})
                _rows(e, code, arguments, b, each_head.index, q_len, _width(grid, isa))
                each_head.hand_over([])
        batches.hand_over([])
    e.finish()
    return str(e.module)


def _rows(
    e: Emitter, code: ProgramCode, arguments: Arguments, b: Value, h: Value | None, count: Value, width: int
) -> None:
    """Every tile of the rows 0 to count - 1 of an item: rows are queries, or (head, query)."""
    heads, q_len, kv_len = (arguments.get(name) for name in ("q_heads", "q_len", "kv_len"))
    scratch = arguments.pointer("scratch")
    columns = e.at(scratch, code.row_bytes)
    stride = e.builder.mul(
        e.builder.sdiv(e.builder.add(kv_len, e.whole(width - 1)), e.whole(width)), e.whole(width)
    )
    first_row = e.builder.mul(b, e.builder.mul(heads, q_len))
    if h is not None:
        first_row = e.builder.add(first_row, e.builder.mul(h, q_len))
    with e.loop(0, count, ROWS) as tiles:
        rows = e.smaller(e.builder.sub(count, tiles.index), e.whole(ROWS))

        def indices(numbers: Value) -> dict[str, Value]:
            row = e.binary("add", numbers, tiles.index)
            row = e.smaller(row, e.builder.sub(count, e.whole(1)))
            if h is not None:
                return {"q_idx": row}
            return {"h": e.binary("sdiv", row, q_len), "q_idx": e.binary("srem", row, q_len)}

        code.fill_rows(scratch, rows, indices)
        with e.loop(0, kv_len, width) as keys:
            code.fill_columns(columns, keys.index, kv_len)
            with e.loop(0, rows) as each_row:
                row = code.row(each_row.index)
                number = e.builder.add(first_row, e.builder.add(tiles.index, each_row.index))
                with e.loop(0, width, e.lanes) as column:
                    key = e.builder.add(keys.index, column.index)
                    place = e.builder.add(e.builder.mul(number, stride), key)
                    lanes = e.binary("add", key, e.lane_numbers(I64))
                    _pair(
                        e,
                        code,
                        arguments,
                        row,
                        column.index,
                        keys.index,
                        place,
                        e.compare("<", lanes, kv_len),
                    )
                    column.hand_over([])
                each_row.hand_over([])
            keys.hand_over([])
        tiles.hand_over([])


def _pair(
    e: Emitter,
    code: ProgramCode,
    arguments: Arguments,
    row: Row,
    column: Value,
    first_key: Value,
    place: Value,
    inside: Value,
) -> None:
    """Values and poison of one vector of pairs; `place` is the number of the first in the arrays."""
    bytes_of_score = e.whole(e.precise.itemsize)
    score = e.load_vector(e.at(arguments.pointer("query"), e.builder.mul(place, bytes_of_score)))
    result = code.pair(row, column, first_key, score=score, inside=inside)
    value, poison = result.value, result.poison
    if value.type.element == BOOL:
        e.store(e.builder.zext(value, e.vector(I8)), e.at(arguments.pointer("out"), place))
    else:
        e.store(value, e.at(arguments.pointer("out"), e.builder.mul(place, bytes_of_score)))
    if poison is not None:
        e.store(e.builder.zext(poison, e.vector(I8)), e.at(arguments.pointer("lse"), place))
