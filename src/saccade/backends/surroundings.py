"""What torch does around a call: tangents that travel with its tensors, transforms that take it apart.

Both are states of the thread, and asking after them must cost next to nothing where there are none, as in
almost every call.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["carries_tangent", "follower"]

_functorch = torch._C._functorch


def carries_tangent(tensors: Iterable[object]) -> bool:
    """Tell whether a forward-mode derivative may travel with one of some tensors.

    Inside torch.func the tangent of an outer transform hides behind the wrappers of an inner one; there, any
    tensor may have one.

    Args:
        tensors: What is looked at; other objects have none.

    Example:
        >>> query = torch.ones(3)
        >>> with forward_ad.dual_level():
        ...     carries_tangent([query]), carries_tangent([forward_ad.make_dual(query, query)])
        (False, True)
    """
    if forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled():
        return False
    if _functorch.peek_interpreter_stack() is not None:
        return True
    return any(isinstance(tensor, Tensor) and _tangent(tensor) is not None for tensor in tensors)


def _tangent(tensor: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent


def follower() -> str:
    """Return who takes every call apart into torch's own operations here and now; "" for nobody.

    Example:
        >>> follower()
        ''
    """
    if torch._C._is_tracing():
        return "torch.jit.trace"
    if _functorch.peek_interpreter_stack() is not None and any(
        one.key() == _functorch.TransformType.Vmap for one in _functorch.get_interpreter_stack() or ()
    ):
        return "torch.func.vmap"
    return ""
