"""A little kernel around one program: its value and poison at every pair, by tiles as a real kernel's.

`Grid` says what is evaluated where; `evaluate_grid` runs it in Triton's interpreter, `compiled_grid` has it
compiled for a GPU that need not be there; `reference` is the IR interpreter's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from codegen.triton.program.kernel_server import Job, KernelServer
from saccade.codegen.program.contributions import Contribution
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.codegen.triton.parameters import TRITON_TYPES
from saccade.codegen.triton.program.function_table import functions_text
from saccade.codegen.triton.program.place import Place
from saccade.codegen.triton.program.text import ProgramText
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.interpret import Evaluated, evaluate
from saccade.ir.structure import ModKind, Structure

ROWS, COLUMNS = 16, 32
NAMES = {"b": "b", "h": "h", "q_idx": "q_idx", "kv_idx": "kv_idx", "score": "score", "grad": "grad"}
TILE = frozenset({"score", "grad"})
TORCH_TYPES = {
    DType.BOOL: "bool",
    DType.UINT8: "uint8",
    DType.INT8: "int8",
    DType.INT16: "int16",
    DType.INT32: "int32",
    DType.INT64: "int64",
    DType.FLOAT16: "float16",
    DType.BFLOAT16: "bfloat16",
    DType.FLOAT32: "float32",
    DType.FLOAT64: "float64",
}


class Way(Enum):
    """What a tile's rows and columns are."""

    ROWS_ARE_QUERIES = "queries by keys"
    ROWS_ARE_KEYS = "keys by queries"
    ROWS_ARE_HEADS = "heads and queries by keys"


@dataclass(frozen=True, eq=False)
class Grid:
    """A program with its data, over all pairs of a small problem.

    Attributes:
        structure: The program.
        captures: Arrays of the stored types, any positive strides; of BFLOAT16 its bits as uint16.
        numbers: The run-time numbers.
        batch: B.
        heads: Query heads.
        q_len: Q.
        kv_len: K.
        way: What rows and columns are.
        proven: Whether the prover's facts are used; else nothing is known but the strides.
        wide: Whether captures have 64-bit strides and sizes.
    """

    structure: Structure
    captures: Sequence[np.ndarray] = ()
    numbers: tuple[int | float, ...] = ()
    batch: int = 2
    heads: int = 2
    q_len: int = 5
    kv_len: int = 7
    way: Way = Way.ROWS_ARE_QUERIES
    proven: bool = True
    wide: bool = False

    @property
    def is_mask(self) -> bool:
        return self.structure.kind is ModKind.MASK

    @property
    def precise(self) -> DType:
        root = self.structure.root.dtype
        return root if root.is_float else DType.FLOAT32

    @property
    def facts(self) -> ProgramFacts:
        return self.facts_beside(())

    def facts_beside(self, contributions: tuple[Contribution, ...]) -> ProgramFacts:
        dense = tuple(a.size > 0 and a.ndim > 0 and a.strides[-1] == a.itemsize for a in self.captures)
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
            contributions=contributions,
        )

    @property
    def scores(self) -> np.ndarray:
        """[B, H, Q, K], of the precise type; what `strategies.Case.variables` gives as well."""
        b, h, q, k = np.ogrid[: self.batch, : self.heads, : self.q_len, : self.kv_len]
        score = np.sin(1.0 + 3 * b + 1.7 * h + 0.37 * q + 0.9 * k)
        return score.astype(NUMPY_TYPE[self.precise])

    @property
    def place(self) -> Place:
        queries = {"q_idx", "h"} if self.way is Way.ROWS_ARE_HEADS else {"q_idx"}
        rows, columns = ({"kv_idx"}, queries) if self.way is Way.ROWS_ARE_KEYS else (queries, {"kv_idx"})
        return Place(
            names=NAMES,
            rows=frozenset(rows) | TILE,
            columns=frozenset(columns) | TILE,
            inner=frozenset(columns) | TILE,
            shape=(str(ROWS), str(COLUMNS)),
            limits={"q_idx": "q_inside", "kv_idx": "kv_inside"},
        )

    @property
    def programs(self) -> int:
        rows = {
            Way.ROWS_ARE_QUERIES: self.q_len,
            Way.ROWS_ARE_KEYS: self.kv_len,
            Way.ROWS_ARE_HEADS: self.heads * self.q_len,
        }[self.way]
        groups = self.batch if self.way is Way.ROWS_ARE_HEADS else self.batch * self.heads
        return groups * -(-rows // ROWS)


def reference(grid: Grid, captures: Sequence[np.ndarray] | None = None) -> Evaluated:
    """The interpreter's values and poison, [B, H, Q, K]; `captures` where it needs another form of them."""
    b, h, q, k = np.ogrid[: grid.batch, : grid.heads, : grid.q_len, : grid.kv_len]
    variables = {"b": b, "h": h, "q_idx": q, "kv_idx": k}
    if not grid.is_mask:
        variables["score"] = grid.scores
        variables["grad"] = grid.scores * grid.scores.dtype.type(3)
    given = grid.captures if captures is None else captures
    return evaluate(grid.structure.root, variables, given, grid.numbers)


def program_text(
    grid: Grid, *, checks: bool = True, beside: tuple[Contribution, ...] | None = None
) -> ProgramText:
    """The program's text; with contributions beside it, `grid.structure` is a derivative."""
    wide = frozenset(range(len(grid.captures))) if grid.wide else frozenset()
    which = Which.MASK if grid.is_mask else Which.SCORE if beside is None else Which.SCORE_GRADIENT
    facts = grid.facts_beside(beside or ())
    return ProgramText(
        grid.structure,
        facts,
        which,
        grid.place,
        checks=checks,
        contributions=beside or (),
        wide_captures=wide,
    )


def module_text(grid: Grid, text: ProgramText, more: Sequence[str] = (), stores: Sequence[str] = ()) -> str:
    """A module whose `kernel` stores the program's value and poison at every pair.

    Args:
        grid: The program.
        text: Its text.
        more: Names of further parameters.
        stores: Lines for the loop's end, beside those stores.
    """
    parameters = [*_FIXED, *(parameter.name for parameter in text.parameters), *more]
    poison = "tl.full([], 0, tl.int8)" if text.poison is None else f"{text.poison}.to(tl.int8)"
    value = f"{text.result}.to(tl.int8)" if grid.is_mask else text.result
    tile = f"[{ROWS}, {COLUMNS}]"
    inside = [
        *_POSITIONS[grid.way][1].splitlines(),
        "inside = q_inside & kv_inside",
        "place = ((b * heads + h) * q_len + q_idx) * kv_len + kv_idx",
        "score = tl.load(scores + place, mask=inside, other=0.0)",
        "grad = score * 3.0",
        *text.inside,
        f"tl.store(values + place, tl.broadcast_to({value}, {tile}), mask=inside)",
        f"tl.store(poison + place, tl.broadcast_to({poison}, {tile}), mask=inside)",
        *stores,
    ]
    length = "q_len" if grid.way is Way.ROWS_ARE_KEYS else "kv_len"
    lines = [
        f"def kernel({', '.join(parameters)}):",
        *("    " + line for line in _POSITIONS[grid.way][0].splitlines()),
        *("    " + line for line in text.before),
        f"    for first in range(0, {length}, {COLUMNS}):",
        *("        " + line for line in inside),
    ]
    head = "import triton\nimport triton.language as tl\n\n\n"
    return head + functions_text(text.functions) + "\n\n@triton.jit\n" + "\n".join(lines) + "\n"


_FIXED = ("scores", "values", "poison", "batch", "heads", "q_len", "kv_len")
_NUMBER = f"""\
tiles = tl.cdiv(LENGTH, {ROWS})
tile = tl.program_id(0) % tiles
rest = tl.program_id(0) // tiles
row = (tile * {ROWS} + tl.arange(0, {ROWS}))[:, None]
"""
_GROUP = "b = rest // heads\nh = rest % heads\n"
_COLUMN = f"(first + tl.arange(0, {COLUMNS}))[None, :]"
_POSITIONS = {
    Way.ROWS_ARE_QUERIES: (
        _NUMBER.replace("LENGTH", "q_len") + _GROUP + "q_idx = row\nq_inside = row < q_len",
        f"kv_idx = {_COLUMN}\nkv_inside = kv_idx < kv_len",
    ),
    Way.ROWS_ARE_KEYS: (
        _NUMBER.replace("LENGTH", "kv_len") + _GROUP + "kv_idx = row\nkv_inside = row < kv_len",
        f"q_idx = {_COLUMN}\nq_inside = q_idx < q_len",
    ),
    # Rows past the last are queries of the last head, past their length.
    Way.ROWS_ARE_HEADS: (
        _NUMBER.replace("LENGTH", "heads * q_len")
        + "b = rest\nh = tl.minimum(row // q_len, heads - 1)\n"
        + "q_idx = row - h * q_len\nq_inside = q_idx < q_len",
        f"kv_idx = {_COLUMN}\nkv_inside = kv_idx < kv_len",
    ),
}


def evaluate_grid(grid: Grid, server: KernelServer) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's values and poison, each [B, H, Q, K]."""
    text = program_text(grid)
    results = server(
        Job(module_text(grid, text), grid.programs, arguments_of(grid, text), ("values", "poison"))
    )
    values = results["values"] != 0 if grid.is_mask else results["values"]
    return values, results["poison"] != 0


def arguments_of(grid: Grid, text: ProgramText) -> dict[str, object]:
    """What `kernel` is called with, but for further parameters."""
    shape = grid.scores.shape
    kind = np.dtype(np.int8 if grid.is_mask else NUMPY_TYPE[grid.structure.root.dtype])
    wanted = {parameter.name for parameter in text.parameters}
    given = _program_arguments(grid, "mask_" if grid.is_mask else "score_")
    return {
        "scores": np.ascontiguousarray(grid.scores),
        "values": np.zeros(shape, kind),
        "poison": np.zeros(shape, np.int8),
        "batch": grid.batch,
        "heads": grid.heads,
        "q_len": grid.q_len,
        "kv_len": grid.kv_len,
        **{name: value for name, value in given.items() if name in wanted},
    }


def _program_arguments(grid: Grid, prefix: str) -> dict[str, object]:
    arguments: dict[str, object] = {}
    for slot, (array, kind) in enumerate(zip(grid.captures, grid.structure.captures, strict=True)):
        name = f"{prefix}c{slot}"
        base, strides = _memory(array)
        arguments[name] = (base, TORCH_TYPES[kind.dtype])
        arguments.update({f"{name}_s{dim}": stride for dim, stride in enumerate(strides)})
        arguments.update({f"{name}_n{dim}": size for dim, size in enumerate(array.shape)})
    arguments.update({f"{prefix}n{slot}": number for slot, number in enumerate(grid.numbers)})
    return arguments


def _memory(array: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """An array's memory, from its first element on, and its strides in elements."""
    if array.size == 0:
        return np.zeros(1, array.dtype), [0] * array.ndim
    strides = [stride // array.itemsize for stride in array.strides]
    length = 1 + sum(stride * (size - 1) for stride, size in zip(strides, array.shape, strict=True))
    return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,)), strides


def compiled_grid(grid: Grid, server: KernelServer, stage: str = "ttir") -> str:
    """The kernel as a compiler's stage has it."""
    text = program_text(grid)
    signature = signature_of(grid, text)
    divisible = {p.name: p.divisible for p in text.parameters if p.divisible > 1}
    return str(server(Job(module_text(grid, text), signature=signature, divisible=divisible, stage=stage)))


def signature_of(grid: Grid, text: ProgramText) -> dict[str, str]:
    """The types of `kernel`'s parameters, but for further ones."""
    precise = TRITON_TYPES[grid.precise]
    return {
        "scores": f"*{precise}",
        "values": "*i8" if grid.is_mask else f"*{precise}",
        "poison": "*i8",
        **dict.fromkeys(_FIXED[3:], "i32"),
        **{parameter.name: parameter.type for parameter in text.parameters},
    }
