"""Whether triton is installed: without it, tests that need it are skipped, or fail where CI=true."""

from __future__ import annotations

import importlib.util
import os

import pytest

__all__ = ["require_triton"]


def require_triton() -> None:
    """Skip the test that runs, or fail it in CI, where triton is not installed."""
    if importlib.util.find_spec("triton") is not None:
        return
    reason = "triton is not installed; the extra `gpu` brings it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
