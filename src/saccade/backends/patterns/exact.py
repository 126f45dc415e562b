"""The exact pattern of a problem: a band of positions, within documents or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.backends.mods import masks_of
from saccade.backends.patterns.ranges import LONGEST
from saccade.backends.patterns.terms import HalfPlane, Lookup, Terms, terms_of
from saccade.codegen.program.which import Which
from saccade.problem import AttentionProblem, ModFacts

__all__ = ["Documents", "Pattern", "exact_pattern"]


@final
@dataclass(frozen=True)
class Documents:
    """A captured tensor that tells the document of each position, equal ones next to each other.

    Attributes:
        which: The program that captured it.
        slot: Its place among that program's captures.
    """

    which: Which
    slot: int


@final
@dataclass(frozen=True)
class Pattern:
    """The pairs with ``-left <= kv_idx - q_idx <= right``, both in one document.

    Attributes:
        left: How many keys before its own position a query sees; None for all of them. Negative where it
            does not even see those.
        right: How many keys after it, likewise.
        documents: Tensors that must tell of one document, all of them; () for one document.
    """

    left: int | None = None
    right: int | None = None
    documents: tuple[Documents, ...] = ()

    @property
    def hides_nothing(self) -> bool:
        """Whether every pair is visible."""
        return self.left is None and self.right is None and not self.documents

    def leaves_rows_empty(self, q_len: int, kv_len: int) -> bool:
        """Tell whether some query sees no key, in calls of such lengths, kv_len at least 1."""
        before_all = self.right is not None and self.right < 0
        after_all = self.left is not None and q_len - 1 - self.left > kv_len - 1
        return bool(before_all or after_all)


def exact_pattern(problem: AttentionProblem) -> Pattern | None:
    """Return the pattern that hides exactly what the problem's masks hide; None where none is recognised.

    Args:
        problem: What is asked. Documents are recognised where `ModFacts.contents` tells of the ids.

    Example:
        >>> from dataclasses import replace
        >>> from saccade.ir.dtype import DType
        >>> from saccade.masks import sliding_window
        >>> from saccade.tracing import trace
        >>> program = trace(sliding_window(4))
        >>> plain = AttentionProblem("cuda", DType.BFLOAT16, 1, 1, 4, 4, 64, 64, 32, 32, scale=0.2)
        >>> exact_pattern(replace(plain, mask_mod=ModFacts(program.structure, program.numbers)))
        Pattern(left=3, right=0, documents=())
    """
    if problem.block_mask is not None and not problem.block_mask.analysed:
        return None
    if not problem.has_mask:
        return Pattern()
    half_planes: list[HalfPlane] = []
    documents: list[Documents] = []
    for which, mod in zip((Which.MASK, Which.MASK_MOD), masks_of(problem), strict=True):
        if mod is None:
            continue
        terms = terms_of(mod.structure, mod.numbers) if _are_plain(mod.numbers) else None
        if terms is None or not _is_readable(problem, mod, terms):
            return None
        half_planes += terms.half_planes
        documents += [Documents(which, document.slot) for document in terms.documents]
    q_len, kv_len = problem.q_len, problem.kv_len
    if max(q_len, kv_len) > LONGEST or (documents and q_len != kv_len):
        return None
    return _band(half_planes, q_len, kv_len, tuple(dict.fromkeys(documents)))


def _are_plain(numbers: tuple[int | float, ...]) -> bool:
    """Whether numbers have values; under torch's compiler they may be symbols."""
    return all(type(number) in (int, float, bool) for number in numbers)


def _is_readable(problem: AttentionProblem, mod: ModFacts, terms: Terms) -> bool:
    """Whether all that is read is there, and documents lie together."""
    for lookup in terms.documents + terms.lookups:
        if not _is_in_range(problem, mod, lookup):
            return False
    known = mod.contents
    if (terms.documents or terms.lookups) and not known:
        return False
    return all(known[one.slot].in_runs for one in terms.documents) and all(
        known[one.slot].fits_int32 for one in terms.lookups
    )


def _is_in_range(problem: AttentionProblem, mod: ModFacts, lookup: Lookup) -> bool:
    sizes = {
        "b": problem.batch,
        "h": problem.q_heads,
        "q_idx": problem.q_len,
        "kv_idx": problem.kv_len,
    }
    shape = mod.capture_shapes[lookup.slot]
    return all(size >= sizes[name] for size, name in zip(shape, lookup.indices, strict=True))


def _band(
    half_planes: list[HalfPlane], q_len: int, kv_len: int, documents: tuple[Documents, ...]
) -> Pattern | None:
    """The pairs of all half-planes, where that is a band along the diagonal; None where it is not."""
    low, high = 1 - q_len, kv_len - 1  # of kv_idx - q_idx, over all pairs
    least, most = low, high
    for plane in half_planes:
        if plane.q + plane.kv != 0 or plane.q == 0:
            largest = plane.constant + max(plane.q * (q_len - 1), 0) + max(plane.kv * (kv_len - 1), 0)
            if largest > 0:
                return None
        elif plane.kv > 0:
            most = min(most, -plane.constant // plane.kv)
        else:
            least = max(least, -(plane.constant // plane.kv))
    if least > most:
        return None
    return Pattern(None if least <= low else -least, None if most >= high else most, documents)
