"""Powers and float remainders, computed in float64 for both formats."""

from __future__ import annotations

from saccade.codegen.triton.program.function import Function, function

__all__ = ["POWER_FUNCTIONS"]

POWER_FUNCTIONS: tuple[Function, ...] = (
    # IEEE 754: 1 where y = 0 or x = 1, also beside NaN; NaN of a negative x to a fraction.
    function(
        """
        def ir_pow(x, y):
            x, y = tl.broadcast(x, y)
            base = tl.abs(x).to(tl.float64)
            exponent = y.to(tl.float64)
            size = tl.exp2(exponent * tl.log2(base))
            whole = tl.floor(exponent) == exponent
            odd = whole & (tl.floor(exponent * 0.5) * 2.0 != exponent)
            negative = x.to(tl.float64).to(tl.int64, bitcast=True) < 0
            result = tl.where(odd & negative, size * -1.0, size)
            broken = (x < 0) & (base < float("inf")) & ((whole | (exponent != exponent)) == 0)
            result = tl.where(broken, float("nan"), result)
            one = (y == 0) | (x == 1) | ((base == 1) & (tl.abs(exponent) == float("inf")))
            return tl.where(one, 1.0, result).to(x.dtype)
        """
    ),
    function(
        """
        def ir_exponent(x):
            small = x < 2.2250738585072014e-308
            bits = tl.where(small, x * 9007199254740992.0, x).to(tl.int64, bitcast=True)
            return (bits >> 52) - tl.where(small, 1076, 1023)
        """
    ),
    # Long division. A step takes off the multiple of divisor * 2**n that is nearest below, with a quotient of
    # fewer than 26 bits: its products with the two halves of a significand are exact. 2**n is a product of
    # three, for it may pass the numbers that there are.
    function(
        """
        def ir_float_remainder(a, b):
            a, b = tl.broadcast(a, b)
            dividend = tl.abs(a).to(tl.float64)
            divisor = tl.abs(b).to(tl.float64)
            sound = (dividend < float("inf")) & (divisor > 0)
            rest = tl.where(sound, dividend, 0.0)
            divisor = tl.where(sound, divisor, 1.0)
            more = tl.max((rest >= divisor).to(tl.int32) + tl.zeros([1], tl.int32))
            while more > 0:
                ahead = tl.maximum(ir_exponent(rest) - ir_exponent(divisor) - 22, 0)
                factor = ((ahead // 3 + 1023) << 52).to(tl.float64, bitcast=True)
                unit = divisor * factor * factor * factor
                quotient = tl.floor(rest / unit)
                high = (unit.to(tl.int64, bitcast=True) & -134217728).to(tl.float64, bitcast=True)
                left = rest - quotient * high - quotient * (unit - high)
                left = tl.where(left < 0, left + unit, left)
                rest = tl.where(rest >= divisor, left, rest)
                more = tl.max((rest >= divisor).to(tl.int32) + tl.zeros([1], tl.int32))
            result = rest.to(a.dtype)
            result = tl.where(((a < 0) ^ (b < 0)) & (rest > 0), tl.abs(b) - result, result)
            result = tl.where(b < 0, result * -1.0, result)
            return tl.where(sound, result, float("nan"))
        """,
        "ir_exponent",
    ),
)
