"""Contributions to the gradients of captured tensors: how they are classified, and code for every target.

`tests/backends/cpu/test_capture_gradients.py` holds their values against autograd.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codegen.cpu.backward_call import Backward
from codegen.cpu.forward_call import Forward
from codegen.cpu.test_kernel import TRIPLES
from saccade.block_mask import create_block_mask
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.program.split import Split
from saccade.codegen.cpu.program.ways import Way, sum_type, way_of
from saccade.codegen.cpu.spec import KernelSpec
from saccade.codegen.program.contributions import Contribution, contributions, summed_derivative
from saccade.codegen.program.prover import prove
from saccade.ir.dtype import DType
from saccade.ir.structure import ModKind
from saccade.ir.text import format_expression, parse_structure
from saccade.masks import causal
from saccade.problem import Wanted
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_object
from saccade.tracing import trace


def found_in(text: str, wanted: tuple[bool, ...] = (True,)) -> tuple[Contribution, ...]:
    return contributions(parse_structure(text), wanted)


def ways_of(found: tuple[Contribution, ...]) -> list[Way]:
    beside = [part for each in found for part in (*each.element.args, each.value)]
    split = Split(beside[-1], ("q_idx",), (), beside)
    return [way_of(split, each) for each in found]


WAYS = [
    ("c0: f32[0]", "score * c0[()]", Way.HEAD),
    ("c0: f32[2]", "score * c0[b, h]", Way.HEAD),
    ("c0: f32[2]", "score * c0[h, q_idx]", Way.ROW),
    ("c0: f32[2]", "score * c0[h, kv_idx]", Way.COLUMN),
    ("c0: f32[2]", "score * c0[h, kv_idx // 2]", Way.COLUMN),
    ("c0: f32[2]", "score * c0[q_idx, kv_idx]", Way.RUN),
    ("c0: f32[1]", "score * c0[q_idx - kv_idx + 9]", Way.RUN),
    ("c0: f32[2]", "score * c0[kv_idx, q_idx]", Way.LANES),
    ("c0: f32[1]", "score * c0[(q_idx - kv_idx) * 2]", Way.LANES),
    ("c0: f32[1]", "score * c0[i64(score)]", Way.LANES),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[q_idx, axis0])", Way.ROW),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[axis0, kv_idx])", Way.COLUMN),
    ("c0: f32[2]", "score * sum(axis0 < 5000, c0[axis0, q_idx])", Way.LANES),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[axis0, q_idx - kv_idx])", Way.RUN),
]


@pytest.mark.parametrize(("capture", "body", "way"), WAYS, ids=[body for _, body, _ in WAYS])
def test_ways(capture, body, way):
    found = found_in(f"score({capture}) -> f32\n{body}")
    assert ways_of(found) == [way]


def test_runs_alone_are_summed_in_the_precise_type():
    text = "score(c0: f32[1], c1: f32[1]) -> f32\nscore + c0[q_idx - kv_idx + 9] + c1[kv_idx + q_idx] * c1[h]"
    found = found_in(text, (True, True))
    split = Split(found[0].value, ("q_idx",), ())
    types = [sum_type(found, split, slot, DType.FLOAT32) for slot in (0, 1)]
    assert types == [DType.FLOAT32, DType.FLOAT64]


def test_only_wanted_captures_contribute():
    text = "score(c0: f32[1], c1: f32[1]) -> f32\nscore * c0[h] + c1[q_idx]"
    assert [each.slot for each in found_in(text, (False, True))] == [1]
    assert found_in(text, ()) == ()


def test_facts_are_proven_of_contributions():
    structure = parse_structure("score(c0: f32[1]) -> f32\nscore * c0[q_idx - kv_idx + 9]")
    found = contributions(structure, (True,))
    sizes = {"batch": 1, "heads": 1, "q_len": 4, "kv_len": 6, "dense": (True,)}
    inside, outside = (
        prove(replace(structure, root=found[0].value), shapes=((size,),), contributions=found, **sizes)
        for size in (13, 12)
    )
    assert len(inside.bounded) == 1
    assert not outside.bounded


def test_the_sum_of_a_derivative_is_poison_where_a_part_is():
    text = "score(c0: f32[2]) -> f32\nscore * sum(axis0 < 5, c0[q_idx, axis0])"
    total = summed_derivative(parse_structure(text), (True,))
    expected = "grad * sum(axis0 < 5, c0[q_idx, axis0]) + sum(axis1 < 5, grad * score)"
    assert format_expression(total.root) == expected


def rich_spec(isa: str, dtype: torch.dtype) -> KernelSpec:
    """A kernel in which tensors of every type are met in every way."""
    scale, heads, rows = torch.zeros(()), torch.zeros(2, dtype=torch.float16), torch.zeros(40, 3)
    plane, table = torch.zeros(40, 40, dtype=torch.bfloat16), torch.zeros(90, dtype=torch.float64)
    bucket = torch.zeros(40, 40, dtype=torch.int32)

    def score_mod(score, b, h, q, k):
        near = heads[h] * plane[q, k] + table[bucket[q, k]] + table[k - q]
        return score * scale + near + (rows[q] * rows[k]).sum(-1)

    tensor = torch.zeros(1, 2, 40, 33, dtype=dtype)
    mask = create_block_mask(causal, None, None, 40, 40, device="cpu")
    precise = DType.FLOAT64 if dtype is torch.float64 else DType.FLOAT32
    program = trace(score_mod, ModKind.SCORE, score_dtype=precise)
    forward = Forward(tensor, tensor, tensor, isa=isa, block_mask=mask, score_mod=program)
    spec = Backward(forward, tensor).spec
    asked = tuple(capture.dtype.is_float for capture in program.structure.captures)
    wanted = Wanted(query=True, key=True, value=True, captures=asked)
    return replace(spec, key=replace(spec.key, wanted=wanted))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_code_for_every_target_imports_nothing(isa, dtype):
    spec = rich_spec(isa, dtype)
    source, target = emit(spec), ISAS[isa]
    assert emit(spec).text == source.text
    assert source.entries == ("pack", "attend", "merge", "captures")
    code = emit_object(source.text, Target(TRIPLES[target.arch], target.cpu, target.features))
    assert undefined_symbols(code) == set()
