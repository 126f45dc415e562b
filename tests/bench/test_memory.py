"""Peak memory, as the system counts it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.bench import memory
from saccade.bench.memory import available_bytes, peak_memory

SIZE = 64 * 2**20


def has_high_water_mark() -> bool:
    return memory._restart_high_water_mark() is not None


@pytest.mark.skipif(not has_high_water_mark(), reason="the system keeps no high-water mark that can be reset")
def test_the_peak_is_what_a_call_held_at_once() -> None:
    def call() -> str:
        for _ in range(2):
            torch.ones(SIZE, dtype=torch.uint8)
        return "done"

    result, peak = peak_memory(call)
    assert result == "done"
    assert peak is not None
    assert 0.9 * SIZE < peak < 1.5 * SIZE  # counted by pages, some of which a thread may hold back
    _, little = peak_memory(lambda: None)
    assert little is not None
    assert little < SIZE // 8


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the system has no /proc/meminfo")
def test_available_memory_is_some() -> None:
    available = available_bytes()
    assert available is not None
    assert available > 2**20


def test_where_the_system_does_not_tell_there_is_no_guess(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no directory" / "clear_refs")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert peak_memory(lambda: 3) == (3, None)
    assert available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\nMemAvailable:   7 kB\n")
    assert available_bytes() == 7 * 1024
