"""Stored element types and the values computed with: loads, stores and roundings between them.

A stored BOOL is a byte and a value of BOOL an i1; integers are extended to the width asked for; FLOAT16 and
BFLOAT16 become FLOAT32. Everything works on a scalar as on a vector. Roundings go to the nearest, halves to
even, and keep NaN; integers wrap. Lanes that are off touch no memory. No conversion calls a library: where a
processor lacks one, integer code does it, exactly.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from saccade.codegen.cpu.emitter import BF16, F32, F64, I8, I16, I32, I64, Emitter, Type, Value, like, mangled
from saccade.codegen.cpu.vector_math.real import Real, Whole, where
from saccade.ir.dtype import DType

__all__ = [
    "STORED_TYPE",
    "bf16_bits",
    "f16_bits",
    "from_bf16_bits",
    "from_f16_bits",
    "gather_elements",
    "load_element",
    "load_elements",
    "masked_load_elements",
    "narrowed",
    "store_elements",
    "widened",
]


STORED_TYPE: dict[DType, Type] = {
    DType.BOOL: I8,
    DType.UINT8: I8,
    DType.INT8: I8,
    DType.INT16: I16,
    DType.INT32: I32,
    DType.INT64: I64,
    DType.FLOAT16: I16,
    DType.BFLOAT16: I16,
    DType.FLOAT32: F32,
    DType.FLOAT64: F64,
}
"""What an element is in memory; the half types are their bits."""


# -- memory


def load_element(e: Emitter, pointer: Value, stored: DType, integer: Type = I64) -> Value:
    """Load one element.

    Args:
        e: The function under construction.
        pointer: Its address.
        stored: Its type in memory.
        integer: What integers are extended to, I32 or I64; one that is too narrow wraps.

    Returns:
        A scalar of the value type: i1, `integer`, float or double.
    """
    return widened(e, e.load(pointer, STORED_TYPE[stored]), stored, integer)


def load_elements(e: Emitter, pointer: Value, stored: DType, integer: Type = I64) -> Value:
    """Load a vector of consecutive elements; see `load_element`."""
    return widened(e, e.load_vector(pointer, STORED_TYPE[stored]), stored, integer)


def masked_load_elements(
    e: Emitter, pointer: Value, mask: Value, stored: DType, integer: Type = I64
) -> Value:
    """Load consecutive elements where the mask holds, 0 elsewhere; see `load_element`.

    Args:
        e: The function under construction.
        pointer: Address of the element of lane 0, be it on or off.
        mask: <W x i1>, the lanes to load; others touch no memory.
        stored: Type in memory.
        integer: What integers are extended to.
    """
    type_ = e.vector(STORED_TYPE[stored])
    name = f"llvm.masked.load.{mangled(type_)}.p0"
    return widened(e, e.call(name, type_, [pointer, mask, _zero(type_)]), stored, integer)


def gather_elements(
    e: Emitter, base: Value, byte_offsets: Value, mask: Value, stored: DType, integer: Type = I64
) -> Value:
    """Load elements from scattered places where the mask holds, 0 elsewhere; see `load_element`.

    Args:
        e: The function under construction.
        base: An address.
        byte_offsets: <W x i32> or <W x i64>, signed, where each lane's element stands from `base`. Narrow
            ones gather a whole vector at once.
        mask: <W x i1>, the lanes to load; others touch no memory.
        stored: Type in memory.
        integer: What integers are extended to.
    """
    type_ = e.vector(STORED_TYPE[stored])
    addresses = e.builder.gep(e.splat(base), [byte_offsets], source_etype=I8)
    name = f"llvm.masked.gather.{mangled(type_)}.{mangled(addresses.type)}"
    return widened(e, e.call(name, type_, [addresses, mask, _zero(type_)]), stored, integer)


def store_elements(e: Emitter, value: Value, pointer: Value, stored: DType) -> None:
    """Store a value, or a vector of them to consecutive elements, rounded or wrapped to the stored type.

    With `isa.bf16_dot` a FLOAT32 that is subnormal is stored as a BFLOAT16 zero, as the instruction does.
    """
    if stored is DType.BFLOAT16 and e.isa.bf16_dot:
        e.store(_bf16_by_instruction(e, value), pointer)
    else:
        e.store(narrowed(e, value, stored), pointer)


# -- values


def widened(e: Emitter, raw: Value, stored: DType, integer: Type = I64) -> Value:
    """Return the value of what stands in memory; see `STORED_TYPE` and `load_element`."""
    if stored is DType.BOOL:
        return e.compare("!=", raw, e.whole(0, raw.type))
    if stored is DType.FLOAT16:
        return from_f16_bits(e, raw)
    if stored is DType.BFLOAT16:
        return from_bf16_bits(e, raw)
    if stored.is_float:
        return raw
    return _resized(e, raw, integer, signed=stored is not DType.UINT8)


def narrowed(e: Emitter, value: Value, stored: DType) -> Value:
    """Return what stands in memory for a value of the stored type's value type: the inverse of `widened`.

    Floats may come as either float type; they are rounded to FLOAT32 before they become a half type.
    """
    if stored is DType.BOOL:
        return e.builder.zext(value, like(value, I8))
    if not stored.is_float:
        return _resized(e, value, STORED_TYPE[stored], signed=True)
    if stored is DType.FLOAT64:
        return value if _element(value) == F64 else e.builder.fpext(value, like(value, F64))
    single = value if _element(value) == F32 else e.builder.fptrunc(value, like(value, F32))
    return _NARROW[stored](e, single)


def from_bf16_bits(e: Emitter, bits: Value) -> Value:
    """Return the FLOAT32 of BFLOAT16 bits (i16): the upper half of its own."""
    wide = Whole(e, e.builder.zext(bits, like(bits, I32)))
    return (wide << 16).as_real().value


def bf16_bits(e: Emitter, value: Value) -> Value:
    """Return the BFLOAT16 bits (i16) nearest to a FLOAT32, exact for every number and any NaN."""
    real = Real(e, value)
    bits = real.bits
    rounded = bits + ((bits >> 16 & 1) + 0x7FFF)
    kept = where(real.is_nan(), (bits | 0x40_0000).as_real(), rounded.as_real()).bits
    return e.builder.trunc((kept >> 16).value, like(value, I16))


def from_f16_bits(e: Emitter, bits: Value) -> Value:
    """Return the FLOAT32 of FLOAT16 bits (i16)."""
    if e.isa.half:
        half = e.builder.bitcast(bits, like(bits, ir.HalfType()))
        return e.builder.fpext(half, like(bits, F32))
    wide = Whole(e, e.builder.zext(bits, like(bits, I32)))
    # Shifted into place the exponent is 112 too small, also that of a subnormal: the product is exact.
    magnitude = (wide & 0x7FFF) << 13
    scaled = magnitude.as_real() * 2.0**112
    special = (magnitude | 0x7F80_0000).as_real()  # infinity or NaN
    is_special = e.compare(">", (wide & 0x7FFF).value, e.whole(0x7BFF, wide.value.type))
    return where(is_special, special, scaled).signed_as((wide << 16).as_real()).value


def f16_bits(e: Emitter, value: Value) -> Value:
    """Return the FLOAT16 bits (i16) nearest to a FLOAT32."""
    if e.isa.half:
        half = e.builder.fptrunc(value, like(value, ir.HalfType()))
        return e.builder.bitcast(half, like(value, I16))
    real = Real(e, value)
    magnitude = abs(real)
    bits = magnitude.bits
    # Below 2^-14: a sum with 1/2 puts the last place of the subnormals, 2^-24, in the last place of the sum.
    subnormal = (magnitude + 0.5).bits - 0x3F00_0000
    # Otherwise the exponent is rebiased by -112 and 13 bits are rounded off; a carry reaches infinity.
    normal = bits + ((bits >> 13 & 1) + (0xFFF - (112 << 23))) >> 13
    result = where(magnitude < 2.0**-14, subnormal.as_real(), normal.as_real())
    beyond = where(real.is_nan(), Whole(e, e.whole(0x7E00, bits.value.type)).as_real(), real.constant(0.0))
    infinite = (beyond.bits | 0x7C00).as_real()
    result = where(e.builder.not_(magnitude < 65536.0), infinite, result)
    return e.builder.trunc((result.bits | (real.bits >> 16 & 0x8000)).value, like(value, I16))


_NARROW: dict[DType, Callable[[Emitter, Value], Value]] = {
    DType.FLOAT32: lambda e, value: value,
    DType.FLOAT16: f16_bits,
    DType.BFLOAT16: bf16_bits,
}


def _bf16_by_instruction(e: Emitter, value: Value) -> Value:
    """BFLOAT16 bits of FLOAT32s; a subnormal becomes 0."""
    halves = e.builder.fptrunc(value, like(value, BF16))
    return e.builder.bitcast(halves, like(value, I16))


def _resized(e: Emitter, value: Value, integer: Type, *, signed: bool) -> Value:
    """An integer of another width: extended or cut."""
    width = _element(value).width
    if width == integer.width:
        return value
    if width > integer.width:
        return e.builder.trunc(value, like(value, integer))
    extend = e.builder.sext if signed else e.builder.zext
    return extend(value, like(value, integer))


def _element(value: Value) -> Type:
    return value.type.element if isinstance(value.type, ir.VectorType) else value.type


def _zero(type_: Type) -> Value:
    return ir.Constant(type_, None)
