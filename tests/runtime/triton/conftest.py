"""Every test of this directory has caches of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SACCADE_CACHE_DIR", str(tmp_path / "saccade"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
