"""The vocabulary kernels are written in: values, memory and loops over llvmlite's builder.

A value is an LLVM value, scalar or vector; every vector of a kernel has the same number of lanes. Where a
scalar meets a vector it is spread over the lanes. Pointers are opaque and offsets count bytes. Minima and
maxima are compare and select, and nothing here becomes a call of a library function on any target: what is
called stands in the module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from llvmlite import ir

from saccade.codegen.cpu.isa import Isa
from saccade.ir.dtype import DType

__all__ = [
    "BF16",
    "BOOL",
    "F32",
    "F64",
    "I8",
    "I16",
    "I32",
    "I64",
    "POINTER",
    "Emitter",
    "Loop",
    "Type",
    "Value",
    "element_of",
    "like",
]

# llvmlite is not typed; these say which of its objects is meant.
Value: TypeAlias = Any
Type: TypeAlias = Any


@final
class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite is not typed
    """LLVM's bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BF16 = _BFloat()
BOOL, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
POINTER = ir.PointerType()

_STACK_BITS = 128  # to so many every target aligns its stack

_LLVM_TYPE: dict[DType, Type] = {
    DType.BOOL: BOOL,
    DType.INT64: I64,
    DType.INT32: I32,
    DType.FLOAT32: F32,
    DType.FLOAT64: F64,
}

_MANGLED: dict[Type, str] = {
    BOOL: "i1",
    I8: "i8",
    I16: "i16",
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    BF16: "bf16",
}


@final
@dataclass
class Loop:
    """A loop under construction.

    Attributes:
        index: int64, what this turn is about.
        values: What the turn before (or `carried`) handed over.
    """

    index: Value
    values: list[Value]
    _next: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)

    def hand_over(self, values: Sequence[Value]) -> None:
        """Say what the next turn, or `results` after the last one, receives."""
        self._next = list(values)


@final
class Emitter:
    """One function under construction, in a module it may share.

    Args:
        isa: The instruction set.
        precise: The type of scores and sums, FLOAT32 or FLOAT64; it fixes the number of lanes.
        module: Where declarations go.
        name: The function's name.
        parameters: Types of its parameters.
        result: The type of what it returns; None: it returns nothing.
    """

    def __init__(
        self,
        isa: Isa,
        precise: DType,
        module: ir.Module,
        name: str,
        parameters: Sequence[Type] = (POINTER,),
        result: Type | None = None,
    ) -> None:
        self.isa = isa
        self.precise = precise
        self.lanes = isa.lanes(precise)
        self.module = module
        returned = ir.VoidType() if result is None else result
        self.function = ir.Function(module, ir.FunctionType(returned, list(parameters)), name)
        self.function.attributes.add("nounwind")
        if isa.vector_bits > _STACK_BITS:
            # LLVM decides too late that vectors go to the stack, and leaves them across cache lines there.
            self.function.attributes.alignstack = isa.vector_bits // 8
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.precise_type = _LLVM_TYPE[precise]

    # -- types and constants

    def scalar_type(self, dtype: DType) -> Type:
        """Return the LLVM type of a value type (and INT32, for narrow indices)."""
        return _LLVM_TYPE[dtype]

    def vector(self, element: Type) -> Type:
        """Return the type of a vector of such elements."""
        return ir.VectorType(element, self.lanes)

    def whole(self, value: int, type_: Type = I64) -> Value:
        """Return an integer constant, int64 unless said otherwise; spread if the type is a vector."""
        if isinstance(type_, ir.VectorType):
            return _spread(ir.Constant(type_.element, value), type_)
        return ir.Constant(type_, value)

    def real(self, value: float, type_: Type | None = None) -> Value:
        """Return a floating constant of the precise type unless said otherwise; spread if it is a vector."""
        type_ = self.precise_type if type_ is None else type_
        element = type_.element if isinstance(type_, ir.VectorType) else type_
        if element == F32:
            value = _nearest_float32(value)
        if isinstance(type_, ir.VectorType):
            return _spread(ir.Constant(element, value), type_)
        return ir.Constant(type_, value)

    def lane_numbers(self, element: Type = I32) -> Value:
        """Return the vector 0, 1, 2, ..."""
        return ir.Constant(self.vector(element), list(range(self.lanes)))

    # -- vectors

    def splat(self, value: Value) -> Value:
        """Spread a scalar over the lanes; a vector is itself."""
        if isinstance(value.type, ir.VectorType):
            return value
        type_ = self.vector(value.type)
        if isinstance(value, ir.Constant):
            return _spread(value, type_)
        first = self.builder.insert_element(_arbitrary(type_), value, I32(0))
        zeros = _Literal(self.vector(I32), "zeroinitializer", [I32(0)] * self.lanes)
        return self.builder.shuffle_vector(first, _arbitrary(type_), zeros)

    def shuffled(self, vector: Value, order: Sequence[int], beside: Value | None = None) -> Value:
        """Return the vector whose lane i is lane order[i] of the given one, or of two side by side."""
        lanes = ir.Constant(self.vector(I32), list(order))
        beside = _arbitrary(vector.type) if beside is None else beside
        return self.builder.shuffle_vector(vector, beside, lanes)

    def matched(self, *values: Value) -> tuple[Value, ...]:
        """Return the values all scalar or all vectors."""
        if any(isinstance(value.type, ir.VectorType) for value in values):
            return tuple(self.splat(value) for value in values)
        return values

    def lane(self, vector: Value, index: int) -> Value:
        """Return one lane of a vector."""
        return self.builder.extract_element(vector, I32(index))

    def fold(self, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Combine all lanes, in a fixed tree, into a scalar."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            upper = [*range(lanes, 2 * lanes), *range(lanes, self.lanes)]
            vector = combine(vector, self.shuffled(vector, upper))
        return self.lane(vector, 0)

    def any(self, mask: Value) -> Value:
        """Return whether a BOOL, or a lane of a vector of BOOL, is set."""
        if not isinstance(mask.type, ir.VectorType):
            return mask
        bits = ir.IntType(self.lanes)
        return self.builder.icmp_unsigned("!=", self.builder.bitcast(mask, bits), bits(0))

    # -- arithmetic that spreads scalars

    def binary(self, operation: str, a: Value, b: Value, flags: Sequence[str] = ()) -> Value:
        """Apply a two-operand instruction of the builder by name, such as "fadd" or "and_"."""
        a, b = self.matched(a, b)
        return (
            getattr(self.builder, operation)(a, b, flags=flags)
            if flags
            else getattr(self.builder, operation)(a, b)
        )

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a·b + c, rounded once where the processor can."""
        a, b, c = self.matched(a, b, c)
        return self.intrinsic("llvm.fma" if self.isa.fma else "llvm.fmuladd", a.type, [a, b, c])

    def rounded_down(self, number: Value, multiple: int) -> Value:
        """Return the largest multiple that an int64, not negative, holds."""
        return self.builder.mul(self.builder.udiv(number, self.whole(multiple)), self.whole(multiple))

    def rounded_up(self, number: Value, multiple: int) -> Value:
        """Return the smallest multiple that holds an int64, not negative."""
        return self.rounded_down(self.builder.add(number, self.whole(multiple - 1)), multiple)

    def compare(self, relation: str, a: Value, b: Value) -> Value:
        """Compare numbers: signed for integers, ordered for floats except that != holds for NaN."""
        a, b = self.matched(a, b)
        element = element_of(a)
        if isinstance(element, ir.IntType):
            return self.builder.icmp_signed(relation, a, b)
        compare = self.builder.fcmp_unordered if relation == "!=" else self.builder.fcmp_ordered
        return compare(relation, a, b)

    def resized(self, value: Value, element: Type) -> Value:
        """Return an integer in lanes of another width: sign-extended, or cut to its low bits."""
        width = element_of(value).width
        if width == element.width:
            return value
        change = self.builder.sext if width < element.width else self.builder.trunc
        return change(value, like(value, element))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """Return `a` where the condition holds, else `b`."""
        condition, a, b = self.matched(condition, a, b)
        return self.builder.select(condition, a, b)

    def larger(self, a: Value, b: Value) -> Value:
        """Return `a` where a > b, else `b`: of a NaN, the other or `b`."""
        return self.select(self.compare(">", a, b), a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        """Return `a` where a < b, else `b`: of a NaN, the other or `b`."""
        return self.select(self.compare("<", a, b), a, b)

    def intrinsic(self, name: str, result: Type, args: Sequence[Value]) -> Value:
        """Call an LLVM intrinsic overloaded on its result's type."""
        return self.call(f"{name}.{mangled(result)}", result, args)

    def call(self, name: str, result: Type, args: Sequence[Value]) -> Value:
        """Call an intrinsic by its whole name, declaring it on first use."""
        function = self.module.globals.get(name)
        if function is None:
            type_ = ir.FunctionType(result, [arg.type for arg in args])
            function = ir.Function(self.module, type_, name)
        return self.builder.call(function, args)

    def call_written(
        self, name: str, result: Type, args: Sequence[Value], write: Callable[..., Value]
    ) -> Value:
        """Call a function of the module's own, writing it on first use.

        Args:
            name: What the function does; one of the name is written for each type of result.
            result: The type it returns; it follows from those of the arguments.
            args: Its arguments.
            write: From the function's emitter and parameters to what it returns.
        """
        name = f"{name}.{mangled(result)}"
        if name not in self.module.globals:
            parameters = [arg.type for arg in args]
            e = Emitter(self.isa, self.precise, self.module, name, parameters, result)
            e.function.linkage = "internal"
            e.function.attributes.add("noinline")
            e.finish(write(e, *e.function.args))
        return self.call(name, result, args)

    # -- memory: pointers are opaque, offsets count bytes

    def at(self, pointer: Value, offset: Value | int) -> Value:
        """Return the address `offset` bytes further."""
        offset = self.whole(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset], source_etype=I8)

    def nth(self, pointer: Value, number: Value, size: Value | int) -> Value:
        """Return the address of element number `number` (int64) of elements of `size` bytes."""
        size = self.whole(size) if isinstance(size, int) else size
        return self.at(pointer, self.builder.mul(number, size))

    def load(self, pointer: Value, type_: Type, align: int | None = None) -> Value:
        """Load a scalar, or a vector type from consecutive elements; aligned to an element by default."""
        return self.builder.load(pointer, typ=type_, align=_element_bytes(type_) if align is None else align)

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        """Store a scalar, or a vector to consecutive elements."""
        self.builder.store(value, pointer, align=_element_bytes(value.type) if align is None else align)

    def load_vector(self, pointer: Value, element: Type | None = None) -> Value:
        """Load a vector from consecutive elements, of the precise type unless said otherwise."""
        return self.load(pointer, self.vector(self.precise_type if element is None else element))

    def atomic_add(self, pointer: Value, amount: int) -> Value:
        """Add to an int64 that threads share and return what it was."""
        return self.builder.atomic_rmw("add", pointer, self.whole(amount), "monotonic")

    # -- control

    @contextmanager
    def loop(
        self, start: Value | int, stop: Value | int, step: Value | int = 1, carried: Sequence[Value] = ()
    ) -> Iterator[Loop]:
        """Repeat the body for start, start + step, ... below stop; `carried` passes from turn to turn."""
        start, stop, step = (self.whole(x) if isinstance(x, int) else x for x in (start, stop, step))
        before = self.builder.block
        head, after = self.function.append_basic_block("loop"), self.function.append_basic_block("after")
        self.builder.cbranch(self.builder.icmp_signed("<", start, stop), head, after)
        self.builder.position_at_end(head)
        index = self.builder.phi(I64)
        index.add_incoming(start, before)
        phis = [self.builder.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        loop = Loop(index, list(phis))
        yield loop
        assert len(loop._next) == len(phis), "a loop hands over as many values as it carries"
        following = self.builder.add(index, step, flags=("nsw",))
        last = self.builder.block
        index.add_incoming(following, last)
        for phi, value in zip(phis, loop._next, strict=True):
            phi.add_incoming(value, last)
        self.builder.cbranch(self.builder.icmp_signed("<", following, stop), head, after)
        self.builder.position_at_end(after)
        for value, handed in zip(carried, loop._next, strict=True):
            result = self.builder.phi(value.type)
            result.add_incoming(value, before)
            result.add_incoming(handed, last)
            loop.results.append(result)

    @contextmanager
    def when(self, condition: Value, *, likely: bool | None = None) -> Iterator[None]:
        """Run the body only where a BOOL holds."""
        with self.builder.if_then(condition, likely=likely):
            yield

    def either(self, condition: Value, then: Callable[[], Value], otherwise: Callable[[], Value]) -> Value:
        """Return the value of one of two pieces of code, of which only that one runs."""
        with self.builder.if_else(condition) as (held, failed):
            with held:
                first, first_block = then(), self.builder.block
            with failed:
                second, second_block = otherwise(), self.builder.block
        result = self.builder.phi(first.type)
        result.add_incoming(first, first_block)
        result.add_incoming(second, second_block)
        return result

    def finish(self, result: Value | None = None) -> None:
        """End the function, with what it returns if it returns anything."""
        if result is None:
            self.builder.ret_void()
        else:
            self.builder.ret(result)


def element_of(value: Value) -> Type:
    """Return the type of a scalar, or of a lane."""
    return value.type.element if isinstance(value.type, ir.VectorType) else value.type


def like(value: Value, element: Type) -> Type:
    """Return the type with such elements, scalar or vector as a value is."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def mangled(type_: Type) -> str:
    """Return a type as intrinsics spell it, such as "v16f32"."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{mangled(type_.element)}"
    if isinstance(type_, ir.PointerType):
        return "p0"
    return _MANGLED.get(type_) or str(type_)


@final
class _Literal(ir.Constant):  # type: ignore[misc]  # llvmlite is not typed
    """A constant by its text: a splat is a word long where a list of its lanes is a line."""

    def __init__(self, type_: Type, text: str, lanes: Sequence[Value] = ()) -> None:
        self.type = type_
        self.text = text
        self.constant = list(lanes)  # what llvmlite checks the order of a shuffle by

    def get_reference(self) -> str:
        return self.text


def _spread(value: Value, type_: Type) -> Value:
    return _Literal(type_, f"splat ({value})")


def _arbitrary(type_: Type) -> Value:
    return _Literal(type_, "poison")


def _element_bytes(type_: Any) -> int:
    element = type_.element if isinstance(type_, ir.VectorType) else type_
    if isinstance(element, ir.PointerType):
        return 8
    if isinstance(element, ir.IntType):
        return max(1, int(element.width) // 8)
    return {"float": 4, "double": 8}.get(str(element), 2)  # half and bfloat take two


def _nearest_float32(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
