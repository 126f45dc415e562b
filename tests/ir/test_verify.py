"""Every rule of the representation, broken once."""

from __future__ import annotations

import pytest
from hypothesis import given

from ir.strategies import Case, mask_structures
from saccade.errors import ProgramError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, load, make, number, var
from saccade.ir.ops import Op
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.verify import check_node, verify, verify_expression

BOOL, I64, F32, F64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
Q, SCORE, TRUE = var("q_idx"), var("score", F32), const(True, BOOL)
TABLE = (CaptureType(DType.FLOAT16, 2),)


def op(kind: Op, *args: Expr, attr: object = None) -> Expr:
    return make(kind, args, attr)


def score(root: Expr) -> Structure:
    return Structure(ModKind.SCORE, root, TABLE, (I64, F32))


def as_score(root: Expr) -> Structure:
    return score(op(Op.ADD, SCORE, root if root.dtype is F32 else op(Op.CAST, root, attr=F32)))


@given(mask_structures())
def test_accepts_what_is_drawn(case: Case):
    verify(case.structure)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure(ModKind.MASK, Q), "a mask's result is bool; got i64"),
        (Structure(ModKind.SCORE, Q), "a score's result is f32 or f64; got i64"),
        (score(op(Op.CAST, SCORE, attr=F64)), "returns the type of its score; got score=f32, result=f64"),
        (Structure(ModKind.SCORE, SCORE, (CaptureType(F32, -1),)), "got capture 0 with rank=-1"),
        (Structure(ModKind.SCORE, SCORE, (), (BOOL,)), "got number 0 of type bool"),
        (
            Structure(ModKind.MASK, op(Op.LT, SCORE, SCORE)),
            "b, h, kv_idx, q_idx; got a use of score: use what",
        ),
        (score(var("grad", F32)), "got a use of grad: use what the mod is given"),
        (score(var("cotangent", F32)), "got a use of cotangent: only a CUSTOM node's gradients bind it"),
        # leaves
        (as_score(make(Op.VAR, (), "b", F32)), "b is i64; got f32"),
        (Structure(ModKind.MASK, op(Op.LT, var("score", I64), Q)), "score is f32 or f64; got i64"),
        (as_score(make(Op.CONST, (), 1, F32)), "a f32 constant is a Python float; got 1"),
        (as_score(make(Op.CONST, (), True, I64)), "a i64 constant is a Python int; got True"),
        (as_score(const(2**63, I64)), "an i64 constant lies in .*; got 9223372036854775808"),
        (
            as_score(make(Op.CONST, (), 1, DType.INT32)),
            "const expects stated by the node; got const\\(\\) -> i32",
        ),
        (as_score(number(2, F32)), "a number's slot lies in 0..1; got slot=2"),
        (as_score(number(0, F32)), "number 0 is i64; got a use as f32"),
        (as_score(axis(0)), "every axis is bound by a reduction; got axis0 free"),
        (as_score(make(Op.AXIS, (), 0, F32)), "an axis is i64; got f32"),
        (as_score(load(1, [Q, Q], F32)), "a load's slot lies in 0..0; got slot=1"),
        (as_score(load(0, [Q], F32)), "capture 0 takes 2 indices; got 1"),
        (as_score(load(0, [Q, TRUE], F32)), "an index is i64; got load\\(i64, bool\\) -> f32"),
        (as_score(load(0, [Q, Q], F64)), "a load from f16 gives f32; got f64"),
        # arity and types
        (as_score(op(Op.ADD, SCORE)), "add takes 2 arguments; got 1: add\\(f32\\) -> f32"),
        (
            as_score(op(Op.ADD, SCORE, Q)),
            "add expects all arguments of one INT64 or float type.*insert a cast",
        ),
        (as_score(op(Op.ADD, TRUE, TRUE)), "add expects all arguments of one INT64 or float"),
        (as_score(op(Op.EXP, Q)), "exp expects all arguments of one float type"),
        (as_score(op(Op.SHL, TRUE, TRUE)), "shl expects all arguments INT64"),
        (as_score(op(Op.AND, Q, TRUE)), "and expects all arguments BOOL or all INT64"),
        (as_score(op(Op.NOT, SCORE)), "not expects all arguments BOOL or all INT64"),
        (as_score(op(Op.LT, Q, SCORE)), "lt expects all arguments of one type; the result is BOOL"),
        (as_score(op(Op.WHERE, Q, SCORE, SCORE)), "where expects a BOOL, then two arguments of one type"),
        (as_score(op(Op.WHERE, TRUE, SCORE, Q)), "where expects a BOOL, then two arguments of one type"),
        # reductions
        (as_score(op(Op.SUM, SCORE, attr=(0, -1))), "sum carries \\(axis, extent\\).*got \\(0, -1\\)"),
        (as_score(op(Op.SUM, SCORE, attr=(0, 1, 2))), "sum carries \\(axis, extent\\)"),
        (as_score(op(Op.MIN, SCORE, attr=(0, 0))), "min needs an extent of 1 or more; got extent=0"),
        (as_score(op(Op.SUM, op(Op.SUM, axis(0), attr=(0, 2)), attr=(0, 3))), "got axis0 bound again inside"),
        (as_score(op(Op.SUM, axis(1), attr=(0, 2))), "got axis1 free"),
        # custom
        (as_score(make(Op.CUSTOM, (SCORE, SCORE), 1)), "got n=1, 2 arguments"),
        (as_score(make(Op.CUSTOM, (SCORE,), -1)), "got n=-1, 1 arguments"),
        (
            as_score(make(Op.CUSTOM, (SCORE, SCORE, Q), 1)),
            "the type of its input; got input=f32, gradient=i64",
        ),
        (
            as_score(make(Op.CUSTOM, (SCORE, SCORE, op(Op.CAST, var("cotangent", F64), attr=F32)), 1)),
            "got cotangent=f64, value=f32",
        ),
    ],
)
def test_refuses(structure: Structure, message: str):
    with pytest.raises(ProgramError, match=message):
        verify(structure)


def with_attr(like: Expr, attr: object) -> Expr:
    """A node that `make` would not build."""
    node = object.__new__(Expr)
    for name in ("op", "args", "dtype", "reads"):
        object.__setattr__(node, name, getattr(like, name))
    object.__setattr__(node, "attr", attr)
    return node


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (with_attr(op(Op.CAST, SCORE, attr=F64), "f32"), "a cast's target is a DType; got 'f32'"),
        (with_attr(Q, "k"), "a variable is one of score, b, .*; got 'k'"),
        (with_attr(axis(0), "k"), "an axis is named by an int of 0 or more; got 'k'"),
    ],
)
def test_refuses_attributes_that_make_cannot_build(node: Expr, message: str):
    with pytest.raises(ProgramError, match=message):
        check_node(node, (), ())


def test_sibling_reductions_may_share_an_axis():
    sums = [op(Op.SUM, axis(0), attr=(0, extent)) for extent in (2, 3)]
    verify(as_score(op(Op.ADD, *sums)))


def test_an_inner_custom_binds_its_own_cotangent():
    inner = make(Op.CUSTOM, (const(1.0, F64), const(1.0, F64), var("cotangent", F64)), 1)
    gradient = op(Op.MUL, op(Op.CAST, inner, attr=F32), var("cotangent", F32))
    verify(as_score(make(Op.CUSTOM, (SCORE, SCORE, gradient), 1)))


def test_an_expression_alone_may_read_what_it_is_said_to():
    root = op(Op.MUL, var("grad", F32), op(Op.CAST, axis(1), attr=F32))
    verify_expression(root, (), (), variables=frozenset({"grad"}), axes=frozenset({1}))
    with pytest.raises(ProgramError, match="got axis1 free"):
        verify_expression(root, (), (), variables=frozenset({"grad"}))
