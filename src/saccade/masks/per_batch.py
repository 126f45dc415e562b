"""A parameter that is one integer for all, or a tensor with one for each batch entry.

Owns how such a parameter is checked and read. A tensor is read when the mask is used, not when it is made.
"""

from __future__ import annotations

from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.mod_value import is_integral, require_at_least

__all__ = ["at_batch", "require_per_batch"]


def require_per_batch(value: int | Tensor, what: str, minimum: int | None = None) -> None:
    """Check an int, or an integer tensor `[]` or `[B]`; `what` names it, `minimum` bounds an int."""
    if not isinstance(value, Tensor):
        require_at_least(minimum, value, what)
        return
    if not is_integral(value):
        raise DTypeError(
            f"{what} must be of an integer dtype, got dtype={value.dtype}; convert it with .long()"
        )
    if value.dim() > 1:
        raise ShapeError(
            f"{what} must be a number for all or a tensor [B], got shape={list(value.shape)}; flatten it"
        )


def at_batch(value: int | Tensor, b: Tensor) -> int | Tensor:
    """The parameter's value for batch entry `b`."""
    return value[b] if isinstance(value, Tensor) and value.dim() == 1 else value
