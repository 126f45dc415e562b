"""Memory whose ends lie against pages that may not be touched: one byte read or written outside is the end.

Also `guarded_outputs`: what torch allocates for results lies there too.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

__all__ = ["guarded_outputs", "place"]

_PROT_NONE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)


def place(tensor: Tensor, end: str) -> Tensor:
    """A copy with the same strides whose first or last byte lies against an untouchable page.

    Both neighbours of its pages are untouchable; between the tensor and the other one lies less than a page,
    which holds NaN.

    Args:
        tensor: Dense or strided, not empty; only its own extent of storage is copied.
        end: "first", "last", or "none" for the tensor itself.
    """
    if end == "none" or tensor.numel() == 0:
        return tensor
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    size = extent * tensor.element_size()
    area = _guarded_bytes(size, end)
    flat = torch.frombuffer(area, dtype=tensor.dtype, count=extent)
    flat.copy_(tensor.detach().as_strided((extent,), (1,), tensor.storage_offset()))
    return flat.as_strided(tensor.shape, tensor.stride())


def _guarded_bytes(size: int, end: str) -> memoryview:
    pages = -(-size // mmap.PAGESIZE)
    area = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    whole = np.frombuffer(area, np.uint8)
    whole[mmap.PAGESIZE : -mmap.PAGESIZE] = 0xFF  # NaN in every floating type
    start = mmap.PAGESIZE + (pages * mmap.PAGESIZE - size if end == "last" else 0)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(whole.ctypes.data + page * mmap.PAGESIZE)
        failed = _LIBC.mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE)
        assert not failed, "the system protects no pages"
    return memoryview(whole)[start : start + size]


@contextmanager
def guarded_outputs(end: str) -> Iterator[None]:
    """Within, what `torch.empty` and `torch.empty_strided` give is placed likewise."""
    empty, empty_strided = torch.empty, torch.empty_strided

    def strided(shape: tuple[int, ...], steps: tuple[int, ...], **options: object) -> Tensor:
        made = empty_strided(shape, steps, **options)
        return place(made, end) if made.device.type == "cpu" else made

    def dense(*shape: object, **options: object) -> Tensor:
        made = empty(*shape, **options)
        return place(made, end) if made.device.type == "cpu" and made.dtype.is_floating_point else made

    with pytest.MonkeyPatch.context() as patch:
        if end != "none":
            patch.setattr(torch, "empty", dense)
            patch.setattr(torch, "empty_strided", strided)
        yield
