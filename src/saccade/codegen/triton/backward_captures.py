"""Gradients of captured tensors in the backward kernels: what each turn adds, and what leaves the kernel.

A contribution is summed along the walked axis, and over the tile where its index reads neither axis; what is
kept leaves once, as a value and a flat index into the dense gradient, for the host to add up. Contributions
of STORED and ADDED write to the gradient itself. Each is computed in the one kernel that its way names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.poison import note
from saccade.codegen.triton.program.text import ContributionText, ProgramText
from saccade.codegen.triton.source import CapturedSum
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines

__all__ = ["CaptureSums"]


@final
@dataclass(frozen=True)
class _Sum:
    """One contribution in this kernel; `name` begins all its names."""

    name: str
    way: CaptureWay
    text: ContributionText

    @property
    def flat(self) -> str:
        """The element's place in the dense gradient, of 64 bits."""
        if not self.text.indices:
            return "tl.full([], 0, tl.int64)"
        first, *others = self.text.indices
        place = f"tl.cast({first}, tl.int64)"
        for dim, index in enumerate(others, 1):
            place = f"({place}) * score_c{self.text.slot}_n{dim} + {index}"
        return place

    def value(self, visible: str | None) -> str:
        """What pairs add, [rows, columns] of the tile, 0 where nothing is added."""
        value = self.text.value if self.text.type == "tl.float32" else f"{self.text.value}.to(tl.float32)"
        if visible is not None:
            value = f"tl.where({visible}, {value}, 0.0)"
        return value


@final
class CaptureSums:
    """The contributions that one kernel adds up.

    Args:
        spec: The kernel.
        gradient: Its derivative of the score program, with all contributions; None where there are none.
        of_keys: Whether the kernel's rows are keys.
    """

    def __init__(self, spec: TritonSpec, gradient: ProgramText | None, *, of_keys: bool) -> None:
        texts = () if gradient is None else gradient.contributions
        assert gradient is None or len(spec.ways) == len(texts), "each contribution has a way"
        self._wide = spec.slots(spec.wide_captures, Which.SCORE)
        self._of_keys = of_keys
        self._block, self._other = ("BLOCK_N", "BLOCK_M") if of_keys else ("BLOCK_M", "BLOCK_N")
        self._sums = [
            _Sum(f"sum{number}", way, text)
            for number, (way, text) in enumerate(zip(spec.ways, texts, strict=False))
            if way.is_of_keys == of_keys
        ]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Where sums are written, and the sizes of captures that flat indices are made with."""
        written, sizes = [], list[Parameter]()
        for each in self._sums:
            written.append(Parameter(f"{each.name}_value", "*fp32", 16))
            if each.way.is_kept:
                written.append(Parameter(f"{each.name}_index", "*i64", 16))
            for dim in range(1, len(each.text.indices)):
                kind = "i64" if each.text.slot in self._wide else "i32"
                sizes.append(Parameter(f"score_c{each.text.slot}_n{dim}", kind))
        return (*written, *sizes)

    @property
    def sums(self) -> tuple[CapturedSum, ...]:
        """How the host finds them."""
        return tuple(
            CapturedSum(
                each.text.slot,
                each.way,
                f"{each.name}_value",
                f"{each.name}_index" if each.way.is_kept else "",
            )
            for each in self._sums
        )

    @property
    def before(self) -> Lines:
        """What is carried along the walk, at its beginning."""
        return tuple(
            f"{each.name} = tl.zeros([{self._block}], tl.float32)" for each in self._sums if each.way.is_kept
        )

    def turn(self, visible: str | None) -> Lines:
        """Return lines that add a turn's contributions.

        Args:
            visible: Which pairs are visible; None where all but rows of padding are.
        """
        lines: list[str] = []
        for each in self._sums:
            lines += self._turn(each, visible)
        return tuple(lines)

    def _turn(self, each: _Sum, visible: str | None) -> Lines:
        noted = self._noted(each.text.poison, visible)
        if each.way.is_kept:
            return (*noted, f"{each.name} += {self._along_walk(each, visible)}")
        added = self._added(each, visible)
        heads = ("    " * depth + head for depth, head in enumerate(each.text.loops))
        indent = "    " * len(each.text.loops)
        return (*heads, *(indent + line for line in (*each.text.lines, *noted, added)))

    def _noted(self, poison: str | None, visible: str | None) -> Lines:
        """Lines that note where a value is poison, as it may be of a gradient that users wrote."""
        if poison is None:
            return ()
        deciding = "live[:, None]" if visible is None else f"{visible} & live[:, None]"
        return note(Which.SCORE_GRADIENT, poison, deciding, of_keys=self._of_keys)

    def _added(self, each: _Sum, visible: str | None) -> str:
        """The line that writes to the gradient; where pairs are summed first, hidden ones add 0."""
        live, valid = "live[:, None]", each.text.valid
        masks: tuple[str | None, ...]
        if each.way in (CaptureWay.STORED, CaptureWay.ADDED):
            value, masks = self._whole(each.value(None)), (live, visible, valid)
        elif each.way is CaptureWay.ADDED_PER_TILE:
            shown = live if visible is None else f"{visible} & {live}"
            value, masks = f"tl.sum({self._whole(each.value(shown))})", (valid,)
        else:
            value, masks = f"({self._along_walk(each, visible)})[:, None]", (live, valid)
        where = " & ".join(mask for mask in masks if mask is not None)
        limit = f", mask={where}" if where else ""
        place = f"{each.name}_value + ({each.flat})"
        if each.way is CaptureWay.STORED:
            return f"tl.store({place}, {value}{limit})"
        return f'tl.atomic_add({place}, {value}{limit}, sem="relaxed")  # in no fixed order'

    def _along_walk(self, each: _Sum, visible: str | None) -> str:
        return f"tl.sum({self._whole(each.value(visible))}, 1)"

    def _whole(self, value: str) -> str:
        """A value of every pair, however few it differs in."""
        return f"tl.broadcast_to({value}, [{self._block}, {self._other}])"

    @property
    def end(self) -> Lines:
        """What is left to do after the walk: values and flat indices of what was carried."""
        return tuple(line for each in self._sums if each.way.is_kept for line in self._left(each))

    def _left(self, each: _Sum) -> Lines:
        if each.way is CaptureWay.PER_TILE:
            total, place, mask = f"tl.sum(tl.where(live, {each.name}, 0.0))", "tile_number", ""
            index = each.flat
        else:
            total, place, mask = f"{each.name}[:, None]", "row_number[:, None]", ", mask=live[:, None]"
            index = f"tl.broadcast_to({each.flat}, [{self._block}, 1])"
        if each.text.valid is not None:
            total = f"tl.where({each.text.valid}, {total}, 0.0)"
        return (
            f"tl.store({each.name}_value + {place}, {total}{mask})",
            f"tl.store({each.name}_index + {place}, {index}{mask})",
        )
