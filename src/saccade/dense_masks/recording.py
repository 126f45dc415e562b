"""Whether what is done with a tensor is recorded, so that its values must not decide anything.

A choice made from the values of one call would stand in the graph for all others. Owns that question alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

__all__ = ["is_recorded"]


def is_recorded(tensor: Tensor | torch.fx.Proxy) -> bool:
    """Tell whether a graph is being made of what happens to a tensor, or whether it has no values.

    That is so under `torch.compile` and `torch.export`, under `torch.jit.trace`, for a proxy of `torch.fx`,
    while a CUDA graph is captured, and for a fake or meta tensor.

    Args:
        tensor: The tensor, or the `torch.fx.Proxy` that stands for one.

    Example:
        >>> is_recorded(torch.ones(2)), is_recorded(torch.ones(2, device="meta"))
        (False, True)
    """
    # In this order: Dynamo answers the first and leaves the rest, and the attributes of a proxy are proxies.
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or isinstance(tensor, (torch.fx.Proxy, FakeTensor))
        or tensor.is_meta
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )
