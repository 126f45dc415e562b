"""Whether the elements of a tensor can be read where it says they are.

Kernels are given addresses. Torch checks memory in its own operations; in ours nobody else does.
"""

from __future__ import annotations

from torch import Tensor

from saccade.errors import OperandError

__all__ = ["in_memory"]


def in_memory(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor whose elements can be read at their addresses: itself, or zeros that torch left out.

    Args:
        tensor: The tensor.
        name: What to call it in a message.

    Raises:
        OperandError: Its storage ends before its last element.
    """
    if tensor.data_ptr() == 0 and tensor._is_zerotensor():
        return tensor.clone()
    if tensor.numel() == 0:
        return tensor
    steps = [(size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)]
    needed = (tensor.storage_offset() + sum(steps) + 1) * tensor.itemsize
    held = tensor.untyped_storage().nbytes()
    if needed > held:
        form = f"shape={tuple(tensor.shape)}, strides={tensor.stride()}, offset={tensor.storage_offset()}"
        raise OperandError(
            f"expected the elements of {name} in memory, and its storage has {held} bytes where they need "
            f"{needed} ({form}): it was freed or resized; restore it, or give another tensor."
        )
    return tensor
