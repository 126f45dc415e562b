"""Items are taken exactly once, on torch's threads, Python's or one; and nothing runs on after Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
from numpy.typing import NDArray

from runtime.machine_code import COUNT, compiled, run_script
from saccade.codegen.cpu.arguments import State
from saccade.runtime import team
from saccade.runtime.llvm import CompiledKernel
from saccade.runtime.team import NEXT_ITEM, NEXT_SLOT, STOP_ITEM, run, run_sliced, thread_count


@pytest.fixture(scope="module")
def count() -> CompiledKernel:
    return compiled("count", COUNT)


@pytest.fixture(params=["openmp", "python"])
def team_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind: str = request.param
    if kind == "openmp" and team._team() is team._python_threads:
        pytest.skip("no OpenMP library in this process offers GOMP_parallel")
    if kind == "python":
        monkeypatch.setattr(team, "_team", lambda: team._python_threads)
    return kind


class Work:
    """The blocks of one run of COUNT."""

    def __init__(self, items: int, rounds: int = 20) -> None:
        self.counts: NDArray[numpy.int64] = numpy.zeros(items, numpy.int64)
        self.state: NDArray[numpy.int64] = numpy.zeros(8, numpy.int64)
        self.arguments: NDArray[numpy.int64] = numpy.array(
            [self.state.ctypes.data, self.counts.ctypes.data, 0, rounds]
        )

    @property
    def calls(self) -> int:
        return int(self.arguments[2])

    def run(self, kernel: CompiledKernel, threads: int, stops: list[int] | Iterator[int]) -> None:
        run_sliced(kernel.address("entry"), self.arguments.ctypes.data, threads, self.state, stops)


def test_linux_torch_brings_its_team() -> None:
    if not (Path(torch.__file__).parent / "lib" / "libgomp.so.1").exists():
        pytest.skip("this torch does not ship GNU's OpenMP library")
    assert team._team() is not team._python_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_thread_of_the_team_calls_once(count: CompiledKernel, threads: int) -> None:
    if team._team() is team._python_threads:
        pytest.skip("no OpenMP library in this process offers GOMP_parallel")
    work = Work(1)
    run(count.address("entry"), work.arguments.ctypes.data, threads)
    assert work.calls == threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("stops", [[3000], [1, 2, 1000, 1000, 3000], list(range(0, 3001, 100)), []])
def test_items_are_taken_exactly_once(
    count: CompiledKernel, team_kind: str, threads: int, stops: list[int]
) -> None:
    work = Work(3000)
    work.run(count, threads, stops)
    assert work.counts.tolist() == [1] * (stops[-1] if stops else 0) + [0] * (0 if stops else 3000)
    assert len(stops) <= work.calls <= threads * len(stops)


def test_each_slice_numbers_its_threads_anew(count: CompiledKernel) -> None:
    work = Work(100)
    work.run(count, 2, [10, 100])
    assert (work.state[NEXT_SLOT], work.state[STOP_ITEM], work.state[NEXT_ITEM]) == (2, 100, 102)


def test_python_threads_call_at_once(count: CompiledKernel, team_kind: str) -> None:
    works = [Work(2000) for _ in range(4)]
    together = threading.Barrier(4)

    def call(work: Work) -> None:
        together.wait()
        for _ in range(20):
            work.run(count, 2, [500, 2000])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, works))
    assert all(work.counts.tolist() == [20] * 2000 for work in works)


def test_an_exception_between_slices_ends_the_work(count: CompiledKernel, team_kind: str) -> None:
    work = Work(30)

    def stops() -> Iterator[int]:
        yield 10
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.run(count, 2, stops())
    assert work.counts.tolist() == [1] * 10 + [0] * 20


@pytest.mark.parametrize("kind", ["openmp", "python"])
def test_ctrl_c_is_seen_and_leaves_nothing_running(kind: str) -> None:
    printed = run_script(
        f"""
        import os, signal, threading, time
        from runtime.machine_code import COUNT, compiled
        from runtime.test_team import Work
        from saccade.runtime import team

        if {kind!r} == "python":
            team._team = lambda: team._python_threads
        kernel, work = compiled("count", COUNT), Work(1_000_000, rounds=20_000)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        begun = time.perf_counter()
        try:
            work.run(kernel, 2, list(range(0, 1_000_001, 100)))
        except KeyboardInterrupt:
            print(time.perf_counter() - begun < 5)
        done = work.counts.copy()
        time.sleep(0.2)
        print((work.counts == done).all(), 0 < done.sum() < 1_000_000, done.max())
        """,
        timeout=60,
    )
    assert printed.split() == ["True", "True", "True", "1"]


@pytest.mark.parametrize("kind", ["openmp", "python"])
def test_signals_at_any_moment_leave_nothing_running(kind: str) -> None:
    printed = run_script(
        f"""
        import signal, time
        from runtime.machine_code import COUNT, compiled
        from runtime.test_team import Work
        from saccade.runtime import team

        if {kind!r} == "python":
            team._team = lambda: team._python_threads

        def interrupt(number, frame):
            while frame is not None:  # only where the team's code, or what it calls, is at work
                if frame.f_code.co_filename == team.__file__:
                    raise KeyboardInterrupt
                frame = frame.f_back

        kernel, interrupted, ran_on = compiled("count", COUNT), 0, 0
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for _ in range(300):
            work = Work(2000, rounds=2000)
            try:
                work.run(kernel, 3, [1000, 2000])
            except KeyboardInterrupt:
                interrupted += 1
            done = work.counts.sum()
            time.sleep(0.001)
            ran_on += work.counts.sum() != done
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(interrupted > 50, ran_on)
        """,
        timeout=60,
    )
    assert printed.split() == ["True", "0"]


def test_a_team_has_torchs_number_of_threads() -> None:
    assert thread_count() == torch.get_num_threads()


def test_kernels_know_the_slots_by_the_same_numbers() -> None:
    assert (NEXT_ITEM, STOP_ITEM, NEXT_SLOT) == (State.NEXT_ITEM, State.STOP_ITEM, State.NEXT_SLOT)


def test_where_no_library_offers_a_team_python_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_symbol(path: str | None) -> object:
        if path is None:
            return object()
        raise OSError(path)

    monkeypatch.setattr(team.ctypes, "CDLL", without_symbol)
    assert team._team.__wrapped__() is team._python_threads
