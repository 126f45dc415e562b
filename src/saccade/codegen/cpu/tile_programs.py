"""The programs of a kernel on its tiles: masks narrow the visible lanes, the score mod changes scores.

Owns the order in which a kernel's programs are asked about a vector of pairs, and their tables in scratch
memory. Poison counts where it decides: of the block mask's program at a pair in range of a PARTIAL block that
the mask_mod does not hide, of the mask_mod where the block mask shows, of the score mod at a visible pair.
What pairs contribute to the gradients of captured tensors is evaluated where their scores' gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import programs
from saccade.codegen.cpu.backward_captures import CaptureSums
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.program.code import ProgramCode, Row
from saccade.codegen.cpu.program.poison import report_poison
from saccade.codegen.cpu.rows import OnVector
from saccade.codegen.cpu.spec import KernelSpec
from saccade.codegen.program.contributions import contributions
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.problem import Wanted

__all__ = ["PairPlaces", "RowGradient", "TilePrograms"]

_MASKS = (Which.MASK, Which.MASK_MOD)


@final
@dataclass(frozen=True)
class PairPlaces:
    """Where the pairs of a tile are, for programs and for reports.

    Attributes:
        b: int64, the batch.
        of_row: From a row of the tile to its query head and query, int64 each.
        row: From a row of the tile to one that the programs' tables hold: padding stands for the last row.
        first_key: int64, the key of column 0.
    """

    b: Value
    of_row: Callable[[Value], tuple[Value, Value]]
    row: Callable[[Value], Value]
    first_key: Value


@final
@dataclass(frozen=True)
class RowGradient:
    """How gradients pass through the score mod in one row, vector by vector.

    Attributes:
        code: The derivative of the score program.
        row: The row.
        first_key: int64, the key of column 0.
        sums: What pairs contribute to; None where no capture wants a gradient.
        number: The row's among those that are walked together.
        report: Takes lanes where poison decides, and their first column.
        of_scores: Whether gradients of scores are wanted, and not of captures alone.
    """

    code: ProgramCode
    row: Row
    first_key: Value
    sums: CaptureSums | None
    number: int
    report: Callable[[Value | None, Value], None]
    of_scores: bool

    @property
    def carried(self) -> list[Value]:
        """What is carried from vector to vector, at the first."""
        return [] if self.sums is None else self.sums.carried

    def passed(
        self, score: Value, grad: Value, column: Value, lanes: Value | None, carried: Sequence[Value]
    ) -> tuple[Value, list[Value]]:
        """Turn scores, and gradients of what they became, into gradients of the scores.

        Args:
            score: A vector of scores.
            grad: The gradients of what the score mod made of them.
            column: int64, the first of them.
            lanes: Those that are asked about; None: all.
            carried: What the vector before left.
        """
        place = self.code.place_of_pair(self.row, column, self.first_key, score, lanes, grad)
        if self.of_scores:
            result = self.code.result(place)
            self.report(result.poison, column)
            grad = result.value
        if self.sums is None:
            return grad, []

        def report(poison: Value | None) -> None:
            self.report(poison, column)

        return grad, self.sums.add(place, self.number, column, carried, report)

    def end(self, carried: Sequence[Value]) -> None:
        """Add what the row's last vector left."""
        if self.sums is not None:
            self.sums.end_row(self.code.place_of_row(self.row), self.number, carried)


@final
class TilePrograms:
    """The programs of one kernel.

    Args:
        e: The function under construction.
        spec: The kernel.
        arguments: Its arguments.
        row_variables: The index variables that vary from row to row.
    """

    def __init__(
        self, e: Emitter, spec: KernelSpec, arguments: Arguments, row_variables: tuple[str, ...]
    ) -> None:
        self._e = e
        self._arguments = arguments
        facts = {
            Which.MASK: spec.mask,
            Which.MASK_MOD: spec.mask_mod,
            Which.SCORE: spec.score,
            Which.SCORE_GRADIENT: spec.score_gradient,
        }
        structures = programs(spec.key)
        self._wanted = spec.key.wanted or Wanted()
        beside = {}
        if self._wanted.of_scores and Which.SCORE in structures:
            structures[Which.SCORE_GRADIENT] = derivative(structures[Which.SCORE])
            beside[Which.SCORE_GRADIENT] = contributions(structures[Which.SCORE], self._wanted.captures)
        self._codes = {
            which: ProgramCode(
                e,
                which,
                structure,
                facts[which] or ProgramFacts(),
                arguments,
                rows=spec.rows,
                keys=spec.keys,
                row_variables=row_variables,
                contributions=beside.get(which, ()),
            )
            for which, structure in structures.items()
        }
        self._tables: Mapping[str, Value] = {}

    @property
    def table_bytes(self) -> dict[str, int]:
        """The tables that must be in scratch memory, by name."""
        sizes: dict[str, int] = {}
        for which, code in self._codes.items():
            sizes[f"{which.name} rows"] = code.row_bytes
            sizes[f"{which.name} columns"] = code.column_bytes
        return sizes

    @property
    def has_score(self) -> bool:
        """Whether scores are changed."""
        return Which.SCORE in self._codes

    @property
    def has_mask_mod(self) -> bool:
        """Whether every pair must be asked about."""
        return Which.MASK_MOD in self._codes

    def begin_item(
        self,
        memory: Mapping[str, Value],
        variables: Mapping[str, Value],
        rows: Value,
        indices: Callable[[Value], dict[str, Value]],
    ) -> None:
        """Evaluate what does not depend on the key.

        Args:
            memory: Addresses by name, those of the tables among them.
            variables: Index variables that are the same for all rows, int64.
            rows: int64, how many rows there are.
            indices: As `ProgramCode.fill_rows` asks for.
        """
        self.begin_head(memory, variables)
        self.begin_rows(rows, indices)

    def begin_head(self, memory: Mapping[str, Value], variables: Mapping[str, Value]) -> None:
        """Evaluate what depends neither on the row nor on the key; see `begin_item`."""
        self._tables = memory
        for code in self._codes.values():
            code.begin_item(variables)

    def begin_rows(self, rows: Value, indices: Callable[[Value], dict[str, Value]]) -> None:
        """Evaluate what depends on the row alone; see `begin_item`."""
        for which, code in self._codes.items():
            code.fill_rows(self._tables[f"{which.name} rows"], rows, indices)

    def begin_tile(self, first_key: Value, plain: Value | None = None) -> None:
        """Evaluate what depends on the key alone, for a key tile; masks not where it is `plain` (BOOL)."""
        self._fill_columns(Which.SCORE, first_key)
        self._fill_columns(Which.SCORE_GRADIENT, first_key)
        if any(which in self._codes for which in _MASKS):
            if plain is None:
                self._fill_masks(first_key)
            else:
                with self._e.when(self._e.builder.not_(plain)):
                    self._fill_masks(first_key)

    def mask_of_row(self, places: PairPlaces, row: Value, partial: Value | None) -> OnVector:
        """Return what leaves of lanes in range the visible ones.

        Args:
            places: Where the pairs are.
            row: int64, within the tile.
            partial: BOOL, whether the block mask's program is to be asked; None: it is.
        """
        e = self._e
        rows = {which: self._codes[which].row(places.row(row)) for which in _MASKS if which in self._codes}

        def visible(lanes: Value, column: Value) -> Value:
            mod = None
            if Which.MASK_MOD in rows:
                mod = self._codes[Which.MASK_MOD].pair(
                    rows[Which.MASK_MOD], column, places.first_key, inside=lanes
                )
                shown = mod.value if mod.poison is None else e.builder.or_(mod.value, mod.poison)
                lanes = e.builder.and_(lanes, shown)
            if Which.MASK in rows:
                held = lanes

                def asked() -> Value:
                    mask = self._codes[Which.MASK].pair(
                        rows[Which.MASK], column, places.first_key, inside=held
                    )
                    self._report(Which.MASK, mask.poison, places, row, column)
                    return e.builder.and_(held, mask.value)

                lanes = asked() if partial is None else e.either(partial, asked, lambda: held)
            if mod is not None and mod.poison is not None:
                self._report(Which.MASK_MOD, e.builder.and_(lanes, mod.poison), places, row, column)
            return lanes

        return visible

    def score_of_row(self, places: PairPlaces, row: Value) -> Callable[[Value, Value, Value | None], Value]:
        """Return what turns scores at a column into changed ones, in the lanes given or in all."""
        code = self._codes[Which.SCORE]
        table_row = code.row(places.row(row))

        def changed(score: Value, column: Value, lanes: Value | None) -> Value:
            result = code.pair(table_row, column, places.first_key, score=score, inside=lanes)
            self._report(Which.SCORE, result.poison, places, row, column)
            return result.value

        return changed

    @property
    def gradient_code(self) -> ProgramCode:
        """The derivative of the score program."""
        return self._codes[Which.SCORE_GRADIENT]

    def gradient_of_row(
        self, places: PairPlaces, row: Value, number: int, sums: CaptureSums | None
    ) -> RowGradient:
        """Return what passes gradients through the score mod; those of captures are added to `sums`.

        Args:
            places: Where the pairs are.
            row: int64, within the tile.
            number: Of the row, among those that are walked together.
            sums: Of captured tensors; None where none wants a gradient.
        """

        def report(poison: Value | None, column: Value) -> None:
            self._report(Which.SCORE_GRADIENT, poison, places, row, column)

        code, of_scores = self.gradient_code, self._wanted.query or self._wanted.key
        values = code.row(places.row(row))
        return RowGradient(code, values, places.first_key, sums, number, report, of_scores)

    def _report(
        self, which: Which, poison: Value | None, places: PairPlaces, row: Value, column: Value
    ) -> None:
        if poison is not None:
            e, state = self._e, self._arguments.pointer("state")
            h, q = places.of_row(places.row(row))
            key = e.builder.add(places.first_key, column)
            report_poison(e, state, which, poison, places.b, h, q, key)

    def _fill_masks(self, first_key: Value) -> None:
        for which in _MASKS:
            self._fill_columns(which, first_key)

    def _fill_columns(self, which: Which, first_key: Value) -> None:
        if which in self._codes:
            table = self._tables[f"{which.name} columns"]
            self._codes[which].fill_columns(table, first_key, self._arguments.get("kv_len"))
