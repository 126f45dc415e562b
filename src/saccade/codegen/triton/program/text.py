"""A program's text, as a kernel's template takes it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.program.contributions import Contribution
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.program.function_table import Calls
from saccade.codegen.triton.program.nodes import Nodes
from saccade.codegen.triton.program.place import Place, Shape
from saccade.codegen.triton.program.reads import Reads
from saccade.codegen.triton.program.terms import Level, Term, infix
from saccade.codegen.triton.program.writer import Lines, Scope, Writer
from saccade.ir.expr import Expr, axis_bit
from saccade.ir.ops import INDEX_VARIABLES
from saccade.ir.structure import Structure

__all__ = ["ContributionText", "ProgramText"]

_PARAMETERS = {
    Which.MASK: "mask_",
    Which.MASK_MOD: "mask_mod_",
    Which.SCORE: "score_",
    Which.SCORE_GRADIENT: "score_",  # of the same captures and numbers
}
_STATEMENTS = {**_PARAMETERS, Which.SCORE_GRADIENT: "score_gradient_"}


@final
@dataclass(frozen=True)
class ContributionText:
    """What one load contributes to the gradient of its capture, at every pair.

    With axes, indices and value are those of one step: the caller opens `loops`, adds `lines` and its
    addition at the depth that these have. Without axes there are no lines.

    Attributes:
        slot: The capture.
        indices: A name or a number a dimension: counts from the front, and is inside at every pair in range.
        value: A name or a number: what joins the element; a float of `type`.
        valid: A name: where the indices are in range; elsewhere nothing is to be added. None: everywhere.
        poison: A name: where the value has none; None where that cannot be, or without `checks`.
        type: "tl.float32" or "tl.float64".
        reads: Which of b, h, q_idx and kv_idx the indices read.
        shape: Along what the value varies; it broadcasts to the tile.
        index_shape: Along what indices and `valid` vary together.
        loops: The heads of the loops over axes, from the outermost, each to be indented once more.
        lines: What stands in the innermost loop, without indentation of their own but for nested lines.
    """

    slot: int
    indices: tuple[str, ...]
    value: str
    valid: str | None
    poison: str | None
    type: str
    reads: frozenset[str]
    shape: Shape
    index_shape: Shape
    loops: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@final
class ProgramText:
    r"""A program as Triton text.

    Args:
        structure: The program; of a score's gradient its derivative.
        facts: What is proven of it.
        which: Which of the kernel's programs it is: it gives the parameters' names.
        place: Where it is put.
        checks: Whether the result's poison is written.
        contributions: What is evaluated beside it.
        prefix: Of the names of its statements; after `which` unless given.
        wide_captures: The slots of captures that may span 2**31 elements or more: their strides and sizes are
            int64 parameters, and so are offsets in them; those of other captures are int32.
        aligned_captures: The slots of captures whose addresses are multiples of 16 bytes and whose strides,
            but the last, of 8 elements.

    Attributes:
        parameters: Those of captures and numbers that are read, in the order of their slots: "score_c0",
            "score_c0_s0", "score_c0_n0", "score_n0". Programs of one prefix may share some.
        before: The lines to stand before the loop.
        inside: The lines to stand inside the loop, indented among themselves.
        result: The result's expression, a value even where it is a constant: tl.int1 of a mask, the score's
            type of a score.
        result_shape: Along what the result varies; it broadcasts to the tile.
        poison: The name of where the result has no value; None where that cannot be, or without `checks`.
        contributions: What each load contributes.
        functions: The names of the functions called; `functions_text` writes them.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> place = Place(
        ...     names={name: name for name in ("b", "h", "q_idx", "kv_idx", "score")},
        ...     rows=frozenset({"q_idx", "score"}),
        ...     columns=frozenset({"kv_idx", "score"}),
        ...     inner=frozenset({"kv_idx", "score"}),
        ...     shape=("BLOCK_M", "BLOCK_N"),
        ... )
        >>> alibi = parse_structure("score(c0: f32[1]) -> f32\nscore + c0[h] * f32(kv_idx - q_idx)")
        >>> facts = ProgramFacts(frozenset({1, 3, 4, 5}), frozenset({(2, 0)}), nonnegative=frozenset({1}))
        >>> text = ProgramText(alibi, facts, Which.SCORE, place)
        >>> [parameter.name for parameter in text.parameters]
        ['score_c0', 'score_c0_s0']
        >>> print(*text.before, sep="\n")
        score_2 = tl.load(score_c0 + h * score_c0_s0)
        >>> print(*text.inside, sep="\n")
        score_8 = score + score_2 * (kv_idx - q_idx).to(tl.float32)
        >>> text.result, text.result_shape
        ('score_8', (True, True))
    """

    def __init__(
        self,
        structure: Structure,
        facts: ProgramFacts,
        which: Which,
        place: Place,
        *,
        checks: bool = False,
        contributions: Sequence[Contribution] = (),
        prefix: str | None = None,
        wide_captures: frozenset[int] = frozenset(),
        aligned_captures: frozenset[int] = frozenset(),
    ) -> None:
        self._nodes = Nodes(structure, facts, contributions)
        self._place = place
        calls = Calls()
        self._reads = Reads(self._nodes, place, calls, _PARAMETERS[which], wide_captures, aligned_captures)
        self._writer = Writer(
            self._nodes, place, self._reads, calls, prefix or _STATEMENTS[which], checks=checks
        )
        result = self._writer.write_named(self._nodes.root)
        self.result = result.value.typed.text
        self.result_shape = place.shape_of(self._nodes.root)
        self.poison = None if result.poison is None else result.poison.text
        self.contributions = tuple(
            self._contribution(number, each) for number, each in enumerate(contributions)
        )
        self.before = tuple(self._writer.before.texts)
        self.inside = tuple(self._writer.inside.texts)
        self.parameters: tuple[Parameter, ...] = self._reads.parameters
        self.functions = calls.used

    def _contribution(self, number: int, each: Contribution) -> ContributionText:
        lines = Lines()
        scope, heads = self._writer.scope, list[str]()
        if each.axes:
            bits = 0
            for k, _ in each.axes:
                bits |= axis_bit(k)
            self._writer.write_outside([*each.element.args, each.value], bits)
            scope, heads = self._writer.loops(scope, each.axes, lines)
            for k, _ in each.axes:
                lines.add(self._writer.axis_line(k))
        indices, valid = self._indices(each.element, scope)
        written = self._writer.write_named(each.value, scope)
        value = written.value
        return ContributionText(
            slot=each.slot,
            indices=indices,
            value=value.typed.text,
            valid=valid,
            poison=None if written.poison is None else written.poison.text,
            type=value.type,
            reads=frozenset(name for name in INDEX_VARIABLES if each.element.depends_on(name)),
            shape=self._place.shape_of(each.value),
            index_shape=self._place.shape_of(each.element),
            loops=tuple(heads),
            lines=tuple(lines.texts),
        )

    def _indices(self, element: Expr, scope: Scope) -> tuple[tuple[str, ...], str | None]:
        """The indices of an element and where they are in range, by names."""
        writer, indices = self._writer, []
        valid: Term | None = None
        for dim, arg in enumerate(element.args):
            index = writer.write_named(arg, scope).value
            inside = self._reads.valid(element, dim, index)
            if inside is not None:
                valid = inside if valid is None else infix("&", Level.AND, valid, inside)
            counted = self._reads.index(element, dim, index)
            indices.append(writer.name(scope, element, f"_index{dim}", counted).text)
        if valid is None:
            return tuple(indices), None
        return tuple(indices), writer.name(scope, element, "_valid", valid).text
