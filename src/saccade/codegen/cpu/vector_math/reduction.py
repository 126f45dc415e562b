"""Reduction of an angle by quarter turns: x = n · π/2 + r with |r| <= π/4, in FLOAT64, of any size.

Below 2^20 by subtraction of n times the parts of π/2 (Cody and Waite, "Software manual for the elementary
functions", 1980); a part of 33 bits times an n of 20 is exact. Beyond, which is one branch for the whole
vector, by multiplication of the significand with those bits of 2/π that matter (Payne and Hanek, "Radian
reduction for trigonometric functions", 1983), in integers.
"""

from __future__ import annotations

import math
import operator
from functools import cache, reduce

from llvmlite import ir

from saccade.codegen.cpu.emitter import I8, I64, Emitter, Value, mangled
from saccade.codegen.cpu.vector_math.real import Real, Whole, where
from saccade.codegen.cpu.vector_math.wide import Pair, exact_sum, ordered_sum

__all__ = ["reduced"]

_LIMIT = 2.0**20

# π/2 in parts of 33 bits, and the rest.
_PARTS = tuple(
    float.fromhex(part)
    for part in (
        "0x1.921fb54400000p+0",
        "0x1.0b4611a600000p-34",
        "0x1.3198a2e000000p-69",
        "0x1.b839a252049c1p-104",
    )
)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)

# The bits of 2/π stand in a table from this one on, bit j being of weight 2^-j.
_FIRST_BIT = -63
_TABLE = "two_over_pi"

_LIMB = 32
_MASK = (1 << _LIMB) - 1
_LIMBS = 6  # of the window of 2/π: 53 bits of a significand, 2 of turns, 137 of the fraction


def reduced(x: Real) -> tuple[Real, Real, Whole]:
    """Return r in two parts, and n modulo 4 in its low bits. NaN of NaN and infinities.

    Args:
        x: FLOAT64.
    """
    e = x.emitter
    magnitude = abs(x)
    high, low, turns = _by_subtraction(x)
    large = e.binary("and_", magnitude >= _LIMIT, magnitude < math.inf)
    before = e.builder.block
    with e.when(e.any(large), likely=False):
        beyond = _by_multiplication(magnitude, large)
        far_high, far_low, far_turns = _with_sign(x, *beyond)
        chosen = (
            where(large, far_high, high).value,
            where(large, far_low, low).value,
            e.select(large, far_turns.value, turns.value),
        )
        inside = e.builder.block
    results = []
    for near, far in zip((high.value, low.value, turns.value), chosen, strict=True):
        result = e.builder.phi(near.type)
        result.add_incoming(near, before)
        result.add_incoming(far, inside)
        results.append(result)
    return Real(e, results[0]), Real(e, results[1]), Whole(e, results[2])


def _by_subtraction(x: Real) -> tuple[Real, Real, Whole]:
    rounder = x.format.rounder
    shifted = x.times_plus(2 / math.pi, rounder)
    n = shifted - rounder
    # The first difference and all but the last product are exact; errors of the other sums are kept.
    first = x - n * _PARTS[0]
    second = exact_sum(first, -(n * _PARTS[1]))
    third = exact_sum(second.high, -(n * _PARTS[2]))
    low = third.low + second.low - n * _PARTS[3]
    return *exact_sum(third.high, low), shifted.bits


def _by_multiplication(magnitude: Real, large: Value) -> tuple[Real, Real, Whole]:
    """Find r and n of numbers from `_LIMIT` on, anything of the others.

    With magnitude = M · 2^E, the window W is the 192 bits of 2/π from the one of weight 2^(1-E) on; earlier
    bits make whole turns. M · W modulo 2^192, its point after two bits, is the number of quarter turns.
    """
    e, bits = magnitude.emitter, magnitude.bits
    significand = (bits & (1 << 52) - 1) | 1 << 52
    product = _product(significand, _window(e, bits >> 52, large))
    turns = product[-1] + (1 << _LIMB - 3) >> _LIMB - 2
    # The fraction in [-1/2, 1/2): what follows the two bits, in two's complement, four limbs of it.
    first, second, third, fourth = (
        (above << 2 | below >> _LIMB - 2) & _MASK
        for above, below in zip(product[:1:-1], product[-2:0:-1], strict=True)
    )
    signed = _number(first ^ 1 << _LIMB - 1) - 2.0 ** (_LIMB - 1)
    top = exact_sum(signed * 2.0**-_LIMB, _number(second) * 2.0 ** (-2 * _LIMB))
    tail = _number(third) * 2.0 ** (-3 * _LIMB) + _number(fourth) * 2.0 ** (-4 * _LIMB)
    middle = exact_sum(top.high, tail)
    fraction = ordered_sum(middle.high, middle.low + top.low)
    angle = fraction.times(Pair(*(magnitude.constant(part) for part in _HALF_PI)))
    return angle.high, angle.low, turns


def _product(significand: Whole, window: list[Whole]) -> list[Whole]:
    """The limbs, lowest first, of the product modulo 2^192; `window` highest first."""
    low, high = significand & _MASK, significand >> _LIMB
    columns: list[list[Whole]] = [[] for _ in range(_LIMBS + 2)]  # by weight
    for place, limb in enumerate(reversed(window)):
        for factor, weight in ((low, place), (high, place + 1)):
            product = factor * limb
            columns[weight].append(product & _MASK)
            columns[weight + 1].append(product >> _LIMB)
    limbs: list[Whole] = []
    carry: Whole | None = None
    for column in columns[:_LIMBS]:
        total = reduce(operator.add, column if carry is None else [*column, carry])
        limbs.append(total & _MASK)
        carry = total >> _LIMB
    return limbs


def _window(e: Emitter, exponent: Whole, large: Value) -> list[Whole]:
    """The limbs, highest first, of 2/π from the bit that a stored exponent asks for."""
    # Bit j has weight 2^-j; x = M · 2^(exponent - 1075), so the first bit is exponent - 1076.
    position = exponent - (1076 + _FIRST_BIT)
    offset = (position >> 5) << 3
    table = e.splat(_table(e))
    type_ = e.vector(I64)
    limbs = []
    for place in range(_LIMBS):
        addresses = e.builder.gep(table, [(offset + 8 * place).value], source_etype=I8)
        name = f"llvm.masked.gather.{mangled(type_)}.{mangled(addresses.type)}"
        words = Whole(e, e.call(name, type_, [addresses, large, e.whole(0, type_)]))
        limbs.append((words << (position & _LIMB - 1)) >> _LIMB)
    return limbs


def _number(limb: Whole) -> Real:
    """A limb as a number: it is written into the low bits of 2^52."""
    return (limb | (1023 + 52) << 52).as_real() - 2.0**52


def _with_sign(x: Real, high: Real, low: Real, turns: Whole) -> tuple[Real, Real, Whole]:
    """The reduction of x, given that of |x|."""
    e = x.emitter
    sign = x.bits & x.format.sign_bit
    signed_turns = Whole(e, e.select(x < 0.0, (-turns).value, turns.value))
    return (high.bits ^ sign).as_real(), (low.bits ^ sign).as_real(), signed_turns


def _table(e: Emitter) -> Value:
    """The address of 2/π: entry k is its 64 bits from bit 32 k + `_FIRST_BIT` on."""
    found = e.module.globals.get(_TABLE)
    if found is not None:
        return found
    words = _two_over_pi()
    type_ = ir.ArrayType(I64, len(words))
    table = ir.GlobalVariable(e.module, type_, _TABLE)
    table.linkage, table.global_constant, table.align = "internal", True, 64
    table.initializer = ir.Constant(type_, list(words))
    return table


@cache
def _two_over_pi() -> tuple[int, ...]:
    last = 2046 - 1076 + _LIMB * (_LIMBS + 1)
    bits = (last - _FIRST_BIT) // _LIMB * _LIMB + 2 * _LIMB
    fraction = bits + _FIRST_BIT - 1
    quotient = (2 << 2 * (fraction + 64)) // _pi(fraction + 64) >> 64
    return tuple(
        quotient >> (bits - 2 * _LIMB - start) & (1 << 64) - 1 for start in range(0, bits - _LIMB, _LIMB)
    )


def _pi(bits: int) -> int:
    """π · 2^bits, to a few units: 16 arctan(1/5) - 4 arctan(1/239) (Machin, 1706)."""

    def inverse_arctan(n: int) -> int:
        term = total = (1 << bits) // n
        divisor = 1
        while term:
            term //= -n * n
            divisor += 2
            total += term // divisor
        return total

    return 16 * inverse_arctan(5) - 4 * inverse_arctan(239)
