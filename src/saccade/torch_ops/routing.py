"""Which calls go through the operator: those that torch's dispatcher must see.

In plain use the kernel is called directly, which is fastest. Under a compiler, an exporter or a mode that
watches operations, an engine must be one operation, unless all it does is torch operations that need no data.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from saccade.backends.registry import ENTRIES, Visibility

__all__ = ["goes_through_operator", "has_data", "is_observed"]

_VISIBILITY = {entry.name: entry.visibility for entry in ENTRIES}
_MODES = torch._C._TorchDispatchModeKey
_WITHOUT_DATA = (_MODES.FAKE, _MODES.PROXY, _MODES.FUNCTIONAL)
_PLAIN = Tensor.__torch_dispatch__


def has_data(tensor: Tensor) -> bool:
    """Tell whether a tensor is itself, not a stand-in that torch's dispatcher is asked about."""
    return type(tensor).__torch_dispatch__ is _PLAIN and not tensor.is_meta


def is_observed(tensor: Tensor) -> bool:
    """Tell whether what becomes of a tensor is watched here and now, by a mode, a transform or a tracer.

    A tensor that is made meanwhile may be theirs, and mean nothing once they are gone.

    Args:
        tensor: The tensor.

    Example:
        >>> is_observed(torch.empty(3)), is_observed(torch.empty(3, device="meta"))
        (False, True)
    """
    return (
        not has_data(tensor)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
    )


def goes_through_operator(backend: str, tensors: Iterable[Tensor]) -> bool:
    """Tell whether a call must be one operation to torch.

    Args:
        backend: Who computes it.
        tensors: What it is computed from.

    Example:
        >>> query = torch.empty(1, 1, 4, 8)
        >>> goes_through_operator("eager", [query]), goes_through_operator("eager", [query.to("meta")])
        (False, True)
    """
    visibility = _VISIBILITY[backend]
    if visibility is Visibility.TORCH:
        return False
    for tensor in tensors:
        if not has_data(tensor):
            return True
    if visibility is Visibility.DATA:
        return any(torch._C._get_dispatch_mode(mode) is not None for mode in _WITHOUT_DATA)
    return (
        torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack() is not None
    )
