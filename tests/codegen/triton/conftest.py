"""The processes that the tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.triton.presence import require_triton
from codegen.triton.kernel_process import KernelProcess


@pytest.fixture(scope="session")
def interpreted() -> Iterator[KernelProcess]:
    """Runs kernels in Triton's interpreter."""
    require_triton()
    with KernelProcess(interpret=True) as process:
        yield process


@pytest.fixture(scope="session")
def compiled() -> Iterator[KernelProcess]:
    """Compiles kernels for a GPU that need not be there."""
    require_triton()
    with KernelProcess(interpret=False) as process:
        yield process
