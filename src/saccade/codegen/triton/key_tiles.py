"""How a tile of K or V reaches registers: the one place that knows where keys are.

Through pointers, a tile is a scalar base of 64 bits and offsets of 32 that no turn of a loop changes; rows at
`stop` and beyond, and columns of padding, are 0. Through a descriptor of `[B, Hkv, K, D]` that the host
makes, Hopper's copy engine moves the tile; rows beyond the last key and columns of padding are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.triton.module import padded
from saccade.codegen.triton.parameters import TRITON_TYPES, Parameter, tensor_parameters
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines

__all__ = ["KEYS", "VALUES", "KeyTiles"]


@final
@dataclass(frozen=True)
class KeyTiles:
    """The tiles of K or V.

    Attributes:
        tensor: "key" or "value".
        size: The constant that says how many columns there are.
        block: The constant that says how many a tile has.
        axis: The lines' name for its columns.
    """

    tensor: str
    size: str
    block: str
    axis: str

    def parameters(self, spec: TritonSpec) -> tuple[Parameter, ...]:
        """Return the tensor's parameters."""
        if not spec.descriptors:
            return tensor_parameters(spec, self.tensor, "k")
        element, columns = TRITON_TYPES[spec.key.dtype], padded(self._size(spec))
        return (Parameter(self.tensor, f"tensordesc<{element}[1, 1, {spec.tile.keys}, {columns}]>"),)

    def before(self, spec: TritonSpec, *, transposed: bool) -> Lines:
        """Return lines to stand before the loop over keys.

        Args:
            spec: The kernel.
            transposed: Whether tiles are `[BLOCK_D, BLOCK_N]`, as `load` gives them.
        """
        if spec.descriptors:
            return ()
        name, row, column = self.tensor, "[:, None]", "[None, :]"
        if transposed:
            row, column = column, row
        offsets = f"tl.arange(0, BLOCK_N){row} * {name}_k.to(tl.int32) + {self.axis}{column}"
        return (
            f"{name}_head = {name} + kv_b * {name}_b + kv_head * {name}_h",
            f"{name}_offsets = {offsets}",
        )

    def load(self, spec: TritonSpec, *, transposed: bool, bounded: bool) -> str:
        """Return the tile of the keys from `start_n` on.

        Args:
            spec: The kernel.
            transposed: Whether it is `[BLOCK_D, BLOCK_N]`.
            bounded: Whether rows at `stop` and beyond may not be there.
        """
        name = self.tensor
        if spec.descriptors:
            tile = f"{name}.load([kv_b, kv_head, start_n, 0]).reshape([BLOCK_N, {self.block}])"
            return f"tl.trans({tile})" if transposed else tile
        column = "[:, None]" if transposed else "[None, :]"
        inside = "inside" if transposed else "(start_n + tl.arange(0, BLOCK_N) < stop)[:, None]"
        limits = [inside] if bounded else []
        size = self._size(spec)
        if size != padded(size):
            limits.append(f"({self.axis} < {self.size}){column}")
        guard = f", mask={' & '.join(limits)}, other=0.0" if limits else ""
        return f"tl.load({name}_head + start_n * {name}_k + {name}_offsets{guard})"

    def _size(self, spec: TritonSpec) -> int:
        return spec.key.head_dim if self.tensor == "key" else spec.key.value_dim


KEYS = KeyTiles("key", "HEAD_DIM", "BLOCK_D", "dims")
VALUES = KeyTiles("value", "VALUE_DIM", "BLOCK_V", "value_dims")
