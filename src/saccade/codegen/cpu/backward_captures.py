"""Gradients of captured tensors in the backward kernel: where contributions are summed, in what order.

Each captured tensor whose gradient is wanted has sums, dense and in the order of its elements: in a copy of
an item's own, or, where copies would be large, in one memory of all items; then items are cut so that no two
touch an element. Within an item everything is added in the order of its loops, and the entry `captures` adds
up copies in the order of items: the same to the bit for any number of threads. Only visible pairs contribute,
and no memory of another pair is touched.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import TypeAlias, final

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.emitter import BOOL, F64, I64, Emitter, Type, Value, element_of, like, mangled
from saccade.codegen.cpu.program.addresses import Address, all_of, in_memory_order
from saccade.codegen.cpu.program.code import ProgramCode
from saccade.codegen.cpu.program.evaluation import evaluate
from saccade.codegen.cpu.program.place import Evaluated, Place
from saccade.codegen.cpu.program.poison import complement, either
from saccade.codegen.cpu.program.ways import Way, run_of, sum_type, way_of
from saccade.codegen.cpu.work import work_items
from saccade.codegen.program.contributions import Contribution
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, axis_bit

__all__ = ["COPY_BYTES", "SLICE_BYTES", "CaptureSums", "emit_captures"]

COPY_BYTES = 128
"""Copies have a multiple of so many bytes: whole vectors of FLOAT64, whatever the lanes."""
SLICE_BYTES = 2**14
"""What an item of `captures` sums of each capture."""

_Report: TypeAlias = Callable[[Value | None], None]


@final
class CaptureSums:
    """The sums of one kernel, in its entry `attend`.

    Args:
        e: The function under construction.
        tiling: The sizes.
        code: The derivative of the score program, with its contributions.
        arguments: The kernel's arguments.

    Attributes:
        types: The type of each wanted capture's sums, by slot.
    """

    def __init__(self, e: Emitter, tiling: BackwardTiling, code: ProgramCode, arguments: Arguments) -> None:
        self._e, self._tiling, self._code, self._arguments = e, tiling, code, arguments
        program = code.program
        self._found = program.contributions
        self._ways = {each: way_of(program.split, each) for each in self._found}
        self.types = {
            slot: sum_type(self._found, program.split, slot, e.precise) for slot in arguments.layout.sums
        }
        # One value a row or a tile is carried in a register, several are kept in memory.
        along = self._with(Way.HEAD, Way.ROW)
        self._carried = [each for each in along if not each.axes]
        self._in_rows = [each for each in self._with(Way.ROW) if each.axes]
        self._heads, self._columns = self._with(Way.HEAD), self._with(Way.COLUMN)
        self._sums: dict[int, Value] = {}
        self._memory: Mapping[str, Value] = {}

    def _with(self, *ways: Way) -> list[Contribution]:
        return [each for each in self._found if self._ways[each] in ways]

    @property
    def part_bytes(self) -> dict[str, int]:
        """What must be in scratch memory, by name."""
        tiling = self._tiling
        return {
            "capture heads": _values(self._heads) * tiling.vector,
            "capture rows": tiling.step_rows * _values(self._in_rows) * tiling.vector,
            "capture columns": _values(self._columns) * tiling.score_row,
            "capture lanes": tiling.vector + 8 * tiling.lanes,
        }

    def begin_item(self, number: Value, memory: Mapping[str, Value]) -> None:
        """Find the item's sums, and set to 0 those that are its own.

        Args:
            number: int64, the item.
            memory: Addresses by name, those of `part_bytes` among them.
        """
        e, arguments = self._e, self._arguments
        self._memory = memory
        for slot, slots in arguments.layout.sums.items():
            size = arguments.whole(slots.copy)
            self._sums[slot] = e.nth(arguments.address(slots.sums), number, size)
            _clear(e, self._sums[slot], size)

    def begin_tile(self) -> None:
        """Set to 0 what is kept over the rows of a tile."""
        for part in ("capture heads", "capture rows", "capture columns"):
            _clear(self._e, self._memory[part], self._e.whole(self.part_bytes[part]))

    @property
    def carried(self) -> list[Value]:
        """What `add` carries along a row, at its beginning."""
        return [self._e.splat(self._e.real(0.0))] * len(self._carried)

    def add(
        self, place: Place, row: int, column: Value, carried: Sequence[Value], report: _Report
    ) -> list[Value]:
        """Add what a vector of pairs contributes.

        Args:
            place: Of the pairs; see `ProgramCode.place_of_pair`.
            row: Theirs, among those that are walked together.
            column: int64, the first of them within the tile.
            carried: What the vector before it left, or `carried`.
            report: Takes lanes where a value is poison and the pair visible.
        """
        for each in self._found:
            if each not in self._carried:
                body = partial(self._contribute, each, row, column, report)
                self._for_each_value(place, each, [each.value, *each.element.args], body)
        values = [self._value(place, each, report)[0] for each in self._carried]
        return [self._e.binary("fadd", *both) for both in zip(carried, values, strict=True)]

    def end_row(self, place: Place, row: int, carried: Sequence[Value]) -> None:
        """Add what a row left in lanes; `place` is the row's."""
        e = self._e
        for each, lanes in zip(self._carried, carried, strict=True):
            if self._ways[each] is Way.HEAD:
                self._keep(self._kept_at(each, e.whole(0), row, e.whole(0)), lanes)
            else:
                self._join(place, each, lanes, None)
        for each in self._in_rows:
            self._for_each_value(place, each, each.element.args, partial(self._end_kept_row, each, row))

    def end_tile(self, first_key: Value, held: Value) -> None:
        """Add what a tile's rows left.

        Args:
            first_key: int64, the key of column 0.
            held: int64, keys of the tile.
        """
        e, code = self._e, self._code
        for each in self._heads:
            end = partial(self._end_kept, each, e.whole(0), None)
            self._for_each_value(code.place_of_item(), each, each.element.args, end)
        if self._columns:
            with e.loop(0, held, e.lanes) as loop:
                numbers = e.binary("add", loop.index, e.lane_numbers(I64))
                inside = e.compare("<", numbers, held)
                place = code.place_of_columns(loop.index, first_key, inside)
                for each in self._columns:
                    end = partial(self._end_kept, each, loop.index, inside)
                    self._for_each_value(place, each, each.element.args, end)

    def _contribute(
        self, each: Contribution, row: int, column: Value, report: _Report, place: Place, number: Value
    ) -> None:
        """Add what a vector of pairs contributes, or keep it, for one value of the axes."""
        value, live = self._value(place, each, report)
        if self._ways[each] in (Way.RUN, Way.LANES):
            self._join(place, each, value, live)
        else:
            self._keep(self._kept_at(each, number, row, column), value)

    def _end_kept_row(self, each: Contribution, row: int, place: Place, number: Value) -> None:
        """Add what was kept along a row to its element."""
        e = self._e
        at = self._kept_at(each, number, row, e.whole(0))
        self._join(place, each, e.load_vector(at), None)
        e.store(e.splat(e.real(0.0)), at)

    def _end_kept(
        self, each: Contribution, column: Value, live: Value | None, place: Place, number: Value
    ) -> None:
        """Add what was kept over rows to its elements."""
        self._join(place, each, self._e.load_vector(self._kept_at(each, number, 0, column)), live)

    def _keep(self, address: Value, value: Value) -> None:
        e = self._e
        e.store(e.binary("fadd", e.load_vector(address), value), address)

    def _kept_at(self, each: Contribution, number: Value, row: int, column: Value) -> Value:
        """The address of the lanes kept for a value of a contribution's axes, by its number."""
        e, tiling, way = self._e, self._tiling, self._ways[each]
        part, beside, size = {
            Way.HEAD: ("capture heads", self._heads, tiling.vector),
            Way.ROW: ("capture rows", self._in_rows, tiling.vector),
            Way.COLUMN: ("capture columns", self._columns, tiling.score_row),
        }[way]
        before = _values(beside[: beside.index(each)])
        if way is Way.ROW:
            before += row * _values(beside)
        at = e.nth(e.at(self._memory[part], before * size), number, size)
        return e.nth(at, column, tiling.word) if way is Way.COLUMN else at

    def _value(self, place: Place, each: Contribution, report: _Report) -> tuple[Value, Value | None]:
        """A contribution's values, 0 in lanes that do not count, and the lanes that do."""
        e = self._e
        found = evaluate(place, each.value)
        live = place.inside
        if found.poison is not None:
            poison = e.splat(found.poison)
            report(all_of(e, poison, live))
            live = all_of(e, live, complement(e, poison))
        value = _as_type(e, e.splat(found.value), e.precise_type)
        return value if live is None else e.select(live, value, e.splat(e.real(0.0))), live

    def _for_each_value(
        self,
        place: Place,
        each: Contribution,
        read: Sequence[Expr],
        body: Callable[[Place, Value], None],
    ) -> None:
        """Emit the body for every value of a contribution's axes, of which it is told the number.

        Args:
            place: Where the loops stand.
            each: The contribution.
            read: What the body evaluates.
            body: Takes the place inside the loops, and int64.
        """
        e, program = self._e, place.program
        bits = reduce(int.__or__, (axis_bit(k) for k, _ in each.axes), 0)
        if bits:
            for node in program.split.outside(read, bits):
                evaluate(place, node)

        def over(place: Place, axes: Sequence[tuple[int, int]], number: Value) -> None:
            if not axes:
                body(place, number)
                return
            (k, extent), *others = axes
            with e.loop(0, extent) as loop:
                index = e.resized(loop.index, program.widths.element(axis(k)))
                values = ChainMap({axis(k): Evaluated(index)}, place.values)
                own = e.builder.add(e.builder.mul(number, e.whole(extent)), loop.index)
                over(replace(place, values=values), others, own)

        over(place, each.axes, e.whole(0))

    def _join(self, place: Place, each: Contribution, value: Value, live: Value | None) -> None:
        """Add lanes to the elements that the indices name; those that are off hold 0."""
        e, arguments, program = self._e, self._arguments, place.program
        slots = arguments.layout.captures[Which.SCORE_GRADIENT][each.slot]
        type_ = e.scalar_type(self.types[each.slot])
        sizes = [arguments.whole(slot) for slot in slots.sizes]
        strides = [e.whole(self.types[each.slot].itemsize)]
        for size in reversed(sizes[1:]):
            strides.insert(0, e.builder.mul(strides[0], size))
        form = run_of(program.split, each) if self._ways[each] is Way.RUN else None
        indices = each.element.args if form is None else each.element.args[:-1]
        read = [*indices, *(() if form is None else (term for _, term in form.terms))]
        poison = either(e, [evaluate(place, node).poison for node in read])
        address = Address(place, each.element, self._sums[each.slot], sizes, strides)
        for dim in range(len(indices)):
            address.add(dim)
        live = all_of(e, live, address.valid, None if poison is None else complement(e, poison))
        if form is not None:
            for run in address.runs(form, live)[0]:
                _add_run(e, run.pointer, run.mask, _as_type(e, in_memory_order(e, form, value), type_))
        elif address.lanes is None:
            self._add_together(address.base, value, live, type_)
        else:
            self._add_lanes(address.base, address.lanes, value, live, type_)

    def _add_together(self, pointer: Value, value: Value, live: Value | None, type_: Type) -> None:
        """Add all lanes to one element."""
        e = self._e
        total = _as_type(e, _folded(e, value), type_)

        def add() -> None:
            e.store(e.builder.fadd(e.load(pointer, type_), total), pointer)

        if live is None:
            add()
        else:
            # Where an index fails it fails for all lanes; a lane that is merely hidden holds 0.
            with e.when(e.any(live)):
                add()

    def _add_lanes(self, base: Value, lanes: Value, value: Value, live: Value | None, type_: Type) -> None:
        """Add each lane to its own element, in the order of lanes; at once where all name one element."""
        e = self._e
        live = e.whole(1, e.vector(BOOL)) if live is None else e.splat(live)
        bits = e.builder.zext(e.builder.bitcast(live, ir.IntType(e.lanes)), I64)
        offsets, values = self._memory["capture lanes"], e.at(self._memory["capture lanes"], 8 * e.lanes)
        with e.when(e.any(live)):
            e.store(lanes, offsets)
            e.store(value, values)
            first = e.load(e.nth(offsets, _lowest(e, bits), 8), I64)
            differs = e.any(e.builder.and_(live, e.compare("!=", lanes, first)))
            with e.builder.if_else(differs) as (apart, together):
                with apart:
                    count = e.intrinsic("llvm.ctpop", I64, [bits])
                    with e.loop(0, count, carried=[bits]) as loop:
                        (left,) = loop.values
                        lane = _lowest(e, left)
                        pointer = e.at(base, e.load(e.nth(offsets, lane, 8), I64))
                        one = e.load(e.nth(values, lane, self._tiling.word), e.precise_type)
                        total = e.builder.fadd(e.load(pointer, type_), _as_type(e, one, type_))
                        e.store(total, pointer)
                        loop.hand_over([e.builder.and_(left, e.builder.sub(left, e.whole(1)))])
                with together:
                    pointer = e.at(base, first)
                    kept = e.select(live, value, e.splat(e.real(0.0)))
                    total = _as_type(e, _folded(e, kept), type_)
                    e.store(e.builder.fadd(e.load(pointer, type_), total), pointer)


def emit_captures(
    tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str, types: Mapping[int, DType]
) -> None:
    """Emit the entry whose items are slices of all captures' sums: copies are added up in their order.

    Args:
        tiling: The sizes.
        module: Where the function goes.
        layout: Where arguments stand.
        name: The entry's name.
        types: The type of each wanted capture's sums, by slot.
    """
    e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
    arguments = Arguments(e, e.function.args[0], layout)
    with work_items(e, arguments) as item:
        first = e.builder.mul(item, e.whole(SLICE_BYTES))
        after = e.builder.add(first, e.whole(SLICE_BYTES))
        for slot, slots in layout.sums.items():
            vector = e.vector(e.scalar_type(types[slot]))
            step = e.lanes * types[slot].itemsize
            copies, copy = arguments.address(slots.sums), arguments.whole(slots.copy)
            with e.loop(first, e.smaller(after, copy), step) as place:
                zero = e.real(0.0, vector)
                with e.loop(0, arguments.get("copies"), carried=[zero]) as number:
                    source = e.at(e.nth(copies, number.index, copy), place.index)
                    part = e.load_vector(source, vector.element)
                    number.hand_over([e.binary("fadd", number.values[0], part)])
                e.store(number.results[0], e.at(arguments.address(slots.total), place.index))
    e.finish()


def _values(found: Sequence[Contribution]) -> int:
    """How many values the axes of contributions have together."""
    return sum(each.values for each in found)


def _clear(e: Emitter, memory: Value, size: Value) -> None:
    """Set whole vectors to 0."""
    zero = e.splat(e.real(0.0))
    with e.loop(0, size, e.lanes * e.precise.itemsize) as place:
        e.store(zero, e.at(memory, place.index))


def _add_run(e: Emitter, pointer: Value, mask: Value | None, value: Value) -> None:
    """Add to consecutive elements, in the lanes of a mask."""
    if mask is None:
        e.store(e.binary("fadd", e.load_vector(pointer, value.type.element), value), pointer)
        return
    mask, name = e.splat(mask), mangled(value.type)
    before = e.call(f"llvm.masked.load.{name}.p0", value.type, [pointer, mask, e.real(0.0, value.type)])
    total = e.binary("fadd", before, value)
    e.call(f"llvm.masked.store.{name}.p0", ir.VoidType(), [total, pointer, mask])


def _folded(e: Emitter, value: Value) -> Value:
    return e.fold(value, lambda a, b: e.binary("fadd", a, b))


def _lowest(e: Emitter, bits: Value) -> Value:
    """The number of the lowest bit of an int64 that is not 0."""
    return e.call("llvm.cttz.i64", I64, [bits, ir.Constant(BOOL, 1)])


def _as_type(e: Emitter, value: Value, element: Type) -> Value:
    if element_of(value) == element:
        return value
    change = e.builder.fpext if element == F64 else e.builder.fptrunc
    return change(value, like(value, element))
