"""Kernels of this process: one that a graph's capture needs must have been loaded before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saccade.backends.triton import kernels
from saccade.backends.triton.kernels import LoadedKernel, load_kernel
from saccade.errors import UnsupportedError
from saccade.runtime.cache import KernelCache

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("capturing", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_no_kernel_is_loaded_while_a_graph_is_captured(
    loaded: bool, capturing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was compiled for another device of the same kind would be."""
    cache: KernelCache[Any, LoadedKernel] = KernelCache(capacity=1)
    compiled: Any = SimpleNamespace(is_loaded=lambda device: loaded)
    source: Any = None
    kernel = cache.get("a specification", lambda: LoadedKernel(source, compiled, tuple))
    monkeypatch.setattr(kernels, "KERNELS", cache)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    spec: Any = "a specification"
    if capturing and not loaded:
        with pytest.raises(UnsupportedError, match="its kernel is not loaded on the device; make the mask"):
            load_kernel(spec, CUDA)
    else:
        assert load_kernel(spec, CUDA) is kernel
