"""Nodes: interned, immutable, typed, and what they read."""

from __future__ import annotations

import copy
import gc
import pickle
import threading

import pytest

from saccade.ir import expr as expr_module
from saccade.ir.dtype import DType
from saccade.ir.expr import (
    Expr,
    axis,
    cast,
    const,
    load,
    make,
    number,
    rebuild,
    relocate,
    substitute,
    var,
    walk,
)
from saccade.ir.ops import OPS, Op, TypeRule

BOOL, I64, F32, F64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
Q, K, SCORE = var("q_idx"), var("kv_idx"), var("score", F32)


def op(kind: Op, *args: Expr, attr: object = None) -> Expr:
    return make(kind, args, attr)


def test_equal_expressions_are_one_object():
    assert op(Op.ADD, Q, K) is op(Op.ADD, Q, K)
    assert op(Op.ADD, Q, K) is not op(Op.ADD, K, Q)
    assert load(0, [Q], F32) is not load(0, [Q], F64)
    assert number(0, I64) is not number(0, F32)


def test_constants_that_python_calls_equal_stay_apart():
    nodes = {const(True, BOOL), const(1, I64), const(1.0, F32), const(1.0, F64), make(Op.CONST, (), 1, F32)}
    assert len(nodes) == 5
    assert const(1, F32) is const(True, F32) is const(1.0, F32)
    assert const(float("nan"), F32) is const(-float("nan"), F32)
    assert const(0.0, F32) is not const(-0.0, F32)
    assert const(-0.0, F32) is op(Op.NEG, const(0.0, F32))


def test_unused_expressions_are_forgotten():
    gc.collect()
    before = len(expr_module._table)
    root = Q
    for step in range(50_000):  # deeper than Python's stack
        root = op(Op.ADD, root, const(step, I64))
    assert len(expr_module._table) >= before + 50_000
    del root
    for step in range(5_000):  # the newest nodes are held a while
        const(-1 - step, I64)
    gc.collect()
    assert len(expr_module._table) < before + 5_000


def test_nodes_are_immutable():
    with pytest.raises(AttributeError, match="Expr is immutable; expected no assignment, got attr=3"):
        Q.attr = 3


def test_pickle_and_copy_give_the_same_object():
    root = op(Op.WHERE, op(Op.LT, Q, K), SCORE, cast(load(0, [axis(3)], I64), F32))
    assert pickle.loads(pickle.dumps(root)) is root
    assert copy.deepcopy(root) is root


def test_threads_make_one_node():
    found: list[Expr] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        root = Q
        for step in range(300):
            root = op(Op.MUL, root, const(step, I64))
        found.append(root)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(root is found[0] for root in found)


def test_types_follow_from_arguments():
    assert op(Op.ADD, Q, K).dtype is I64
    assert op(Op.LT, SCORE, SCORE).dtype is BOOL
    assert op(Op.WHERE, op(Op.LT, Q, K), SCORE, SCORE).dtype is F32
    assert op(Op.CAST, Q, attr=DType.BFLOAT16).dtype is F32
    assert op(Op.CAST, SCORE, attr=DType.INT8).dtype is I64
    assert {info.rule for info in OPS.values()} == set(TypeRule)


def test_cast_is_nothing_where_nothing_changes():
    assert cast(SCORE, F32) is SCORE
    assert cast(SCORE, DType.FLOAT16).op is Op.CAST
    assert cast(Q, DType.INT32).attr is DType.INT32


def test_reads():
    root = op(Op.LT, Q, load(0, [var("b")], I64))
    assert root.depends_on("q_idx")
    assert root.depends_on("h", "b")
    assert not root.depends_on("h", "kv_idx", "score")
    assert not op(Op.SUM, axis(2), attr=(2, 5)).reads
    assert op(Op.SUM, axis(2), attr=(1, 5)).reads


def test_custom_binds_cotangent_in_its_gradients():
    cotangent = var("cotangent", F32)
    assert not make(Op.CUSTOM, (SCORE, SCORE, cotangent), 1).depends_on("cotangent")
    assert make(Op.CUSTOM, (SCORE, cotangent, cotangent), 1).depends_on("cotangent")


def test_walk_gives_arguments_first_and_each_once():
    shared = op(Op.MUL, Q, K)
    root = op(Op.ADD, shared, op(Op.NEG, shared))
    assert list(walk(root)) == [Q, K, shared, op(Op.NEG, shared), root]
    assert list(walk(K, root, K)) == [K, Q, shared, op(Op.NEG, shared), root]


def test_rebuild():
    root = op(Op.ADD, Q, K)
    assert rebuild(root, (Q, K)) is root
    assert rebuild(root, (K, K)) is op(Op.ADD, K, K)
    assert rebuild(load(3, [Q], F32), (K,)) is load(3, [K], F32)


def test_substitute():
    root = op(Op.ADD, op(Op.MUL, Q, K), Q)
    assert substitute(root, {Q: K}) is op(Op.ADD, op(Op.MUL, K, K), K)
    assert substitute(root, {op(Op.MUL, Q, K): Q}) is op(Op.ADD, Q, Q)
    assert substitute(root, {SCORE: Q}) is root


def test_substitute_respects_what_custom_binds():
    cotangent, grad = var("cotangent", F32), var("grad", F32)
    root = make(Op.CUSTOM, (SCORE, cotangent, op(Op.MUL, cotangent, SCORE)), 1)
    found = substitute(root, {cotangent: grad, SCORE: const(2.0, F32)})
    two = const(2.0, F32)
    assert found is make(Op.CUSTOM, (two, grad, op(Op.MUL, cotangent, two)), 1)


def test_relocate_moves_slots():
    root = op(Op.ADD, load(0, [number(1, I64)], I64), number(0, I64))
    assert relocate(root, captures=2, numbers=3) is op(Op.ADD, load(2, [number(4, I64)], I64), number(3, I64))


def test_repr_is_short():
    assert repr(op(Op.ADD, SCORE, SCORE)) == "<Expr add f32>"
    assert repr(load(2, [Q], F64)) == "<Expr load 2 f64>"
    assert repr(Op.ADD) == "Op.ADD"
