"""The processes that the tests of program text share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.triton.presence import require_triton
from codegen.triton.program.kernel_server import KernelServer


@pytest.fixture(scope="session")
def interpreter() -> Iterator[KernelServer]:
    """Runs modules in Triton's interpreter."""
    require_triton()
    with KernelServer(interpret=True) as server:
        yield server


@pytest.fixture(scope="session")
def compiler() -> Iterator[KernelServer]:
    """Compiles modules for a GPU that need not be there."""
    require_triton()
    with KernelServer(interpret=False) as server:
        yield server
