"""Calls side by side, one inside the other's wait, and interrupted: memory and threads come back."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
import torch
from torch import Tensor

from saccade import create_block_mask, flex_attention
from saccade.backends.cpu import launch as cpu_launch
from saccade.errors import IndexOutOfRangeError
from saccade.masks import causal, sliding_window
from saccade.runtime.workspace import Loan, Workspace


def attend(*tensors: Tensor, **arguments: object) -> Tensor:
    return flex_attention(*tensors, backend="cpu", **arguments)


class Lender:
    """A workspace that remembers what is out."""

    def __init__(self) -> None:
        self.out: list[Loan] = []

    def borrow(self, size: int) -> Loan:
        self.out.append(Loan(self, Workspace().borrow(size).memory))
        return self.out[-1]

    def take_back(self, loan: Loan) -> None:
        self.out.remove(loan)


@pytest.fixture
def lender(monkeypatch: pytest.MonkeyPatch) -> Lender:
    lender = Lender()
    monkeypatch.setattr(cpu_launch, "WORKSPACE", lender)
    return lender


def test_memory_comes_back(lender: Lender) -> None:
    query = torch.randn(1, 2, 40, 16)
    attend(query, query, query)
    assert lender.out == []
    table = torch.zeros(5)
    with pytest.raises(IndexOutOfRangeError):
        attend(query, query, query, score_mod=lambda score, b, h, q, k: score + table[k])
    assert lender.out == []


def test_threads_of_python_do_not_meet() -> None:
    windows = range(1, 9)
    query = torch.randn(2, 4, 300, 32)
    masks = {
        size: create_block_mask(sliding_window(size), None, None, 300, 300, device="cpu") for size in windows
    }
    expected = {size: attend(query, query, query, block_mask=masks[size]) for size in windows}
    together = threading.Barrier(4)

    def work(first: int) -> bool:
        together.wait()
        order = [*windows][first:] + [*windows][:first]
        found = {size: attend(query, query, query, block_mask=masks[size]) for size in order * 3}
        return all(torch.equal(found[size], expected[size]) for size in windows)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
def test_ctrl_c_is_seen_between_slices(lender: Lender) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    query = torch.randn(1, 16, 8192, 64)
    small = query[:, :, :64]
    attend(small, small, small)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            attend(query, query, query)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert lender.out == []
    expected = flex_attention(small, small, small, mask_mod=causal, backend="eager")
    torch.testing.assert_close(attend(small, small, small, mask_mod=causal), expected)
