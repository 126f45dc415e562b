"""Integer division, shifts and conversions as the IR means them, where Triton means something else.

Triton's `//` and `%` round toward zero, its shifts are undefined past the last bit, and so are its
conversions of floats beyond the integers.
"""

from __future__ import annotations

from saccade.codegen.triton.program.function import Function, function

__all__ = ["INTEGER_FUNCTIONS"]

INTEGER_FUNCTIONS: tuple[Function, ...] = (
    # A rest of the other sign than the divisor's is one divisor short.
    function(
        """
        def ir_floor_div(a, b):
            quotient = a // b
            rest = a - quotient * b
            short = (rest != 0) & ((rest ^ b) < 0)
            return quotient - short.to(quotient.dtype)
        """
    ),
    function(
        """
        def ir_modulo(a, b):
            rest = a % b
            short = (rest != 0) & ((rest ^ b) < 0)
            return tl.where(short, rest + b, rest)
        """
    ),
    # 0 has no quotient, and that of -1 may pass the integers: both are divided by 1.
    function(
        """
        def ir_floor_div_any(a, b):
            quotient = ir_floor_div(a, tl.where((b == 0) | (b == -1), 1, b))
            return tl.where(b == -1, 0 - a, quotient)
        """,
        "ir_floor_div",
    ),
    function(
        """
        def ir_modulo_any(a, b):
            return ir_modulo(a, tl.where((b == 0) | (b == -1), 1, b))
        """,
        "ir_modulo",
    ),
    function(
        """
        def ir_shift_left(a, n):
            inside = (n >= 0) & (n < a.dtype.primitive_bitwidth)
            return tl.where(inside, a << tl.where(inside, n, 0), 0)
        """
    ),
    function(
        """
        def ir_shift_right(a, n):
            inside = (n >= 0) & (n < a.dtype.primitive_bitwidth)
            return a >> tl.where(inside, n, a.dtype.primitive_bitwidth - 1)
        """
    ),
    # The least integer stands for what is beyond them, and for NaN.
    function(
        """
        def ir_to_int64(x):
            inside = (x >= -9223372036854775808.0) & (x < 9223372036854775808.0)
            return tl.where(inside, tl.where(inside, x, 0.0).to(tl.int64), -9223372036854775808)
        """
    ),
    function(
        """
        def ir_to_int32(x):
            inside = (x > -2147483649.0) & (x < 2147483648.0)
            return tl.where(inside, tl.where(inside, x, 0.0).to(tl.int32), -2147483648)
        """
    ),
    # An index that counts from the end where it is negative, kept inside: of nothing it is 0.
    function(
        """
        def ir_index(index, size):
            counted = tl.where(index < 0, index + size, index)
            return tl.maximum(tl.minimum(counted, size - 1), 0)
        """
    ),
    function(
        """
        def ir_index_from_end(index, size):
            return tl.where(index < 0, index + size, index)
        """
    ),
)
