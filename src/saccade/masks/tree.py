"""Tree attention: several candidate continuations verified in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.per_batch import at_batch, require_per_batch
from saccade.masks.vector import integer_vector, kept

__all__ = ["tree"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class tree(Mask):
    """Show a node of a tree its ancestors and itself, and every key of the context before the tree.

    Query i is node i. Keys 0 to context - 1 are the context, and key context + j is node j. A query keeps the
    whole context and the nodes on its path from a root: context + depth + 1 keys, where a root has depth 0.
    Parents come before their children, so it never looks ahead in the tree. With it, speculative decoding
    verifies every branch of its candidates at once: SpecInfer (arXiv 2305.09781), Medusa (arXiv 2401.10774).

    Args:
        parents: The parent of each node, ints or an integer tensor `[nodes]`, each less than the node's own
            number; -1 is a root, of which there may be several. Read once, now; of ints the tables are made
            on the CPU.
        context: Keys before the tree, which every node sees: an int, 0 or more, or an integer tensor `[B]`
            (one for each batch entry) or `[]`, which is read when the mask is used. The length of a cache is
            a typical one. Since lengths then differ, keys behind the tree are hidden; behind an int `context`
            there should be none, and they are refused.

    Raises:
        ArgumentError: A parent is less than -1, or not before its child; an int `context` is negative.
        ArgumentTypeError: `context` is neither an integer nor a tensor.
        DTypeError: A tensor is not of an integer dtype.
        ShapeError: `parents` has not one axis, or `context` more than one.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(5)[:, None], torch.arange(6)
        >>> tree(parents=[-1, 0, 0, 1, 2], context=1)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 1, 0, 1, 0, 0],
                [1, 1, 1, 0, 1, 0],
                [1, 1, 0, 1, 0, 1]], dtype=torch.int32)
    """

    parents: Sequence[int] | Tensor
    context: int | Tensor = 0
    usage: ClassVar[str] = "tree(parents=[-1, 0, 0, 1, 2])"
    # Numbered depth first, the nodes below one, itself among them, are those from _enter to _leave - 1.
    _enter: Tensor = field(init=False, repr=False, compare=False)  # [nodes] int64
    _leave: Tensor = field(init=False, repr=False, compare=False)  # [nodes] int64

    def __post_init__(self) -> None:
        require_per_batch(self.context, "tree(): context", minimum=0)
        object.__setattr__(self, "parents", kept(self.parents, "tree(): parents"))
        vector = integer_vector(self.parents, "tree(): parents")
        enter, leave = _intervals(vector.tolist())
        object.__setattr__(self, "_enter", vector.new_tensor(enter))
        object.__setattr__(self, "_leave", vector.new_tensor(leave))

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        context = at_batch(self.context, b)
        node = (kv_idx - context).clamp(min=0)  # a key of the context reads node 0, and is seen anyway
        number = self._enter[q_idx]
        if not isinstance(self.context, Tensor):
            return (kv_idx < context) | self._on_path(node, number)
        last = self._enter.numel() - 1
        return (kv_idx < context) | ((kv_idx - context <= last) & self._on_path(node.clamp(max=last), number))

    def _on_path(self, node: Tensor, number: Tensor) -> Tensor:
        """Whether a node is the one of that depth-first number, or above it."""
        return (self._enter[node] <= number) & (number < self._leave[node])


def _intervals(parents: list[int]) -> tuple[list[int], list[int]]:
    """For each node its depth-first number, and the first number after its descendants."""
    size = [1] * len(parents)
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise ArgumentError(
                "tree(): each of parents must be -1 (a root) or a node before its child, "
                f"got parents[{node}]={parent}; number the nodes from the root down"
            )
    for node in range(len(parents) - 1, -1, -1):
        if parents[node] >= 0:
            size[parents[node]] += size[node]
    enter: list[int] = []
    free = [0] * (len(parents) + 1)  # the next number below each node; the last entry is for the roots
    for node, parent in enumerate(parents):
        enter.append(free[parent])
        free[parent] += size[node]
        free[node] = enter[node] + 1
    return enter, [first + below for first, below in zip(enter, size, strict=True)]
