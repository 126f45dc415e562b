"""Run as a script, by `test_loads`: programs whose tensors lie against pages that may not be read.

    python guarded_reads.py ISA [lie]

Each tensor is placed with its last byte, then with its first byte, against an unreadable page, and each
result is compared with the interpreter. One byte read outside ends the process. With `lie` the kernel is told
that every index is in range, and must die: the pages do guard.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from dataclasses import replace

import numpy as np

from codegen.cpu.program.grid_kernel import Grid, compiled, kernel_text, reference, run, target_of
from saccade.codegen.program.facts import ProgramFacts
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.expr import walk
from saccade.ir.ops import Op
from saccade.ir.rewrite import lower
from saccade.ir.text import parse_structure
from saccade.runtime.llvm import compile_kernel

PAGE = mmap.PAGESIZE
PROT_NONE = 0

# A body over c0, and c0's shape; q_len is 5, kv_len is 37. TYPE stands for c0's stored type.
READS = {
    "c0[kv_idx]": (37,),
    "c0[kv_idx + 0 * q_idx]": (37,),
    "c0[kv_idx - 37]": (37,),
    "c0[q_idx - kv_idx + 36]": (41,),
    "c0[q_idx - kv_idx]": (37,),
    "c0[kv_idx + q_idx]": (20,),
    "c0[kv_idx - 20 + q_idx]": (11,),
    "c0[9 - kv_idx + q_idx]": (8,),
    "c0[b, q_idx, kv_idx]": (2, 5, 37),
    "c0[h, kv_idx, q_idx]": (2, 37, 5),
    "c0[q_idx - 8, kv_idx]": (5, 33),
    "c0[kv_idx * 3 - 50]": (21,),
    "c0[kv_idx * kv_idx * kv_idx * 1000003]": (7,),
    "c0[(kv_idx - 9) * 1234567890123]": (7,),
    "c0[kv_idx + 9223372036854775800 + q_idx]": (7,),
    "c0[b * 3, h - 5]": (4, 3),
    "c0[q_idx]": (3,),
    "c0[kv_idx // q_idx]": (4,),
}


def guarded(array: np.ndarray, *, at_end: bool) -> np.ndarray:
    """A copy whose last (or first) byte lies against an unreadable page."""
    pages = -(-array.nbytes // PAGE) or 1
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(area, np.uint8)
    start = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(whole.ctypes.data + page * PAGE)
        assert libc.mprotect(address, ctypes.c_size_t(PAGE), PROT_NONE) == 0
    return copy


def grid_of(body: str, shape: tuple[int, ...], stored: DType) -> Grid:
    kind = "mask" if stored is DType.BOOL else "score"
    result = {DType.BOOL: "bool", DType.FLOAT64: "f64"}.get(stored, "f32")
    cast = body if stored.value_type in (DType.BOOL, DType.FLOAT32, DType.FLOAT64) else f"f32({body})"
    text = f"{kind}(c0: {stored.value}[{len(shape)}]) -> {result}\n{cast}"
    values = np.arange(int(np.prod(shape))).reshape(shape) % 119 % 3
    return Grid(parse_structure(text), (values.astype(NUMPY_TYPE[stored]),), kv_len=37)


def lying(grid: Grid) -> ProgramFacts:
    loads = [(i, node) for i, node in enumerate(walk(lower(grid.structure.root))) if node.op is Op.LOAD]
    bounded = {(i, dim) for i, node in loads for dim in range(len(node.args))}
    return replace(grid.facts, bounded=frozenset(bounded))


def check(grid: Grid, isa: str) -> None:
    wanted = reference(grid)
    shape = (grid.batch, grid.heads, grid.q_len, grid.kv_len)
    poison = np.broadcast_to(0 if wanted.poison is None else wanted.poison, shape) != 0
    value = np.broadcast_to(wanted.value, shape)
    kernel = compiled(grid, isa)
    for at_end in (True, False):
        placed = replace(grid, captures=[guarded(array, at_end=at_end) for array in grid.captures])
        values, poisoned = run(placed, kernel, isa)
        np.testing.assert_array_equal(poisoned, poison)
        np.testing.assert_array_equal(values[~poison], value[~poison])


def main(isa: str, *, lie: bool) -> None:
    if lie:
        grid = grid_of("c0[kv_idx + 10]", (37,), DType.FLOAT32)
        grid = replace(grid, captures=[guarded(array, at_end=True) for array in grid.captures])
        text = kernel_text(grid, isa, lying(grid))
        run(grid, compile_kernel("lying", text, ["entry"], target_of(isa)), isa)
        return
    types = [DType.BOOL, DType.UINT8, DType.INT16, DType.INT64, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64]
    for number, (body, shape) in enumerate(READS.items()):
        for stored in types if number < 4 else types[number % 4 :: 4]:
            grid = grid_of(body, shape, stored)
            for head_rows, proven in ((False, True), (False, False), (True, True)):
                check(replace(grid, head_rows=head_rows, proven=proven), isa)


if __name__ == "__main__":
    main(sys.argv[1], lie="lie" in sys.argv)
