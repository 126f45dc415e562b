"""The kernels that this backend chooses, for processors that are not here: whole, and importing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saccade import AuxRequest
from saccade.attention.request import Arguments, read_request
from saccade.backends.cpu.specialise import choose, kind_for, specify
from saccade.backends.mods import mods_of
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelKind, KernelSpec
from saccade.masks import causal, document
from saccade.problem import AttentionProblem
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_object
from saccade.schedule import Schedule
from saccade.scores import alibi, softcap

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORWARD, DECODE = 60, 2
LENGTH = 70


def documents() -> document:
    return document(torch.arange(LENGTH) // 9)


# What is asked beside query, key and value.
WORK: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "causal": lambda: {"mask_mod": causal},
    "alibi": lambda: {"score_mod": alibi(4), "mask_mod": causal},
    "softcap": lambda: {"score_mod": softcap(20.0)},
    "document": lambda: {"mask_mod": causal & documents()},
    "dropout": lambda: {"dropout_p": 0.1},
    "everything": lambda: {
        "score_mod": lambda score, b, h, q, k: torch.tanh(score) ** 2 - torch.exp(-(q - k).abs() / (h + 1)),
        "mask_mod": documents(),
        "dropout_p": 0.3,
        "sinks": torch.zeros(4),
        "return_aux": AuxRequest(lse=True, max_scores=True),
    },
}
# The two that are promised everywhere compile everything in the two types that differ most.
PROMISED = [
    (isa, dtype, work, q_len)
    for isa in ("neon", "avx2")
    for dtype in DTYPES[:2]
    for work in WORK
    for q_len in (FORWARD, DECODE)
]
REST = [(isa, dtype, "everything", q_len) for isa in ISAS for dtype in DTYPES for q_len in (FORWARD, DECODE)]


def problem_of(dtype: torch.dtype, work: str, q_len: int) -> AttentionProblem:
    shapes = ((2, 4, q_len, 24), (2, 2, LENGTH, 24), (2, 2, LENGTH, 17))
    tensors = [torch.empty(shape, dtype=dtype) for shape in shapes]
    return read_request(Arguments(*tensors, enable_gqa=True, **WORK[work]())).problem


def spec_of(problem: AttentionProblem, isa: str) -> KernelSpec:
    mods = mods_of(problem)
    dense = tuple(True for mod in mods.values() for _ in mod.capture_shapes)
    return specify(problem, choose(problem, Schedule(), isa, cores=2), mods, dense)


@pytest.mark.parametrize(("isa", "dtype", "work", "q_len"), dict.fromkeys(PROMISED + REST), ids=str)
def test_a_kernel_imports_nothing(isa: str, dtype: torch.dtype, work: str, q_len: int) -> None:
    problem = problem_of(dtype, work, q_len)
    assert kind_for(problem) is (KernelKind.DECODE if q_len == DECODE else KernelKind.FORWARD)
    target = ISAS[isa]
    source = emit(spec_of(problem, isa))
    code = emit_object(source.text, Target(TRIPLES[target.arch], target.cpu, target.features))
    assert undefined_symbols(code) == set()
    assert all(entry.encode() in code for entry in source.entries)
