"""Text round-trips exactly, reads well, and refuses what it should with the line at fault."""

from __future__ import annotations

import pytest
from hypothesis import given

from ir.strategies import Case, mask_structures, score_structures
from saccade.errors import ProgramError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, load, make, number, var
from saccade.ir.ops import Op
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.text import format_expression, format_structure, parse_structure

BOOL, I64, F32, F64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
Q, K, H, SCORE = var("q_idx"), var("kv_idx"), var("h"), var("score", F32)


def written(root: Expr) -> str:
    """The result of an expression, which must read back to itself."""
    structure = Structure(
        ModKind.MASK if root.dtype is BOOL else ModKind.SCORE,
        root if root.dtype is BOOL or root.dtype.is_float else make(Op.CAST, (root,), F32),
        (CaptureType(I64, 1), CaptureType(DType.BFLOAT16, 2), CaptureType(F32, 0)),
        (I64, F32, F64),
    )
    text = format_structure(structure)
    assert parse_structure(text) == structure
    return text.split("\n", 1)[1]


@given(mask_structures())
def test_round_trip_mask(case: Case):
    assert parse_structure(format_structure(case.structure)) == case.structure


@given(score_structures())
def test_round_trip_score(case: Case):
    assert parse_structure(format_structure(case.structure)) == case.structure


@given(score_structures(dtype=F64))
def test_round_trip_with_values_and_names(case: Case):
    names = ["doc", "self.bias[0]", "doc", "sum"][: len(case.captures)]
    text = format_structure(case.structure, numbers=case.numbers, names=names)
    assert parse_structure(text) == case.structure


def op(kind: Op, *args: Expr, attr: object = None) -> Expr:
    return make(kind, args, attr)


def f(value: float) -> Expr:
    return const(value, F32)


@pytest.mark.parametrize(
    ("root", "text"),
    [
        (op(Op.LE, K, Q), "kv_idx <= q_idx"),
        (op(Op.LE, op(Op.SUB, Q, op(Op.SUB, K, H)), Q), "q_idx - (kv_idx - h) <= q_idx"),
        (op(Op.LT, op(Op.SUB, op(Op.SUB, Q, K), H), Q), "q_idx - kv_idx - h < q_idx"),
        (op(Op.EQ, op(Op.LT, Q, K), op(Op.LT, K, Q)), "(q_idx < kv_idx) == (kv_idx < q_idx)"),
        (op(Op.AND, op(Op.LT, Q, K), op(Op.NOT, const(True, BOOL))), "(q_idx < kv_idx) & ~True"),
        (op(Op.MUL, SCORE, op(Op.ADD, SCORE, f(1))), "score * (score + 1.0)"),
        (op(Op.POW, op(Op.POW, SCORE, f(2)), op(Op.POW, f(3), SCORE)), "(score ** 2.0) ** 3.0 ** score"),
        (op(Op.POW, f(-1), op(Op.NEG, SCORE)), "(-1.0) ** -score"),
        (op(Op.NEG, op(Op.POW, SCORE, f(2))), "-score ** 2.0"),
        (op(Op.SUB, SCORE, f(-1)), "score - -1.0"),
        (op(Op.NEG, f(1)), "neg(1.0)"),
        (op(Op.ADD, SCORE, f(-0.0)), "score + -0.0"),
        (op(Op.NEG, const(0, I64)), "f32(neg(0))"),
        (op(Op.ADD, op(Op.NEG, const(0.0, F64)), number(2, F64)), "-0.0 + n2"),
        (op(Op.CAST, op(Op.NEG, const(0.0, F64)), attr=F32), "f32(neg(const(0.0, f64)))"),
        (op(Op.MINIMUM, f(float("inf")), f(float("nan"))), "minimum(inf, nan)"),
        (op(Op.MINIMUM, f(float("-inf")), op(Op.NEG, f(float("inf")))), "minimum(-inf, neg(inf))"),
        (op(Op.CAST, const(1.5, F64), attr=F32), "f32(const(1.5, f64))"),
        (op(Op.CAST, const(float("-inf"), F64), attr=F32), "f32(const(-inf, f64))"),
        (op(Op.CAST, SCORE, attr=DType.FLOAT16), "f16(score)"),
        (op(Op.EQ, load(0, [op(Op.ADD, Q, number(0, I64))], I64), const(-1, I64)), "c0[q_idx + n0] == -1"),
        (op(Op.MUL, load(2, [], F32), number(1, F32)), "c2[()] * n1"),
        (
            op(Op.SUM, op(Op.MUL, load(1, [H, axis(0)], F32), SCORE), attr=(0, 64)),
            "sum(axis0 < 64, c1[h, axis0] * score)",
        ),
        (op(Op.WHERE, op(Op.LT, Q, K), SCORE, f(0)), "where(q_idx < kv_idx, score, 0.0)"),
        (
            make(Op.CUSTOM, (op(Op.TANH, SCORE), SCORE, var("cotangent", F32)), 1),
            "custom(tanh(score), score, cotangent)",
        ),
        (
            op(
                Op.CAST,
                make(Op.CUSTOM, (const(1.0, F64), SCORE, op(Op.CAST, var("cotangent", F64), attr=F32)), 1),
                attr=F32,
            ),
            "f32(custom(const(1.0, f64), score, f32(var(cotangent, f64))))",
        ),
        (op(Op.MUL, op(Op.TANH, SCORE), op(Op.TANH, SCORE)), "v0 = tanh(score)\nv0 * v0"),
    ],
)
def test_reads_like_python(root: Expr, text: str):
    assert written(root) == text


def test_float_literals_have_the_type_of_the_score():
    structure = parse_structure("score() -> f64\nscore * 0.1 + f64(const(0.1, f32))")
    (scaled, widened) = structure.root.args
    assert scaled.args == (var("score", F64), const(0.1, F64))
    assert widened.args == (const(0.1, F32),)
    assert parse_structure(format_structure(structure)) == structure


def test_header_shows_values_and_names():
    structure = parse_structure(
        "mask(c0: i64[1], c1: i32[1], c2: i32[0], n0: i64) -> bool\nc0[q_idx] < c1[h] + n0 + c2[()]"
    )
    text = format_structure(structure, numbers=[256], names=["self.doc_ids", "self doc ids", "lambda"])
    header = "mask(self_doc_ids: i64[1], c1: i32[1], c2: i32[0], n0: i64 = 256) -> bool"
    assert text == f"{header}\nself_doc_ids[q_idx] < c1[h] + n0 + c2[()]"
    assert format_structure(structure, names=["v0", "c0"]).startswith("mask(c0: i64[1], c1: i32[1]")


def test_format_expression_names_captures():
    assert format_expression(load(1, [Q], I64), names=["first", "second"]) == "second[q_idx]"
    assert format_expression(op(Op.ADD, SCORE, var("grad", F32))) == "score + grad"
    assert format_expression(op(Op.ADD, var("grad", F64), const(1.0, F64)), float_type=F64) == "grad + 1.0"


def test_long_lines_are_cut():
    root = SCORE
    for _ in range(100):
        root = op(Op.ADD, root, SCORE)
    for _ in range(100):
        root = op(Op.SIN, root)
    lines = written(root).split("\n")
    assert 2 < len(lines) < 40
    assert max(map(len, lines)) < 110


def test_thousands_of_nodes():
    root = SCORE
    for step in range(4000):
        root = op(Op.ADD, op(Op.MUL, root, f(step)), root)
    structure = Structure(ModKind.SCORE, root)
    assert parse_structure(format_structure(structure)) == structure


MASK = "mask(c0: i64[1], n0: i64) -> bool\n"
SCORE_HEAD = "score(c0: f16[2], n0: f32) -> f32\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a header and a result line; got ''"),
        ("mask() -> bool", "a header and a result line"),
        ("mask( -> bool\nTrue", "line 1: expected Python syntax"),
        ("masque() -> bool\nTrue", "line 1: expected a header such as"),
        ("mask() -> boolean\nTrue", "expected a type .*got 'boolean'"),
        ("mask()\nTrue", "expected a type .*got nothing"),
        (
            "mask(c0: i64[1], c0: i64[1]) -> bool\nTrue",
            "line 1: expected Python syntax|a new name for a slot",
        ),
        ("mask(q_idx: i64) -> bool\nTrue", "a new name for a slot, got 'q_idx'"),
        ("mask(c0: i64[-1]) -> bool\nTrue", "an int of 0 or more, got '-1'"),
        ("mask(n0: i32) -> bool\nTrue", "a number is i64, f32 or f64; got number 0 of type i32"),
        (MASK + "x = 1; y = 2\nTrue", "line 2: expected one statement a line\n    x = 1; y = 2"),
        (MASK + "q_idx < kv_idx\nTrue", "line 2: expected a line such as 'v0 ="),
        (MASK + "n0 = q_idx\nTrue", "a new name, got 'n0'"),
        (MASK + "axis3 = q_idx\nTrue", "a new name, got 'axis3'"),
        (MASK + "c0[0] = q_idx\nTrue", "expected a line such as"),
        (MASK + "v0 = True", "expected the result expression as the last line"),
        (MASK + "q_idx", "expected the header's result type bool, got i64"),
        (MASK + "q_idx < v7", "a variable, slot or earlier line, got 'v7'"),
        (MASK + "q_idx < kv_idx < h", "expected an operator or call of program text"),
        (MASK + "q_idx > kv_idx", "expected an operator or call of program text"),
        (MASK + "not True", "expected '-' or '~'"),
        (MASK + "c1[q_idx] < 0", "expected a capture of the header before '\\[', got 'c1'"),
        (MASK + "c0[q_idx, h] < 0", "capture 0 takes 1 indices; got 2"),
        (MASK + "c0[True] < 0", "an index is i64; got load\\(bool\\)"),
        (MASK + "q_idx < 1.0", "lt expects all arguments of one type"),
        (MASK + "q_idx & True", "and expects all arguments BOOL or all INT64"),
        (MASK + "q_idx < 9223372036854775808", "an i64 constant lies in"),
        (MASK + "q_idx < 'x'", "a bool, int or float literal, got 'x'"),
        (MASK + "__import__('os')", "expected one of abs, .*got '__import__'"),
        (MASK + "f(x=1)", "expected an operator or call of program text, got 'f\\(x=1\\)'"),
        (SCORE_HEAD + "exp(score, score)", "expected 1 arguments of exp, got 2"),
        (SCORE_HEAD + "f16(score, score)", "one argument of the cast f16, got 2"),
        (SCORE_HEAD + "sum(score)", "a reduction such as 'sum\\(axis0 < 64, ...\\)'"),
        (SCORE_HEAD + "sum(q_idx < 3, score)", "an axis such as 'axis0', got 'q_idx'"),
        (SCORE_HEAD + "sum(axis0 < n0, score)", "an int of 0 or more, got 'n0'"),
        (SCORE_HEAD + "max(axis0 < 0, score)", "max needs an extent of 1 or more"),
        (SCORE_HEAD + "const(score, f32)", "a number in const\\(\\), got 'score'"),
        (SCORE_HEAD + "const(1.0)", "expected const\\(..., type\\), got 1 arguments"),
        (SCORE_HEAD + "const(1.0, i64)", "a literal that fits its type, got const\\(1.0, i64\\)"),
        (SCORE_HEAD + "const(1.0, f16)", "a literal that fits its type, got const\\(1.0, f16\\)"),
        (SCORE_HEAD + "var(n0, f32)", "expected one of score, .* in var\\(\\), got 'n0'"),
        (SCORE_HEAD + "custom(score, score)", "custom takes a value, n inputs and n gradients"),
        (SCORE_HEAD + "cotangent", "only a CUSTOM node's gradients bind it"),
        (SCORE_HEAD + "(" * 150 + "score" + ")" * 150 + " + " + "-" * 5000 + "score", "line 2: expected"),
    ],
)
def test_refuses(text: str, message: str):
    with pytest.raises(ProgramError, match=message):
        parse_structure(text)


def test_refuses_what_nests_too_deep_for_python():
    with pytest.raises(ProgramError, match=r"give some a line of their own|expected Python syntax"):
        parse_structure(SCORE_HEAD + "-" * 100_000 + "score")
    with pytest.raises(ProgramError, match="give some a line of their own"):
        parse_structure(SCORE_HEAD + " + ".join(["score"] * 3000))


def test_blank_lines_and_indentation_do_not_matter():
    assert parse_structure("\n  mask() -> bool\n\n    True\n") == parse_structure("mask() -> bool\nTrue")
