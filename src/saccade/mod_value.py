"""What every mod of the library is: a small frozen value that can be called.

Owns what masks and scores share: how such a value prints, compares and hashes, the test that something given
as a mod is one, the reading of a table whose axes broadcast or were expanded, and which entries of an
additive mask hide. It knows no mask and no score. Invariant: equal values have equal hashes, whatever
tensors they hold and however those change.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, ClassVar

import torch

from saccade.errors import ArgumentError, ArgumentTypeError, ModError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ModValue",
    "as_stored",
    "hides",
    "is_integral",
    "read_table",
    "require_at_least",
    "require_mod",
    "require_tensor",
]

_SHOWN = 8  # numbers of a sequence that a repr shows


class ModValue:
    """A mod as a value: subclasses are frozen dataclasses with a `__call__` in plain index arithmetic.

    Two values are equal when their types and fields are, tensors by dtype, device and content. A value prints
    as the call that makes it; tensors print as `dtype[shape]`, so that printing never reads them.

    A subclass is declared with `@dataclass(frozen=True, eq=False, repr=False)`: both are given here.
    """

    usage: ClassVar[str]
    """A call that makes such a value, for the error that follows when the class itself is passed as a mod."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(mine, yours) for mine, yours in zip(self._content(), other._content(), strict=True))

    def __hash__(self) -> int:
        return hash((type(self), *map(_hashable, self._content())))

    def __repr__(self) -> str:
        name = type(self).__name__
        fields = [field for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]
        if len(fields) == 1:
            return f"{name}({_shown(getattr(self, fields[0].name))})"
        required = [field.name for field in fields if field.default is dataclasses.MISSING]
        given = ((field.name, getattr(self, field.name), field.default) for field in fields)
        # The one argument that every call gives needs no name, and mods never have one.
        shown = (
            _shown(value) if callable(value) or required == [name] else f"{name}={_shown(value)}"
            for name, value, default in given
            if not _same(value, default)
        )
        return f"{name}({', '.join(shown)})"

    def __bool__(self) -> bool:
        # Before torch 2.13 its compiler asks, of whatever compiled code calls, whether it is there.
        if sys._getframe(1).f_globals.get("__name__", "").startswith("torch._dynamo."):
            return True
        raise ArgumentTypeError(
            f"a mod has no truth value, got bool({self!r}); combine masks with & | ~ where you wrote and, or "
            "or not, and test for absence with `is None`"
        )

    def _content(self) -> list[object]:
        """The fields that make the value, in order."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return [getattr(self, field.name) for field in fields if field.compare]


def require_mod(mod: object, receiver: str) -> None:
    """Check that something given as a mod can be called as one.

    Args:
        mod: What was given.
        receiver: Who was given it, as the message names it: "and_masks()".

    Raises:
        ModError: `mod` is a factory passed uncalled (any class is one), or not callable.

    Example:
        >>> require_mod(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, "and_masks()")
        >>> require_mod(3, "and_masks()")
        Traceback (most recent call last):
        saccade.errors.ModError: and_masks() expects mods, functions of index values such as
        `lambda b, h, q_idx, kv_idx: q_idx >= kv_idx`; got the int 3
    """
    if isinstance(mod, type):
        usage = getattr(mod, "usage", f"{mod.__name__}(...)")
        raise ModError(f"{receiver}: {mod.__name__} is a factory, not yet a mod; call it first: {usage}")
    if isinstance(mod, torch.Tensor):
        raise ModError(
            f"{receiver} expects mods, functions of index values; got the tensor {_shown(mod)}; "
            "a bool table is the mask dense(table), an additive one the score bias(table)"
        )
    if type(mod).__name__ == "BlockMask":  # torch's or Saccade's, neither of which is known here
        raise ModError(
            f"{receiver} expects mods, functions of index values; got a BlockMask: pass it as block_mask=, "
            "or the function that it was made of, its mask_mod"
        )
    if not callable(mod):
        raise ModError(
            f"{receiver} expects mods, functions of index values such as "
            f"`lambda b, h, q_idx, kv_idx: q_idx >= kv_idx`; got the {type(mod).__name__} {mod!r}"
        )


def require_at_least(minimum: int | None, value: object, what: str) -> None:
    """Check that a parameter is an integer and not too small; `what` names it: "sliding_window(): window"."""
    # bool is an int to Python, and True for a width is a slip.
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise ArgumentTypeError(f"{what} must be an integer, got {type(value).__name__} {value!r}")
    if minimum is not None and value < minimum:
        raise ArgumentError(f"{what} must be at least {minimum}, got {value}")


def require_tensor(value: object, what: str) -> None:
    """Check that a parameter is a tensor; `what` names it: "bias(): table"."""
    if isinstance(value, torch.Tensor):
        return
    remedy = "make one of it with tensor(...)"
    if callable(value):
        remedy = (
            "a function of indices is a mod: pass it as mask_mod= or score_mod=, which flex_attention takes"
        )
    raise ArgumentTypeError(f"{what} must be a torch tensor, got {type(value).__name__}; {remedy}")


def is_integral(tensor: Tensor) -> bool:
    """Whether a tensor holds integers; bool does not count."""
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool)


def as_stored(table: Tensor) -> Tensor:
    """Return a view of a table in which an axis that was expanded has size 1: the one entry that it holds.

    So what is made of the table is no larger than its memory. One that requires a gradient stays as it is:
    whoever asks for the gradient of an expanded tensor wants one for each entry.

    Example:
        >>> as_stored(torch.zeros(1, 5).expand(3, 2, 4, 5)).shape
        torch.Size([1, 1, 1, 5])
    """
    if table.requires_grad or 0 not in table.stride():
        return table
    for axis, (size, stride) in enumerate(zip(table.shape, table.stride(), strict=True)):
        if stride == 0 and size > 1:
            table = table.narrow(axis, 0, 1)
    return table


def read_table(table: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Read the pair's entry of a table `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`; axes of size 1 broadcast.

    An expanded table is read as it is stored.

    Example:
        >>> q_idx, kv_idx = torch.arange(2)[:, None], torch.arange(3)
        >>> read_table(torch.tensor([[1, 2, 3]]), 0, 0, q_idx, kv_idx)
        tensor([1, 2, 3])
    """
    # An axis of size 1 is left out rather than indexed with 0: under vmap, torch indexes with tensors only.
    table = as_stored(table)
    indices = (b, h, q_idx, kv_idx)[4 - table.dim() :]
    read = tuple(index for size, index in zip(table.shape, indices, strict=True) if size != 1)
    if len(read) < table.dim():
        table = table.squeeze()
    return table[read] if read else table


def _same(mine: object, yours: object) -> bool:
    if mine is yours:
        return True
    if isinstance(mine, torch.Tensor) and isinstance(yours, torch.Tensor):
        return mine.dtype == yours.dtype and mine.device == yours.device and torch.equal(mine, yours)
    if isinstance(mine, torch.Tensor) or isinstance(yours, torch.Tensor):
        return False
    return mine == yours


def _hashable(value: object) -> object:
    # Not the content: it may change while the value is a key.
    return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else value


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple) and len(value) > _SHOWN:
        return f"[{', '.join(map(repr, value[:_SHOWN]))}, ... {len(value)} in all]"
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
    if callable(value) and not isinstance(value, ModValue):
        return getattr(value, "__name__", repr(value))
    return repr(value)


def hides(entries: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell where the entries of an additive mask hide their pairs.

    Args:
        entries: Entries of the mask, of any shape.
        dtype: The mask's floating dtype; half of its lowest number is the limit.

    Returns:
        bool, of the entries' shape. False for NaN.

    Example:
        >>> hides(torch.tensor([0.0, -1e4, -1e9, -torch.inf, torch.nan]), torch.float16)
        tensor([False, False,  True,  True, False])
    """
    return entries <= torch.finfo(dtype).min / 2
