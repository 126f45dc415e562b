"""For every instruction set, also those of other processors, programs become objects that import nothing."""

from __future__ import annotations

import numpy as np
import pytest

from codegen.cpu.program.grid_kernel import Grid, kernel_text, target_of
from saccade.codegen.cpu.isa import ISAS
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, const, load, make, number, var
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import emit_object

UNARY = [op for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1]


def everything(dtype: DType) -> Grid:
    """A score that reads every stored type and uses every operation, on lanes."""
    score = var("score", dtype)
    captures = tuple(CaptureType(stored, 2) for stored in DType)
    q, k, n = var("q_idx"), var("kv_idx"), number(0, DType.INT64)
    varying = make(Op.ADD, (make(Op.MUL, (q, k)), cast(score, DType.INT64)))
    whole = [
        make(op, (varying, make(Op.ADD, (k, n))))
        for op in (Op.FLOOR_DIV, Op.REMAINDER, Op.SHL, Op.SHR, Op.XOR, Op.MINIMUM, Op.MAXIMUM)
    ]
    whole += [make(Op.FLOOR_DIV, (varying, const(7, DType.INT64))), make(Op.ABS, (varying,))]
    terms: list[Expr] = [cast(node, dtype) for node in whole]
    for slot, stored in enumerate(DType):
        places = ((q, k), (k, q), (whole[0], make(Op.SUB, (q, k))))
        terms += [cast(load(slot, indices, stored.value_type), dtype) for indices in places]
    terms += [make(op, (score,)) for op in UNARY]
    terms += [make(op, (score, terms[0])) for op in (Op.POW, Op.REMAINDER, Op.DIV, Op.MAXIMUM)]
    terms += [cast(cast(score, stored), dtype) for stored in DType]
    total = score
    for term in terms:
        total = make(Op.ADD, (total, term))
    total = make(Op.ADD, (total, make(Op.SUM, (make(Op.MUL, (score, score)),), (0, 5))))
    arrays = tuple(np.zeros((3, 4), np.uint8) for _ in DType)
    structure = Structure(ModKind.SCORE, total, captures, (DType.INT64,))
    return Grid(structure, arrays, (3,))


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64], ids=["f32", "f64"])
@pytest.mark.parametrize("isa", ISAS)
def test_objects_import_nothing(isa: str, dtype: DType):
    grid = everything(dtype)
    assert not undefined_symbols(emit_object(kernel_text(grid, isa), target_of(isa)))


def test_equal_programs_give_equal_text():
    assert kernel_text(everything(DType.FLOAT32), "avx2") == kernel_text(everything(DType.FLOAT32), "avx2")
