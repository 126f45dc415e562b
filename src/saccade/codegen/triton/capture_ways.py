"""In which way the backward kernels add up what a score program gives to its captured tensors.

Where an index reads only some of b, h, q_idx and kv_idx, contributions are summed over the others before they
leave a kernel, and the host adds the sums to their elements, in an order of its own that is always the same.
What shares elements from pair to pair is left to atomic additions, whose order nobody fixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import combinations

from saccade.codegen.program.contributions import Contribution, contributions
from saccade.codegen.program.injective import names_apart
from saccade.ir.ops import Op
from saccade.ir.structure import Structure

__all__ = ["CaptureWay", "capture_ways"]


class CaptureWay(Enum):
    """How what one load gives, or one load and each value of its axes, reaches its elements."""

    STORED = "each element once: a pair's value is stored into the gradient"
    PER_QUERY = "a value and a flat index for each (b, h, q_idx)"
    PER_KEY = "a value and a flat index for each (b, h, kv_idx)"
    PER_TILE = "a value and a flat index for each (b, h) and tile of queries"
    ADDED = "an atomic addition to the gradient for each pair"
    ADDED_PER_QUERY = "an atomic addition for each query, value of the axes and tile of keys"
    ADDED_PER_KEY = "an atomic addition for each key, value of the axes and tile of queries"
    ADDED_PER_TILE = "an atomic addition for each value of the axes and tile of pairs"

    __hash__ = object.__hash__  # as in DType: members are singletons

    @property
    def is_deterministic(self) -> bool:
        """Whether sums are the same to the bit from run to run."""
        return self in (*_KEPT, CaptureWay.STORED)

    @property
    def is_kept(self) -> bool:
        """Whether a kernel gives values and flat indices; else it writes to the gradient itself."""
        return self in _KEPT

    @property
    def is_of_keys(self) -> bool:
        """Whether KEY_GRADIENT adds it up; else QUERY_GRADIENT does."""
        return self in (CaptureWay.PER_KEY, CaptureWay.ADDED_PER_KEY)


_KEPT = (CaptureWay.PER_QUERY, CaptureWay.PER_KEY, CaptureWay.PER_TILE)
_WITH_AXES = {
    CaptureWay.PER_QUERY: CaptureWay.ADDED_PER_QUERY,
    CaptureWay.PER_KEY: CaptureWay.ADDED_PER_KEY,
    CaptureWay.PER_TILE: CaptureWay.ADDED_PER_TILE,
}


def capture_ways(
    structure: Structure,
    wanted: tuple[bool, ...],
    numbers: tuple[int | float, ...],
    batch: int,
    heads: int,
) -> tuple[CaptureWay, ...]:
    r"""Return the way of each of a score program's `contributions`, in their order.

    Args:
        structure: A SCORE structure.
        wanted: For each capture, whether its gradient is wanted; () for none.
        numbers: The program's run-time numbers.
        batch: B; pairs of several batches may share an element that pairs of one do not.
        heads: Hq; likewise.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> text = "score(c0: f32[2], c1: f32[1]) -> f32\nscore + c0[q_idx, kv_idx] + c1[h]"
        >>> bias = parse_structure(text)
        >>> [way.name for way in capture_ways(bias, (True, True), (), batch=1, heads=1)]
        ['STORED', 'PER_TILE']
        >>> [way.name for way in capture_ways(bias, (True, True), (), batch=1, heads=2)]
        ['ADDED', 'PER_TILE']
    """
    found = contributions(structure, wanted)
    varying = ["q_idx", "kv_idx", *(["b"] if batch > 1 else []), *(["h"] if heads > 1 else [])]
    ways = []
    for each in found:
        way = _by_reads(each)
        if way is CaptureWay.ADDED:
            others = [other for other in found if other.slot == each.slot]
            if _is_alone(others) and all(names_apart(name, others, numbers) for name in varying):
                way = CaptureWay.STORED
        ways.append(_WITH_AXES.get(way, way) if each.axes else way)
    return tuple(ways)


def _by_reads(each: Contribution) -> CaptureWay:
    """The way that follows from the variables of an index, axes aside."""
    indices = each.element
    if indices.depends_on("score", "grad") or (indices.depends_on("q_idx") and indices.depends_on("kv_idx")):
        return CaptureWay.ADDED
    if indices.depends_on("q_idx"):
        return CaptureWay.PER_QUERY
    return CaptureWay.PER_KEY if indices.depends_on("kv_idx") else CaptureWay.PER_TILE


def _is_alone(found: Sequence[Contribution]) -> bool:
    """Whether no two contributions, at one place, name one element; they have no axes."""
    if any(each.axes for each in found):
        return False
    return all(
        any(
            one.op is other.op is Op.CONST and one.attr != other.attr and min(one.attr, other.attr) >= 0
            for one, other in zip(first.element.args, second.element.args, strict=True)
        )
        for first, second in combinations(found, 2)
    )
