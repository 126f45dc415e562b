"""A forked child compiles, finds what was compiled, and works alone."""

from __future__ import annotations

import os

import pytest

from runtime.machine_code import run_script
from saccade.runtime.fork import is_forked_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def test_this_process_is_no_child() -> None:
    assert not is_forked_child()


def test_a_child_works_alone_with_its_parents_kernels_and_its_own() -> None:
    printed = run_script(
        """
        import os
        import torch
        from runtime.machine_code import COUNT, compiled
        from runtime.test_team import Work
        from saccade.runtime.fork import is_forked_child
        from saccade.runtime.team import thread_count

        torch.set_num_threads(4)
        kernel, work = compiled("parent's", COUNT), Work(1000)
        work.run(kernel, thread_count(), [500, 1000])  # the pool of threads exists, and stays with the parent
        child = os.fork()
        if child == 0:
            for each in (kernel, compiled("child's", COUNT)):
                work.run(each, thread_count(), [500, 1000])
            os._exit(0 if is_forked_child() and thread_count() == 1 and set(work.counts) == {3} else 1)
        print(os.waitpid(child, 0)[1], thread_count(), is_forked_child())
        """,
        timeout=60,
    )
    assert printed.split() == ["0", "4", "False"]


def test_a_child_that_loads_the_engine_only_then_works_alone_too() -> None:
    printed = run_script(
        """
        import os, sys
        import saccade, torch

        torch.set_num_threads(4)
        torch.rand(512, 512) @ torch.rand(512, 512)
        assert "saccade.runtime.team" not in sys.modules
        child = os.fork()
        if child == 0:
            from saccade.runtime.team import thread_count
            os._exit(0 if thread_count() == 1 else 1)
        print(os.waitpid(child, 0)[1])
        """,
        timeout=60,
    )
    assert printed.split() == ["0"]


def test_a_fork_waits_for_a_compilation_under_way() -> None:
    printed = run_script(
        """
        import os, threading
        from runtime.machine_code import ADD, compiled

        stop = threading.Event()

        def compile_on_and_on():
            while not stop.is_set():
                compiled("busy", ADD)

        compiler = threading.Thread(target=compile_on_and_on)
        compiler.start()
        statuses = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                compiled("child's", ADD)
                os._exit(0)
            statuses.append(os.waitpid(child, 0)[1])
        stop.set()
        compiler.join()
        print(sum(statuses))
        """,
        timeout=60,
    )
    assert printed.split() == ["0"]


def test_the_workers_of_a_data_loader() -> None:
    printed = run_script(
        """
        import torch
        from torch.utils.data import DataLoader, Dataset
        from runtime.machine_code import COUNT, compiled
        from runtime.test_team import Work
        from saccade.runtime.team import thread_count

        kernel = compiled("parent's", COUNT)
        Work(100).run(kernel, 4, [100])

        class Counted(Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, index):
                work = Work(1000)
                own = compiled("worker's", COUNT)
                for each in (kernel, own):
                    work.run(each, thread_count(), [300, 1000])
                return torch.from_numpy(work.counts)

        batches = list(DataLoader(Counted(), batch_size=4, num_workers=2, multiprocessing_context="fork"))
        print(len(batches), torch.cat(batches).unique().tolist())
        """,
        timeout=120,
    )
    assert printed.split() == ["2", "[2]"]
