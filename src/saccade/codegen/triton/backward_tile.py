"""How a backward kernel lays out a tile of pairs, and how a turn of its walk goes from products to gradients.

With P a row's weights before dropout, f dropout's factor of a pair (0 where it is dropped), and delta as
`backward_delta` has it,

    P = 2^(score·log2(e) - lse·log2(e)),   dS' = P·(dP·f - delta),   dS = dS' through the score's derivative.

QUERY_GRADIENT has queries along rows and walks keys; KEY_GRADIENT has keys along rows and walks queries.
Places of the walked axis beyond `stop` repeat the last one before it, so that programs see only pairs that
are there.
With a score program scores may be far from zero, as of a row that is padding throughout: products with
log2(e) would overflow there, or round by more than weights bear. QUERY_GRADIENT does as `softmax` does, by
row; to KEY_GRADIENT, whose columns these are, subtracting first is cheaper. Of such rows lse is the largest
score itself, so that each of several that are the largest has a weight of 1.
Invariant: dS is exactly 0 at hidden pairs, by choice and not by a product, whatever was computed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.program.contributions import Contribution, contributions
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.codegen.triton.dropout import kept_pairs
from saccade.codegen.triton.module import padded
from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.poison import NOTE_POISON, note
from saccade.codegen.triton.program.function_table import functions_text
from saccade.codegen.triton.program.place import Place
from saccade.codegen.triton.program.text import ProgramText
from saccade.codegen.triton.spec import KernelKind, TritonSpec, Walk
from saccade.codegen.triton.template import Lines
from saccade.ir.structure import Structure

__all__ = ["BackwardTile", "Form", "column_limit"]


@final
@dataclass(frozen=True)
class Form:
    """One of the forms of a turn; see `walk`.

    Attributes:
        bounded: Whether places at `stop` and beyond are not there.
        masked: Whether the block mask decides.
    """

    bounded: bool
    masked: bool


@final
class BackwardTile:
    """The pairs of a turn in QUERY_GRADIENT or KEY_GRADIENT.

    Args:
        spec: The kernel.

    Attributes:
        of_keys: Whether rows are keys.
        gradient: The derivative of the score program with its contributions; None where nothing needs it.
    """

    def __init__(self, spec: TritonSpec) -> None:
        wanted = spec.key.wanted
        assert wanted is not None, "a kernel of gradients wants some"
        self._spec = spec
        self.of_keys = spec.kind is KernelKind.KEY_GRADIENT
        place = _KEY_ROWS if self.of_keys else _QUERY_ROWS
        self._texts: dict[Which, ProgramText] = {}
        for which in (Which.MASK, Which.MASK_MOD, Which.SCORE):
            program = spec.program(which)
            if program is not None:
                self._texts[which] = self._text(*program, which, place)
        self.gradient: ProgramText | None = None
        program = spec.program(Which.SCORE_GRADIENT) if self.has_grad else None
        if program is not None:
            structure, facts = program
            beside = contributions(structure, wanted.captures)
            self.gradient = self._text(derivative(structure), facts, Which.SCORE_GRADIENT, place, beside)

    def _text(
        self,
        structure: Structure,
        facts: ProgramFacts,
        which: Which,
        place: Place,
        beside: tuple[Contribution, ...] = (),
    ) -> ProgramText:
        spec = self._spec
        return ProgramText(
            structure,
            facts,
            which,
            place,
            checks=spec.checks,
            contributions=beside,
            wide_captures=spec.slots(spec.wide_captures, which),
            aligned_captures=spec.slots(spec.aligned_captures, which),
        )

    @property
    def has_grad(self) -> bool:
        """Whether the gradients of scores are needed, and not the weights alone."""
        spec, wanted = self._spec, self._spec.key.wanted
        assert wanted is not None
        of_captures = any(way.is_of_keys == self.of_keys for way in spec.ways)
        return of_captures or (wanted.key if self.of_keys else wanted.query)

    @property
    def texts(self) -> tuple[ProgramText, ...]:
        """All programs."""
        return (*self._texts.values(), *([] if self.gradient is None else [self.gradient]))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The captures and numbers of all programs, each once."""
        return tuple(dict.fromkeys(p for text in self.texts for p in text.parameters))

    @property
    def before(self) -> Lines:
        """What programs compute before the walk, where `b`, `h` and the rows are known."""
        return tuple(line for text in self.texts for line in text.before)

    @property
    def functions(self) -> tuple[str, ...]:
        """The texts of the functions that programs call, and of the one that notes poison."""
        names = dict.fromkeys(name for text in self.texts for name in text.functions)
        called = (functions_text(tuple(names)),) if names else ()
        return (*called, NOTE_POISON) if self._spec.checks else called

    def visible(self, form: Form) -> Lines:
        """Return lines that name `visible`; none where every pair is."""
        in_table, lines = self._spec.walk is Walk.TABLE, list[str]()
        terms = ["inside"] if form.bounded else []
        mask, mask_mod = self._texts.get(Which.MASK), self._texts.get(Which.MASK_MOD)
        if form.masked and mask is not None:
            asked = [*terms, "~whole"] if in_table else terms
            lines += [*mask.inside, *self._note(Which.MASK, mask.poison, asked)]
            terms.append(f"(whole | {mask.result})" if in_table else mask.result)
        if mask_mod is not None:
            lines += [*mask_mod.inside, *self._note(Which.MASK_MOD, mask_mod.poison, terms)]
            terms.append(mask_mod.result)
        return (*lines, f"visible = {' & '.join(terms)}") if terms else ()

    def _note(self, which: Which, poison: str | None, deciding: Sequence[str]) -> Lines:
        """Lines that note where a program is poison, at the pairs that ask it."""
        if poison is None:
            return ()
        shown = " & ".join([*(f"({term})" for term in deciding), "live[:, None]"])
        return note(which, poison, shown, of_keys=self.of_keys)

    def lse(self, loaded: str) -> Lines:
        """Return lines that name what `weights` needs of lse: infinity where a row sees nothing.

        Args:
            loaded: What lse is, [rows, 1] of queries, or [1, columns] of them.
        """
        none = 'row_lse == float("-inf"), float("inf")'
        first = f"row_lse = {loaded}"
        if Which.SCORE not in self._texts:
            return (first, f"lse2 = tl.where({none}, row_lse * LOG2E)")
        if self.of_keys:
            return (first, f"row_lse = tl.where({none}, row_lse)")
        return (
            first,
            "row_factor = tl.where(tl.abs(row_lse) > 268435456.0, 1.0, LOG2E)",
            f"lse2 = tl.where({none}, row_lse * row_factor)",
        )

    def weights(self, form: Form) -> Lines:
        """Return lines that make `weights` of `product`, what q·k is, and `visible` where some pair is not.

        Weights of hidden pairs are left as they come.
        """
        text = self._texts.get(Which.SCORE)
        if text is None:
            return ("weights = tl.exp2(product * (scale * LOG2E) - lse2)", *self.visible(form))
        whole = self._whole(text)
        exponent = f"({whole} - row_lse) * LOG2E" if self.of_keys else f"{whole} * row_factor - lse2"
        changed = f"weights = tl.exp2({exponent})"
        shown = self.visible(form)
        noted = self._note(Which.SCORE, text.poison, ["visible"] if shown else [])
        return ("score = product * scale", *text.inside, changed, *shown, *noted)

    def _whole(self, text: ProgramText) -> str:
        """A program's result for every pair, however few it differs in."""
        if all(text.result_shape):
            return text.result
        rows, columns = ("BLOCK_N", "BLOCK_M") if self.of_keys else ("BLOCK_M", "BLOCK_N")
        return f"(tl.zeros([{rows}, {columns}], tl.float32) + {text.result})"

    def keep(self) -> Lines:
        """Return lines that name `keep`, which weights dropout leaves."""
        if not self._spec.key.dropout:
            return ()
        kept = kept_pairs(self._spec, "first", "queries[:, None]") if self.of_keys else kept_pairs(self._spec)
        return (f"keep = tl.trans({kept})" if self.of_keys else f"keep = {kept}",)

    def used_weights(self, form: Form) -> Lines:
        """Return lines that name `used`, what values were multiplied by: 0 at hidden pairs."""
        shown = ["visible"] if self.visible(form) else []
        used = "weights"
        if self._spec.key.dropout:
            shown, used = [*shown, "keep"], "weights * keep_factor"
        return (f"used = tl.where({' & '.join(shown)}, {used}, 0.0)" if shown else f"used = {used}",)

    def grad(self, form: Form) -> Lines:
        """Return lines that make `grad_score`, dS, of `weights` and `grad_weights`, which is dP."""
        lines = []
        if self._spec.key.dropout:
            lines.append("grad_weights = tl.where(keep, grad_weights * keep_factor, 0.0)")
        lines.append("grad = weights * (grad_weights - mean)")
        result = "grad"
        if self.gradient is not None:
            shown = ["visible"] if self.visible(form) else []
            noted = self._note(Which.SCORE_GRADIENT, self.gradient.poison, shown)
            lines += [*self.gradient.inside, *noted]
            result = self._whole(self.gradient)
        if self.visible(form):
            result = f"tl.where(visible, {result}, 0.0)"
        return (*lines, f"grad_score = {result}")


_NAMES = {"b": "b", "h": "h", "q_idx": "q_idx", "kv_idx": "kv_idx", "score": "score", "grad": "grad"}
_PAIRS = frozenset({"score", "grad"})
_QUERY_ROWS = Place(
    names=_NAMES,
    rows=_PAIRS | {"q_idx"},
    columns=_PAIRS | {"kv_idx"},
    inner=_PAIRS | {"kv_idx"},
    shape=("BLOCK_M", "BLOCK_N"),
)
_KEY_ROWS = Place(
    names=_NAMES,
    rows=_PAIRS | {"kv_idx"},
    columns=_PAIRS | {"q_idx"},
    inner=_PAIRS | {"q_idx"},
    shape=("BLOCK_N", "BLOCK_M"),
)


def column_limit(spec: TritonSpec, axis: str) -> Lines:
    """Return which columns of tensors are there, [1, columns]; nothing where all are.

    Args:
        spec: The kernel.
        axis: The lines' name for the columns: "dims" or "value_dims".
    """
    size, name = (spec.key.head_dim, "HEAD_DIM") if axis == "dims" else (spec.key.value_dim, "VALUE_DIM")
    return () if size == padded(size) else (f"({axis}[None, :] < {name})",)
