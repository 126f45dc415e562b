"""Filling the argument block: what the problem fixes once, what operands bring at each call.

Owns the reading of tensors as addresses and strides. Where things stand is `codegen.cpu.arguments`' to say.
Invariant: whatever an address points to is held by the caller until the kernel has returned.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.backends.storage import in_memory
from saccade.codegen.cpu.arguments import ArgumentLayout, CaptureSlots
from saccade.codegen.program.which import Which
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.program import Array
from saccade.problem import AttentionProblem, ModFacts
from saccade.runtime.team import alone_in_child

__all__ = ["Block", "Capture", "Corners", "fill_rows", "fill_tensor", "template"]

Block: TypeAlias = "array[int]"
"""The argument block: int64 slots."""

Index: TypeAlias = tuple[int, int, int, int]

_BATCH, _Q_HEADS, _KV_HEADS, _GROUP = map(ArgumentLayout.slot, ("batch", "q_heads", "kv_heads", "group"))
_Q_LEN, _KV_LEN, _SCALE = map(ArgumentLayout.slot, ("q_len", "kv_len", "scale"))
_KEEP_THRESHOLD, _KEEP_FACTOR = map(ArgumentLayout.slot, ("keep_threshold", "keep_factor"))
_NAMES = {"query": "query", "key": "key", "value": "value", "out": "out", "grad_out": "the output's gradient"}
_OPERANDS = {ArgumentLayout.slot(slot): name for slot, name in _NAMES.items()}
_DOUBLE, _INT64 = struct.Struct("d"), struct.Struct("q")


def template(problem: AttentionProblem, mods: Mapping[Which, ModFacts], layout: ArgumentLayout) -> Block:
    """Return an argument block with all that the problem fixes: sizes, scale, dropout and programs' numbers.

    Args:
        problem: The problem.
        mods: The facts of the kernel's programs.
        layout: Where its arguments stand.
    """
    block = array("q", bytes(8 * layout.size))
    block[_BATCH], block[_Q_HEADS], block[_KV_HEADS] = problem.batch, problem.q_heads, problem.kv_heads
    block[_GROUP], block[_Q_LEN], block[_KV_LEN] = problem.group_size, problem.q_len, problem.kv_len
    block[_SCALE] = _bits(problem.scale)
    if problem.dropout_p > 0.0:
        rate = keep_rate(problem.dropout_p)
        block[_KEEP_THRESHOLD] = drop_threshold(problem.dropout_p)
        block[_KEEP_FACTOR] = _bits(1.0 / rate if rate else 0.0)
    for which, facts in mods.items():
        for slots, shape in zip(layout.captures[which], facts.capture_shapes, strict=True):
            for slot, size in zip(slots.sizes, shape, strict=True):
                block[slot] = size
        types = facts.structure.numbers
        for slot, number, dtype in zip(layout.numbers[which], facts.numbers, types, strict=True):
            block[slot] = int(number) if dtype is DType.INT64 else _bits(float(number))
    return block


class Corners(NamedTuple):
    """The indices of the last elements of a problem's tensors."""

    query: Index
    key: Index
    value: Index
    out: Index

    @classmethod
    def of(cls, problem: AttentionProblem) -> Corners:
        """Return those of a problem that has queries and keys."""
        queries = problem.batch - 1, problem.q_heads - 1, problem.q_len - 1
        keys = problem.kv_batch - 1, problem.kv_heads - 1, problem.kv_len - 1
        head_dim, value_dim = problem.head_dim - 1, problem.value_dim - 1
        return cls((*queries, head_dim), (*keys, head_dim), (*keys, value_dim), (*queries, value_dim))


def fill_tensor(block: Block, slot: int, tensor: Tensor, corner: Index) -> Tensor:
    """Write a tensor's address, and its strides but the last in bytes, to consecutive slots.

    Args:
        block: The argument block.
        slot: The first of the slots.
        tensor: The tensor.
        corner: The indices of its last element.

    Returns:
        What was written of: the tensor, or a copy whose rows are consecutive elements of memory.

    Raises:
        OperandError: The tensor's storage ends before its last element.
    """
    first, second, third, last = tensor.stride()
    b, h, n, d = corner
    # As `in_memory` does, without a loop: this is asked of every tensor of every call.
    reach = tensor.storage_offset() + b * first + h * second + n * third + d * last + 1
    size, address = tensor.itemsize, tensor.data_ptr()
    is_whole = address and reach * size <= tensor.untyped_storage().nbytes()
    if not is_whole or (last != 1 and d) or tensor.is_neg():
        tensor = in_memory(tensor, _OPERANDS[slot])
        with alone_in_child():
            tensor = tensor.detach().resolve_neg().contiguous()
        first, second, third, _ = tensor.stride()
        address = tensor.data_ptr()
    block[slot] = address
    block[slot + 1] = first * size
    block[slot + 2] = second * size
    block[slot + 3] = third * size
    return tensor


def fill_rows(block: Block, slot: int, tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Write the address of a tensor that kernels read as a dense one of a dtype.

    Args:
        block: The argument block.
        slot: The slot.
        tensor: The tensor.
        dtype: The dtype.
        name: What to call the tensor in a message.

    Returns:
        What was written of: the tensor, or a copy.

    Raises:
        OperandError: The tensor's storage ends before its last element.
    """
    with alone_in_child():
        dense = in_memory(tensor, name).detach().to(dtype).resolve_neg().contiguous()
    block[slot] = dense.data_ptr()
    return dense


@final
class Capture:
    """A captured array as a kernel reads it.

    Attributes:
        address: Of its first element.
        strides: In bytes, by dimension.
        is_dense: Whether the elements of its last dimension are neighbours; True for one without dimensions.
    """

    __slots__ = ("_held", "address", "is_dense", "strides")

    def __init__(self, given: Array) -> None:
        self.address: int
        self.strides: tuple[int, ...]
        if isinstance(given, Tensor):
            tensor = in_memory(given.detach(), "a tensor that a mod reads")
            if tensor.device.type != "cpu" or tensor.is_neg():
                with alone_in_child():
                    tensor = tensor.cpu().resolve_neg()
            size = tensor.element_size()
            self.address, self.strides = tensor.data_ptr(), tuple(size * step for step in tensor.stride())
            self._held: object = tensor
        else:
            host: npt.NDArray[Any] = np.asarray(given)
            if not (host.flags.aligned and host.dtype.isnative):
                host = host.astype(host.dtype.newbyteorder("="))
            size = host.itemsize
            self.address, self.strides = host.ctypes.data, host.strides
            self._held = host
        self.is_dense = not self.strides or self.strides[-1] == size

    def fill(self, block: Block, slots: CaptureSlots) -> None:
        """Write the address and strides."""
        block[slots.pointer] = self.address
        for slot, step in zip(slots.strides, self.strides, strict=True):
            block[slot] = step


def _bits(value: float) -> int:
    """The bits of a double as an int64."""
    bits: int = _INT64.unpack(_DOUBLE.pack(value))[0]
    return bits
