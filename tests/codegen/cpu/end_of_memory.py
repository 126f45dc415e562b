"""Tensors that end where mapped memory ends, so that a read or write behind them cannot go unseen."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor


def at_end_of_memory(tensor: Tensor) -> Tensor:
    """A copy behind which memory is not mapped: to touch it ends the process."""
    page = mmap.PAGESIZE
    pages = mmap.mmap(-1, (tensor.nbytes // page + 2) * page)
    storage = torch.frombuffer(pages, dtype=torch.uint8)
    limit = storage.data_ptr() + len(pages) - page
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(limit), page, 0) == 0
    at = len(pages) - page - tensor.nbytes
    return storage[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
