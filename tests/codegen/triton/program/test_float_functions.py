"""How far the functions that Triton lacks are off, in its interpreter, and their values at the ends.

Each bound is stated in units of the last place of the result, for float32 against numpy's float64 and for
float64 against its extended precision (on hosts that have it). On a GPU the exponential and the square root
that they call are themselves a few units off, for float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from codegen.triton.program.grid_module import Grid, evaluate_grid
from codegen.triton.program.kernel_server import KernelServer
from saccade.ir.dtype import DType
from saccade.ir.elementwise import ELEMENTWISE, NUMPY_TYPE
from saccade.ir.expr import Expr, const, load, make, var
from saccade.ir.ops import Op
from saccade.ir.structure import CaptureType, ModKind, Structure

FLOAT32, FLOAT64 = DType.FLOAT32, DType.FLOAT64
TYPES = pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=["f32", "f64"])
ROWS, COLUMNS = 16, 64
COUNT = ROWS * COLUMNS
EXTENDED = np.finfo(np.longdouble).nmant > 60
ENDS = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1.0, -1.0]

# The range of arguments, and the units in the last place allowed of float32 and float64.
BOUNDS: dict[Op, tuple[float, float, float, float]] = {
    Op.TANH: (-12, 12, 4, 2),
    Op.SIGMOID: (-30, 30, 3, 3),
    Op.EXPM1: (-20, 20, 3, 3),
    Op.LOG1P: (-0.99, 40, 4, 4),
    Op.TAN: (-1.5, 1.5, 3, 3),
    Op.ATAN: (-40, 40, 3, 3),
}


def samples(low: float, high: float, dtype: DType) -> np.ndarray:
    """Even ones, and small ones down to where the function is its argument."""
    draw = np.random.default_rng(11)
    even = draw.uniform(low, high, COUNT // 2)
    small = draw.uniform(-1, 1, COUNT - COUNT // 2 - len(ENDS)) * 2.0 ** draw.integers(
        -40, 0, COUNT - COUNT // 2 - len(ENDS)
    )
    return np.concatenate([even, small, ENDS]).astype(NUMPY_TYPE[dtype])


def applied(body: Callable[..., Expr], arrays: list[np.ndarray], server: KernelServer) -> np.ndarray:
    """A function of captured values, at each of `COUNT` of them."""
    dtype = FLOAT32 if arrays[0].dtype == np.float32 else FLOAT64
    place = make(Op.ADD, (make(Op.MUL, (var("q_idx"), const(COLUMNS, DType.INT64))), var("kv_idx")))
    root = body(*(load(slot, [place], dtype) for slot in range(len(arrays))))
    structure = Structure(ModKind.SCORE, root, (CaptureType(dtype, 1),) * len(arrays))
    values, poison = evaluate_grid(Grid(structure, arrays, (), 1, 1, ROWS, COLUMNS), server)
    assert not poison.any()
    return values.reshape(-1)


def units(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far off, in units of the last place of what is wanted."""
    rounded = wanted.astype(given.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(given[~finite], rounded[~finite])
    with np.errstate(invalid="ignore"):
        off = np.abs(given.astype(wanted.dtype) - wanted) / np.spacing(np.abs(rounded)).astype(wanted.dtype)
    return np.asarray(off[finite])


@TYPES
@pytest.mark.parametrize("op", BOUNDS)
def test_error(op: Op, dtype: DType, interpreter: KernelServer):
    if dtype is FLOAT64 and not EXTENDED:
        pytest.skip("this host has no extended precision to compare float64 with")
    low, high, *bounds = BOUNDS[op]
    x = samples(low, high, dtype)
    with np.errstate(all="ignore"):
        wanted = ELEMENTWISE[op](x.astype(np.float64 if dtype is FLOAT32 else np.longdouble))
    given = applied(lambda x: make(op, (x,)), [x], interpreter)
    assert units(given, wanted).max() <= bounds[dtype is FLOAT64]
    assert (np.signbit(given) == np.signbit(wanted))[~np.isnan(wanted)].all()


@TYPES
def test_powers(dtype: DType, interpreter: KernelServer):
    draw = np.random.default_rng(3)
    base, exponent = draw.uniform(0, 9, COUNT), draw.uniform(-9, 9, COUNT)
    x, y = (values.astype(NUMPY_TYPE[dtype]) for values in (base, exponent))
    given = applied(lambda x, y: make(Op.POW, (x, y)), [x, y], interpreter)
    with np.errstate(all="ignore"):
        wanted = np.power(*(values.astype(np.longdouble) for values in (x, y)))
    # In float64 the product of an exponent and a logarithm is rounded: to half a unit of up to 64 in all.
    assert units(given, wanted).max() <= (1 if dtype is FLOAT32 else 32)


@TYPES
def test_powers_at_the_ends(dtype: DType, interpreter: KernelServer):
    """IEEE 754: zeros, infinities, NaN, odd and even and broken exponents."""
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, np.inf, -np.inf, np.nan, 1e20]
    pairs = [(x, y) for x in values for y in values]
    grid = np.array(pairs + [(1.0, 1.0)] * (COUNT - len(pairs)), NUMPY_TYPE[dtype])
    x, y = (np.ascontiguousarray(part) for part in grid.T)
    given = applied(lambda x, y: make(Op.POW, (x, y)), [x, y], interpreter)
    with np.errstate(all="ignore"):
        wanted = np.power(x, y)
    np.testing.assert_allclose(given, wanted, rtol=128 * np.finfo(wanted.dtype).eps)
    assert (np.signbit(given) == np.signbit(wanted))[~np.isnan(wanted)].all()


@TYPES
def test_a_square_is_a_product(dtype: DType, interpreter: KernelServer):
    x = samples(-9, 9, dtype)
    given = applied(lambda x: make(Op.POW, (x, const(2.0, dtype))), [x], interpreter)
    np.testing.assert_array_equal(given, x * x)


@TYPES
def test_remainders_are_exact(dtype: DType, interpreter: KernelServer):
    """However large the quotient is: numpy's own is exact."""
    draw = np.random.default_rng(3)
    tops = (30, 120) if dtype is FLOAT32 else (200, 1000)
    x, y = (
        (draw.normal(size=COUNT) * 2.0 ** draw.integers(-top, top, COUNT)).astype(NUMPY_TYPE[dtype])
        for top in tops[::-1]
    )
    given = applied(lambda x, y: make(Op.REMAINDER, (x, y)), [x, y], interpreter)
    np.testing.assert_array_equal(given, np.remainder(x, y))


@TYPES
def test_rounding(dtype: DType, interpreter: KernelServer):
    magic = 2.0**52 if dtype is FLOAT64 else 2.0**23
    halves = np.arange(-40, 40) / 2
    near = np.array([0.49999997, magic - 0.5, magic, magic + 1, 2 * magic + 2, -magic + 0.5, 1e30])
    x = np.resize(np.concatenate([halves, near, ENDS]), COUNT).astype(NUMPY_TYPE[dtype])
    for op, function in ((Op.ROUND, np.rint), (Op.TRUNC, np.trunc)):
        given = applied(lambda x, op=op: make(op, (x,)), [x], interpreter)
        np.testing.assert_array_equal(given, function(x))
        assert (np.signbit(given) == np.signbit(x))[~np.isnan(x)].all()


def test_bfloat16_rounds_halves_to_even(interpreter: KernelServer):
    bits = np.random.default_rng(5).integers(0, 2**32, COUNT, dtype=np.uint64).astype(np.uint32)
    bits[:4] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00008001]
    x = bits.view(np.float32)
    given = applied(lambda x: make(Op.CAST, (x,), DType.BFLOAT16), [x], interpreter)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(given, np.where(np.isnan(x), x, nearest))
