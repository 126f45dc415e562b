"""A parameter that is a row of integers: ints in a list, or a tensor with one axis.

Owns how such a parameter is checked and made one tensor. It is read once, when the mask is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.mod_value import is_integral

__all__ = ["integer_vector", "kept", "lengths_of_starts", "owner_of_each", "require_lengths"]


def kept(numbers: object, what: str) -> tuple[int, ...] | Tensor:
    """The parameter as a mask holds it: a tensor as given; a list as a tuple, which hashes and stays."""
    if isinstance(numbers, Tensor):
        return numbers
    if isinstance(numbers, Iterable) and not isinstance(numbers, str):
        row: tuple[Any, ...] = tuple(numbers)
        if all(isinstance(number, Real) for number in row):
            return row
    raise ArgumentTypeError(
        f"{what} must be a list of ints or an integer tensor, got {type(numbers).__name__} {numbers!r}; "
        "write one number as a list of one"
    )


def integer_vector(numbers: Sequence[int] | Tensor, what: str) -> Tensor:
    """[N] int64; `what` names the parameter: "document(): lengths"."""
    # The device is named because torch.set_default_device may have made another one the default.
    vector = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers or (), device="cpu")
    if vector.numel() and not is_integral(vector):
        raise DTypeError(
            f"{what} must be of an integer dtype, got dtype={vector.dtype}; convert it with .long()"
        )
    if vector.dim() != 1:
        raise ShapeError(f"{what} must have one axis, got shape={list(vector.shape)}; flatten it")
    return vector.long()


def require_lengths(lengths: Tensor, function: str, name: str) -> None:
    """Check that no length is negative; `function` and `name` say whose they are."""
    if lengths.numel() and int(lengths.min()) < 0:
        raise ArgumentError(f"{function}: {name} must be 0 or more, got {name}={lengths.tolist()}")


def lengths_of_starts(starts: Tensor, function: str, name: str) -> Tensor:
    """[N] int64: the lengths between `starts` [N + 1], which begin at 0 and never fall."""
    lengths = starts.diff()
    if starts.numel() == 0 or int(starts[0]) != 0 or (lengths.numel() and int(lengths.min()) < 0):
        raise ArgumentError(
            f"{function}: {name} must start at 0 and never fall, [0, end of the first, ...], "
            f"got {name}={starts.tolist()}; for the lengths themselves put 0 before their cumulative sum"
        )
    return lengths


def owner_of_each(lengths: Tensor) -> Tensor:
    """[lengths.sum()] int64: 0 as often as the first length says, then 1, and so on."""
    return torch.repeat_interleave(torch.arange(lengths.numel(), device=lengths.device), lengths)
