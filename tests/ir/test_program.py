"""Programs and structures: keys, calls, joining, travelling."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from saccade.ir.dtype import DType
from saccade.ir.expr import make, var
from saccade.ir.ops import Op
from saccade.ir.program import Program, conjunction
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.text import parse_structure

CAUSAL = Program(parse_structure("mask() -> bool\nkv_idx <= q_idx"))
WINDOW = Program(parse_structure("mask(n0: i64) -> bool\nq_idx - kv_idx < n0"), (), (2,))
DOCUMENT = Program(
    parse_structure("mask(c0: i64[1]) -> bool\nc0[q_idx] == c0[kv_idx]"),
    (np.array([0, 0, 1, 1]),),
    (),
    ("doc",),
)
SHOW_ALL = Program(parse_structure("mask() -> bool\nTrue"))
PAIRS = (0, 0, np.arange(4)[:, None], np.arange(4))


def test_a_structure_is_a_key():
    again = parse_structure("mask(n0: i64) -> bool\nq_idx - kv_idx < n0")
    assert again == WINDOW.structure
    assert hash(again) == hash(WINDOW.structure)
    assert again != parse_structure("mask(n0: i64, n1: i64) -> bool\nq_idx - kv_idx < n0")


def test_what_a_program_reads():
    assert DOCUMENT.reads("q_idx")
    assert DOCUMENT.reads("b", "kv_idx")
    assert not DOCUMENT.reads("b", "h")
    assert DOCUMENT.kind is ModKind.MASK
    assert DOCUMENT.root.op is Op.EQ
    assert not DOCUMENT.is_noop


def test_repr_is_its_text():
    assert repr(WINDOW) == "mask(n0: i64 = 2) -> bool\nq_idx - kv_idx < n0"
    assert repr(DOCUMENT) == "mask(doc: i64[1]) -> bool\ndoc[q_idx] == doc[kv_idx]"
    assert parse_structure(repr(DOCUMENT)) == DOCUMENT.structure


def test_noop():
    score = Program(Structure(ModKind.SCORE, var("score", DType.FLOAT64)))
    assert SHOW_ALL.is_noop
    assert score.is_noop
    assert SHOW_ALL(*PAIRS).all()
    assert score(np.float64(1.5), 0, 0, 0, 0) == 1.5
    assert not Program(Structure(ModKind.SCORE, make(Op.NEG, (var("score", DType.FLOAT32),)))).is_noop


def test_conjunction_is_and():
    first, second = conjunction(WINDOW, DOCUMENT), conjunction(DOCUMENT, WINDOW)
    expected = WINDOW(*PAIRS) & DOCUMENT(*PAIRS)
    np.testing.assert_array_equal(first(*PAIRS), expected)
    np.testing.assert_array_equal(second(*PAIRS), expected)
    both = conjunction(conjunction(DOCUMENT, WINDOW), conjunction(DOCUMENT, CAUSAL))
    assert both.names == ("doc", "doc")
    np.testing.assert_array_equal(both(*PAIRS), expected & CAUSAL(*PAIRS))


def test_conjunction_with_noop_is_the_other():
    assert conjunction(SHOW_ALL, WINDOW) is WINDOW
    assert conjunction(WINDOW, SHOW_ALL) is WINDOW


def test_a_program_in_a_trace_is_inlined():
    class Index:
        def __saccade_inline__(self, program: Program, args: tuple[object, ...]) -> object:
            return program, args

    index = Index()
    assert CAUSAL(0, 0, index, 1) == (CAUSAL, (0, 0, index, 1))


def test_pickle_and_copy():
    for twin in (pickle.loads(pickle.dumps(DOCUMENT)), copy.deepcopy(DOCUMENT)):
        assert twin.structure == DOCUMENT.structure
        assert twin.names == ("doc",)
        np.testing.assert_array_equal(twin(*PAIRS), DOCUMENT(*PAIRS))


def test_pickle_of_thousands_of_nodes():
    root = var("score", DType.FLOAT32)
    for _ in range(3000):
        root = make(Op.SIN, (root,))
    program = Program(Structure(ModKind.SCORE, root))
    assert pickle.loads(pickle.dumps(program)).structure == program.structure


@pytest.mark.parametrize("dtype", DType)
def test_dtypes(dtype: DType):
    assert dtype.is_float + dtype.is_int + (dtype is DType.BOOL) == 1
    assert dtype.value_type.is_value_type
    assert dtype.is_value_type == (dtype.value in ("bool", "i64", "f32", "f64"))
    assert dtype.itemsize in (1, 2, 4, 8)
    assert repr(dtype) == f"DType.{dtype.name}"
    if dtype.is_int:
        low, high = dtype.int_range
        assert high - low + 1 == 2 ** (8 * dtype.itemsize)


def test_structures_hold_what_code_depends_on():
    assert CaptureType(DType.FLOAT16, 2) == CaptureType(DType.FLOAT16, 2)
    assert DOCUMENT.structure.captures == (CaptureType(DType.INT64, 1),)
