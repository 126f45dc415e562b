"""Masks as values, and the logic that combines them.

Owns `Mask`, the class of every mask of the library, and the combinators behind its operators. A combined mask
holds its parts as they were given, so plain functions take part. Invariant: a combination of masks asks every
part about every pair; whether a hidden part's fault matters is decided by whoever evaluates it.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar, final

import torch

from saccade.mod_value import ModValue, require_mod
from saccade.signatures import MaskMod

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Mask", "and_masks", "not_mask", "or_masks", "xor_masks"]


class Mask(ModValue):
    """A mask_mod that is a value: compares, hashes, pickles, prints as its call and combines by operators.

    `&`, `|`, `^` and `~` take another mask or a plain function, on either side.

    Example:
        >>> from saccade.masks import causal, local
        >>> causal & local(left=2, right=2)
        causal & local(left=2, right=2)
        >>> def even_keys(b, h, q_idx, kv_idx):
        ...     return kv_idx % 2 == 0
        >>> ~causal | even_keys
        ~causal | even_keys
    """

    symbol: ClassVar[str] = ""
    """The operator that makes this mask of its `parts`: `&`, `|`, `^` or `~`; empty where there are none."""

    @property
    def parts(self) -> tuple[MaskMod, ...]:
        """The masks that an operator made this one of, as they were given; none for any other mask."""
        return ()

    @abc.abstractmethod
    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """Return True where the query at `q_idx` may see the key at `kv_idx`.

        Args:
            b: Integer tensor: the batch. All four broadcast against each other.
            h: Integer tensor: the query head.
            q_idx: Integer tensor: the query's position.
            kv_idx: Integer tensor: the key's position.

        Returns:
            bool tensor, broadcastable to the shape the indices have together.
        """

    def __and__(self, other: MaskMod) -> Mask:
        return and_masks(self, other)

    def __rand__(self, other: MaskMod) -> Mask:
        return and_masks(other, self)

    def __or__(self, other: MaskMod) -> Mask:
        return or_masks(self, other)

    def __ror__(self, other: MaskMod) -> Mask:
        return or_masks(other, self)

    def __xor__(self, other: MaskMod) -> Mask:
        return xor_masks(self, other)

    def __rxor__(self, other: MaskMod) -> Mask:
        return xor_masks(other, self)

    def __invert__(self) -> Mask:
        return not_mask(self)


class _Combination(Mask):
    """Any number of masks under one associative operator."""

    function: ClassVar[str]
    mods: tuple[MaskMod, ...]

    @property
    def parts(self) -> tuple[MaskMod, ...]:
        return self.mods

    def __repr__(self) -> str:
        if len(self.mods) < 2:
            return f"{self.function}({', '.join(map(_name, self.mods))})"
        return f" {self.symbol} ".join(map(_operand, self.mods))


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Intersection(_Combination):
    symbol = "&"
    function = "and_masks"
    mods: tuple[MaskMod, ...]

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = q_idx.new_ones((), dtype=torch.bool)
        for mod in self.mods:
            visible = visible & mod(b, h, q_idx, kv_idx)
        return visible


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Union(_Combination):
    symbol = "|"
    function = "or_masks"
    mods: tuple[MaskMod, ...]

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = q_idx.new_zeros((), dtype=torch.bool)
        for mod in self.mods:
            visible = visible | mod(b, h, q_idx, kv_idx)
        return visible


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Parity(_Combination):
    symbol = "^"
    function = "xor_masks"
    mods: tuple[MaskMod, ...]

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = q_idx.new_zeros((), dtype=torch.bool)
        for mod in self.mods:
            visible = visible ^ mod(b, h, q_idx, kv_idx)
        return visible


@final
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Complement(Mask):
    symbol = "~"
    mod: MaskMod

    @property
    def parts(self) -> tuple[MaskMod, ...]:
        return (self.mod,)

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        # Not ~: a mod may return Python's True, and ~True is -2.
        return q_idx.new_ones((), dtype=torch.bool) ^ self.mod(b, h, q_idx, kv_idx)

    def __repr__(self) -> str:
        return f"~{_operand(self.mod)}"


def and_masks(*mask_mods: MaskMod) -> Mask:
    """Intersect masks: a pair is visible when every one of them shows it.

    The same as `mask & other`, for any number of masks, plain functions among them. `and_masks()` shows
    every pair, as in torch.

    Args:
        *mask_mods: The masks: library masks or functions of `(b, h, q_idx, kv_idx)`.

    Returns:
        A mask. It keeps at most the keys that any of its parts keeps.

    Raises:
        ModError: A part is not callable, or a factory passed uncalled.

    Example:
        >>> from saccade.masks import causal, local
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> and_masks(causal, local(left=1, right=1))(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    for mod in mask_mods:
        require_mod(mod, "and_masks()")
    return _Intersection(_flat(mask_mods, _Intersection))


def or_masks(*mask_mods: MaskMod) -> Mask:
    """Unite masks: a pair is visible when at least one of them shows it.

    The same as `mask | other`, for any number of masks, plain functions among them. `or_masks()` shows no
    pair, as in torch.

    Args:
        *mask_mods: The masks: library masks or functions of `(b, h, q_idx, kv_idx)`.

    Returns:
        A mask. It keeps at least the keys that any of its parts keeps.

    Raises:
        ModError: A part is not callable, or a factory passed uncalled.

    Example:
        >>> from saccade.masks import causal
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> or_masks(causal, lambda b, h, q_idx, kv_idx: kv_idx < 2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    for mod in mask_mods:
        require_mod(mod, "or_masks()")
    return _Union(_flat(mask_mods, _Union))


def xor_masks(*mask_mods: MaskMod) -> Mask:
    """Take the parity of masks: a pair is visible when an odd number of them shows it.

    Of two masks, that is exactly one. The same as `mask ^ other`; `xor_masks()` shows no pair.

    Args:
        *mask_mods: The masks: library masks or functions of `(b, h, q_idx, kv_idx)`.

    Returns:
        A mask.

    Raises:
        ModError: A part is not callable, or a factory passed uncalled.

    Example:
        >>> from saccade.masks import causal, local
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> xor_masks(causal, local(left=0, right=1))(0, 0, q_idx, kv_idx).int()
        tensor([[0, 1, 0, 0],
                [1, 0, 1, 0],
                [1, 1, 0, 1],
                [1, 1, 1, 0]], dtype=torch.int32)
    """
    for mod in mask_mods:
        require_mod(mod, "xor_masks()")
    return _Parity(_flat(mask_mods, _Parity))


def not_mask(mask_mod: MaskMod) -> Mask:
    """Invert a mask: a pair is visible when the mask hides it. The same as `~mask`.

    Args:
        mask_mod: The mask: a library mask or a function of `(b, h, q_idx, kv_idx)`.

    Returns:
        A mask. Inverting a causal mask gives one that looks ahead only.

    Raises:
        ModError: `mask_mod` is not callable, or a factory passed uncalled.

    Example:
        >>> from saccade.masks import causal
        >>> q_idx, kv_idx = torch.arange(3)[:, None], torch.arange(3)
        >>> not_mask(causal)(0, 0, q_idx, kv_idx).int()
        tensor([[0, 1, 1],
                [0, 0, 1],
                [0, 0, 0]], dtype=torch.int32)
    """
    require_mod(mask_mod, "not_mask()")
    return _Complement(mask_mod)


def _flat(mods: tuple[MaskMod, ...], kind: type[_Combination]) -> tuple[MaskMod, ...]:
    """Dissolve the parts that are combinations under the same operator: a & (b & c) is and_masks(a, b, c)."""
    return tuple(part for mod in mods for part in (mod.mods if isinstance(mod, kind) else (mod,)))


def _operand(mod: MaskMod) -> str:
    """How a part prints inside an operator: in brackets where its own operator might bind less."""
    return f"({mod!r})" if isinstance(mod, _Combination) and len(mod.mods) > 1 else _name(mod)


def _name(mod: MaskMod) -> str:
    return repr(mod) if isinstance(mod, Mask) else getattr(mod, "__name__", repr(mod))
