"""Interning: one node for equal expressions, whatever threads, processes and the garbage collector do."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from saccade.ir import expr
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, make, var
from saccade.ir.ops import Op

FORK = """
import os, signal, sys, threading, warnings
from saccade.ir import expr
from saccade.ir.dtype import DType

warnings.simplefilter("ignore")  # that a process with threads forks is the point
held, done = threading.Event(), threading.Event()

def hold():
    with expr._lock:
        held.set()
        done.wait(0.3)

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(5)  # a child that waits for the lock dies of it
    expr.const(123456789, DType.INT64)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(expr.os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_another_thread_makes_nodes_can_make_its_own() -> None:
    assert subprocess.run([sys.executable, "-c", FORK], timeout=60, check=False).returncode == 0


def test_threads_agree_on_every_node() -> None:
    made: list[list[Expr]] = [[] for _ in range(8)]
    start = threading.Barrier(len(made))

    def work(nodes: list[Expr]) -> None:
        start.wait()
        nodes.extend(make(Op.ADD, (var("q_idx"), const(value, DType.INT64))) for value in range(1000, 1400))

    threads = [threading.Thread(target=work, args=(nodes,)) for nodes in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(nodes == made[0] for nodes in made)  # Expr compares by identity


def test_an_expression_nobody_uses_is_forgotten() -> None:
    key = (Op.CONST, (), 987654321, DType.INT64, int)
    const(987654321, DType.INT64)
    assert key in expr._table
    for value in range(expr._recent.maxlen or 0):
        const(2_000_000_000 + value, DType.INT64)
    gc.collect()
    assert key not in expr._table


def test_nodes_are_immutable() -> None:
    with pytest.raises(AttributeError, match="Expr is immutable; expected no assignment, got op="):
        var("q_idx").op = Op.ADD
