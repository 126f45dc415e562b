"""A key is built once, however many threads ask; what is asked for stays."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from runtime.machine_code import run_script
from saccade.runtime.cache import KernelCache

THREADS = 8


def test_a_value_is_built_once_and_found_again() -> None:
    cache: KernelCache[str, object] = KernelCache()
    made = cache.get("key", object)
    assert cache.get("key", object) is made
    assert cache.get("other", object) is not made
    assert (cache.builds, len(cache)) == (2, 2)
    cache.clear()
    assert cache.get("key", object) is not made


def test_none_is_a_value() -> None:
    cache: KernelCache[str, None] = KernelCache()
    for _ in range(2):
        cache.get("key", lambda: None)
    assert cache.builds == 1


def asked_at_once(cache: KernelCache[str, int], build: object) -> list[Future[int]]:
    together = threading.Barrier(THREADS)

    def ask() -> int:
        together.wait()
        return cache.get("key", build)  # type: ignore[arg-type]

    with ThreadPoolExecutor(THREADS) as pool:
        return [pool.submit(ask) for _ in range(THREADS)]


def test_threads_that_ask_at_once_share_one_build() -> None:
    builds = []

    def build() -> int:
        builds.append(threading.get_ident())
        time.sleep(0.1)
        return 42

    cache: KernelCache[str, int] = KernelCache()
    assert [asked.result() for asked in asked_at_once(cache, build)] == [42] * THREADS
    assert len(builds) == 1


def test_different_keys_are_built_side_by_side() -> None:
    cache: KernelCache[int, int] = KernelCache()
    both = threading.Barrier(2)

    def build() -> int:
        return both.wait(timeout=10)  # raises unless the other build runs at the same time

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda key: cache.get(key, build), range(2))) == [0, 1]


def test_an_exception_reaches_all_who_wait_and_is_forgotten() -> None:
    builds = []

    def build() -> int:
        builds.append(1)
        time.sleep(0.2)
        raise ValueError("no kernel")

    cache: KernelCache[str, int] = KernelCache()
    for asked in asked_at_once(cache, build):
        with pytest.raises(ValueError, match="no kernel"):
            asked.result()
    assert len(builds) == 1
    assert cache.get("key", lambda: 7) == 7


def test_an_interrupted_build_is_taken_over() -> None:
    started, waiting = threading.Event(), threading.Event()

    def interrupted() -> int:
        started.set()
        waiting.wait(timeout=10)
        time.sleep(0.1)
        raise KeyboardInterrupt

    cache: KernelCache[str, int] = KernelCache()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "key", interrupted)
        started.wait(timeout=10)
        second = pool.submit(cache.get, "key", lambda: 7)
        waiting.set()
        assert second.result(timeout=10) == 7
        with pytest.raises(KeyboardInterrupt):
            first.result()


def test_a_build_that_asks_for_itself_is_a_fault() -> None:
    cache: KernelCache[str, int] = KernelCache()

    def build() -> int:
        return cache.get("key", build)

    with pytest.raises(AssertionError, match="the build of 'key' asks for itself"):
        cache.get("key", build)


class TestEviction:
    def test_it_is_bounded(self) -> None:
        cache: KernelCache[int, int] = KernelCache(capacity=4)
        for key in range(100):
            cache.get(key, lambda: 0)
            assert len(cache) == min(4, key + 1)

    def test_what_was_used_since_stays(self) -> None:
        cache: KernelCache[str, str] = KernelCache(capacity=3)
        for key in "abc":
            cache.get(key, lambda key=key: key)  # type: ignore[misc]
        cache.get("a", lambda: "built again")
        cache.get("d", lambda: "d")
        assert [cache.get(key, lambda: "built again") for key in "acd"] == ["a", "c", "d"]
        assert cache.get("b", lambda: "built again") == "built again"

    def test_all_used_alike_the_oldest_goes(self) -> None:
        cache: KernelCache[str, str] = KernelCache(capacity=2)
        for key in "abab":
            cache.get(key, lambda key=key: key)  # type: ignore[misc]
        cache.get("c", lambda: "c")
        assert cache.get("b", lambda: "built again") == "b"

    def test_threads_find_what_belongs_to_their_key(self) -> None:
        cache: KernelCache[int, int] = KernelCache(capacity=5)

        def work(seed: int) -> bool:
            keys = [(seed * 7 + step * step) % 11 for step in range(2000)]
            return all(cache.get(key, lambda key=key: key * key) == key * key for key in keys)  # type: ignore[misc]

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
        assert len(cache) == 5


def test_a_child_forked_during_a_build_builds_for_itself() -> None:
    printed = run_script(
        """
        import os, threading
        from saccade.runtime.cache import KernelCache

        cache = KernelCache()
        cache.get("kept", lambda: 1)
        started, finish = threading.Event(), threading.Event()

        def build():
            started.set()
            finish.wait()
            return "parent's"

        builder = threading.Thread(target=cache.get, args=("key", build))
        builder.start()
        started.wait()
        cache._lock.acquire()
        child = os.fork()
        if child == 0:
            sound = cache.get("key", lambda: "child's") == "child's" and cache.get("kept", int) == 1
            os._exit(0 if sound else 1)
        cache._lock.release()
        finish.set()
        builder.join()
        print(os.waitpid(child, 0)[1], cache.get("key", int))
        """,
        timeout=30,
    )
    assert printed.split(maxsplit=1) == ["0", "parent's\n"]
