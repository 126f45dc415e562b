"""Keys and values as tensor descriptors, by which hardware from Hopper on finds their tiles."""

from __future__ import annotations

from torch import Tensor

from saccade.backends.triton.arguments import Values
from saccade.runtime.triton import tensor_descriptor

__all__ = ["describable", "described"]

_NAMES = ("key", "value")
_LEAST_BLOCK = 16


def describable(values: Values) -> bool:
    """Tell whether aligned keys and values can be described: they repeat themselves along no axis."""
    return all(
        step or size == 1
        for name in _NAMES
        for step, size in zip(_strides(values, name), _tensor(values, name).shape, strict=False)
    )


def described(values: Values, keys: int) -> Values:
    """Return the descriptors that take the place of key and value.

    Args:
        values: The arguments that hold the tensors.
        keys: Keys of a tile.
    """
    found: Values = {}
    for name in _NAMES:
        tensor = _tensor(values, name)
        width = max(_LEAST_BLOCK, 1 << (tensor.shape[3] - 1).bit_length())
        strides = (*_strides(values, name), 1)
        found[name] = tensor_descriptor(tensor, tensor.shape, strides, (1, 1, keys, width))
    return found


def _tensor(values: Values, name: str) -> Tensor:
    tensor = values[name]
    assert isinstance(tensor, Tensor), "descriptors are made of tensors"
    return tensor


def _strides(values: Values, name: str) -> tuple[int, ...]:
    return tuple(int(values[f"{name}_{axis}"]) for axis in ("b", "h", "k"))  # type: ignore[call-overload]
