"""Elementary functions that Triton lacks, for float32 and float64.

A test measures each against float64 or longer arithmetic, and states the bound.
"""

from __future__ import annotations

from saccade.codegen.triton.program.function import Function, function

__all__ = ["FLOAT_FUNCTIONS"]

FLOAT_FUNCTIONS: tuple[Function, ...] = (
    function(
        """
        def ir_trunc(x):
            return tl.where(x < 0, tl.ceil(x), tl.floor(x))
        """
    ),
    # Beside 2**52, or 2**23, there is no room for a fraction; the sum rounds it away, halves to even.
    function(
        """
        def ir_round(x):
            magic: tl.constexpr = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0
            size = tl.abs(x)
            whole = (size + magic) - magic
            rounded = tl.where(x < 0, whole * -1.0, whole)
            return tl.where((size < magic) & (whole != size), rounded, x)
        """
    ),
    # The upper half of the bits, halves to even. Triton's own conversion cuts them off in its interpreter.
    function(
        """
        def ir_to_bfloat16(x):
            bits = x.to(tl.int32, bitcast=True)
            kept = (bits + 32767 + ((bits >> 16) & 1)) & -65536
            return tl.where(x == x, kept.to(tl.float32, bitcast=True), x)
        """
    ),
    # W. Kahan: the rounding of e**x is undone by dividing by the logarithm of what it came to.
    function(
        """
        def ir_expm1(x):
            power = tl.exp(x)
            near = (power - 1.0) * (x / tl.log(power))
            near = tl.where(power == 1.0, x, near)
            return tl.where((power < 1e-9) | (power == float("inf")), power - 1.0, near)
        """
    ),
    function(
        """
        def ir_log1p(x):
            total = 1.0 + x
            near = tl.log(total) * (x / (total - 1.0))
            near = tl.where(total == 1.0, x, near)
            return tl.where(total == float("inf"), x, near)
        """
    ),
    function(
        """
        def ir_sigmoid(x):
            return 1.0 / (1.0 + tl.exp(x * -1.0))
        """
    ),
    # float32: s / sqrt(1 + s**2) for s = sinh x, without a division. s is x + x**3 P(x**2), where P is fitted
    # to 6e-8 of tanh: it may stray from sinh as the root covers it up. A device's inverse root may pass 1.
    # float64: near 0, x + x**3 P(x**2), fitted over |x| < 0.5 to 2e-17 of tanh; else by e**(2 |x|).
    function(
        """
        def ir_tanh(x):
            if x.dtype == tl.float32:
                near = tl.clamp(x, -10.0, 10.0, propagate_nan=tl.PropagateNan.ALL)
                z = near * near
                tail = 0.0001991135593976266 + z * (2.624248550366386e-06 + z * 3.386236745008475e-08)
                tail = 0.16666724659026663 + z * (0.008332056374152347 + z * tail)
                sinh = near + near * (z * tail)
                result = sinh * tl.rsqrt(1.0 + sinh * sinh)
                result = tl.clamp(result, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
            else:
                z = x * x
                tail = -0.00022107222975864633 + z * 5.946956589774769e-05
                tail = -0.001454959384380466 + z * (0.0005849653729022644 + z * tail)
                tail = -0.008863229270067843 + z * (0.0035920334653723926 + z * tail)
                tail = -0.05396825396361009 + z * (0.021869488297234514 + z * tail)
                tail = -0.3333333333333333 + z * (0.13333333333329825 + z * tail)
                size = tl.abs(x)
                far = 1.0 - 2.0 / (tl.exp2(size * 2.8853900817779268) + 1.0)
                result = tl.where(size < 0.5, x * (1.0 + z * tail), tl.where(x < 0, far * -1.0, far))
            return result
        """
    ),
    function(
        """
        def ir_tan(x):
            return tl.sin(x) / tl.cos(x)
        """
    ),
    # atan x = pi/2 - atan 1/x = pi/4 + atan (x - 1)/(x + 1) = 2 atan x/(1 + sqrt(1 + x**2)) brings the
    # argument t below 0.2, where the series t - t**3/3 + t**5/5 ... is short.
    function(
        """
        def ir_atan(x):
            size = tl.abs(x)
            large = size > 2.414213562373095
            middle = (size > 0.41421356237309503) & (size <= 2.414213562373095)
            near = tl.where(large, -1.0 / size, tl.where(middle, (size - 1.0) / (size + 1.0), size))
            start = tl.where(large, 1.0, tl.where(middle, 0.5, 0.0)).to(x.dtype)
            t = near / (1.0 + tl.sqrt(1.0 + near * near))
            z = t * t
            tail = 1.0 / 9.0 - z * (1.0 / 11.0)
            if x.dtype == tl.float64:
                tail = 1.0 / 17.0 - z * (1.0 / 19.0 - z * (1.0 / 21.0 - z * (1.0 / 23.0)))
                tail = 1.0 / 9.0 - z * (1.0 / 11.0 - z * (1.0 / 13.0 - z * (1.0 / 15.0 - z * tail)))
            tail = 1.0 / 3.0 - z * (1.0 / 5.0 - z * (1.0 / 7.0 - z * tail))
            angle = start * 1.5707963267948966 + (2.0 * t - 2.0 * t * (z * tail))
            return tl.where(x < 0, angle * -1.0, tl.where(x == 0, x, angle))
        """
    ),
)
