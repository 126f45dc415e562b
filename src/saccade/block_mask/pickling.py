"""Masks in a pickle: the program travels as text, its captures as they are, the mask_mod by reference.

A lambda or a closure has no reference. Its mask travels all the same, since the program says everything: on
the other side `mask_mod` is that program, which every part of Saccade takes for a mod (torch does not, so
`to_torch` refuses there).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from saccade.block_mask.watching import watch
from saccade.ir.program import Array, Program
from saccade.ir.text import format_structure, parse_structure
from saccade.signatures import MaskMod

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

_APART = ("program", "mask_mod", "watched")


def reduced(mask: BlockMask) -> tuple[Callable[..., object], tuple[object, ...]]:
    """Return what `__reduce__` does."""
    program, mod = mask.program, mask.mask_mod
    plain = {one.name: getattr(mask, one.name) for one in fields(mask) if one.init and one.name not in _APART}
    text = format_structure(program.structure)
    kept = mod if not isinstance(mod, Program) and _has_reference(mod) else None
    return restored, (type(mask), plain, text, program.captures, program.numbers, program.names, kept)


def restored(
    cls: type[BlockMask],
    plain: Mapping[str, Any],
    text: str,
    captures: tuple[Array, ...],
    numbers: tuple[int | float, ...],
    names: tuple[str, ...],
    mod: MaskMod | None,
) -> BlockMask:
    """Make the mask again, watching the tensors that came with it."""
    program = Program(parse_structure(text), captures, numbers, names)
    known = program if mod is None else mod
    return cls(**plain, program=program, mask_mod=known, watched=watch(program, known))


def _has_reference(mod: MaskMod) -> bool:
    """Whether a mod can be pickled; found by doing so, into nothing."""
    try:
        pickle.Pickler(_Nowhere()).dump(mod)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: bytes, /) -> int:
        return len(data)
