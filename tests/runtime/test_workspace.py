"""Buffers come back, are lent once at a time, and never amount to more than the limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.machine_code import run_script
from saccade.runtime.workspace import ALIGNMENT, WORKSPACE, Workspace


@given(st.integers(0, 1 << 22))
def test_a_buffer_is_large_enough_aligned_and_not_much_larger(size: int) -> None:
    with Workspace(0).borrow(size) as loan:
        assert loan.address % ALIGNMENT == 0
        assert loan.memory.ctypes.data == loan.address
        assert size <= loan.size == loan.memory.nbytes <= max(4096, 1.25 * size)


def test_a_returned_buffer_is_lent_again() -> None:
    workspace = Workspace()
    with workspace.borrow(1 << 20) as first:
        assert workspace.kept == 0
    assert workspace.kept == 1 << 20
    with workspace.borrow((1 << 20) - 100) as second:
        assert second.address == first.address
        assert workspace.kept == 0


def test_two_borrowers_have_two_buffers() -> None:
    workspace = Workspace()
    with workspace.borrow(4096) as one, workspace.borrow(4096) as other:
        assert abs(one.address - other.address) >= 4096


def test_what_exceeds_the_limit_is_freed() -> None:
    workspace = Workspace(limit=1 << 20)
    with workspace.borrow((1 << 20) + 1):
        pass
    assert workspace.kept == 0


def test_the_longest_unused_makes_room() -> None:
    workspace = Workspace(limit=3 << 20)
    loans = [workspace.borrow(size << 20) for size in (1, 2)]
    kept = [loan.address for loan in loans]
    for loan in loans:
        workspace.take_back(loan)
    with workspace.borrow(4096):
        pass
    assert workspace.kept == (2 << 20) + 4096
    assert workspace.borrow(2 << 20).address == kept[1]


def test_an_exception_hands_the_buffer_back() -> None:
    workspace = Workspace()
    with pytest.raises(KeyboardInterrupt), workspace.borrow(4096):
        raise KeyboardInterrupt
    assert workspace.kept == 4096


def test_threads_never_share_a_buffer() -> None:
    workspace = Workspace(limit=1 << 18)

    def work(mark: int) -> bool:
        sound = True
        for step in range(300):
            with workspace.borrow(4096 << (step % 3)) as loan:
                loan.memory[:4096] = mark
                sound &= bool(numpy.all(loan.memory[:4096] == mark))
        return sound

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert workspace.kept == sum(loan.size for loan in workspace._free) <= workspace.limit


def test_the_process_has_one_of_64_megabytes() -> None:
    assert WORKSPACE.limit == 64 << 20


def test_a_forked_child_starts_empty_and_unlocked() -> None:
    printed = run_script(
        """
        import os
        from saccade.runtime.workspace import Workspace

        workspace = Workspace()
        with workspace.borrow(1 << 20):
            pass
        workspace._lock.acquire()
        child = os.fork()
        if child == 0:
            empty = workspace.kept == 0
            with workspace.borrow(1 << 20):
                pass
            os._exit(0 if empty and workspace.kept == 1 << 20 else 1)
        print(os.waitpid(child, 0)[1], workspace.kept)
        """,
        timeout=30,
    )
    assert printed.split() == ["0", str(1 << 20)]
