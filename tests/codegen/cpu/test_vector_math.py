"""Elementary functions: right to their bounds on every instruction set, and without a library."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llvmlite import ir

from codegen.cpu.lane_kernel import HOST_ISAS, NUMPY, PRECISE, elementwise, library_calls, mapped
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.vector_math import ELEMENTARY, ULP, exp2_of_nonpositive, power, remainder
from saccade.ir.dtype import DType
from saccade.ir.elementwise import ELEMENTWISE
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.runtime.llvm import Target, emit_assembly

Array = npt.NDArray[Any]

# FLOAT32 is held against numpy's longdouble as FLOAT64 is; where that is no wider than FLOAT64 (64-bit ARM's
# is), the reference of FLOAT64 has an error of its own.
LONG = np.longdouble
REFERENCE_ERROR = 0.0 if np.finfo(LONG).nmant > 60 else 1.0

_erf = np.frompyfunc(math.erf, 1, 1)

REFERENCE: dict[Op, Callable[..., Array]] = {
    **{op: ELEMENTWISE[op] for op in ELEMENTARY},
    Op.SIGMOID: lambda a: 1 / (1 + np.exp(-a)),
    Op.ERF: lambda a: _erf(a.astype(np.float64)).astype(LONG),  # itself right to 1 ulp of FLOAT64
    Op.POW: np.power,
}
# The FLOAT64 number nearest to a multiple of π/2, and where one reduction takes over from the other.
HARD_ANGLES = [6381956970095103 * 2.0**797, 2.0**20, np.nextafter(2.0**20, 0)]
LEAST = {np.float32: 2.0**-149, np.float64: 5e-324}  # the smallest subnormal


def error_in_ulp(got: Array, truth: Array) -> Array:
    """How many units in the last place of the truth a result is off; infinite where its kind is wrong."""
    kind = got.dtype.type
    info = np.finfo(kind)
    magnitude = np.abs(np.where(np.isfinite(truth), truth, 1))
    _, exponent = np.frexp(magnitude)
    unit = np.maximum(np.ldexp(LONG(1), exponent - 1 - info.nmant), LONG(LEAST[kind]))
    error = np.abs(got.astype(LONG) - truth) / unit
    error = np.where(np.isnan(error), np.inf, error)
    # An infinity is right where the truth rounds to one.
    right = (got == truth.astype(kind)) & np.isinf(got) | np.isnan(got) & np.isnan(truth) | (got == truth)
    return np.asarray(np.where(right, 0, error))


def samples(kind: type[np.floating[Any]], count: int = 6000) -> Array:
    """Numbers of every exponent, of the ranges where functions turn, and the special ones."""
    random = np.random.default_rng(5)
    word = np.uint32 if kind is np.float32 else np.uint64
    info = np.finfo(kind)
    least = LEAST[kind]
    steps = [
        1.0,
        0.70710678,
        1.41421356,
        0.41421356,
        2.41421356,
        0.34657359,
        0.5,
        1.5,
        4.0,
        6.0,
        10.0,
        20.0,
        2.0**20,
    ]
    parts = [
        random.integers(0, np.iinfo(word).max, 4 * count, word).view(kind),
        *(random.uniform(-bound, bound, count) for bound in (1, 10, 110, 760)),
        1 + random.uniform(-1, 1, count) * 2.0 ** -random.integers(0, 40, count),
        np.concatenate([step * (1 + np.arange(-8, 9) * info.eps) for step in steps]),
        np.arange(-200, 201) * 0.5,
        np.arange(-200, 201) * (math.pi / 4),
        [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, -info.tiny, least, -least],
        HARD_ANGLES,
        [88.72283, 88.7229, -87.34, -103.97, -103.98, 709.782712893384, 709.78271289339, -745.13, -745.14],
    ]
    return np.concatenate([np.asarray(part).astype(kind) for part in parts])


def cases(ops: Sequence[Op]) -> list[Any]:
    """Every op with every type and every instruction set that runs here."""
    return [
        pytest.param(op, precise, isa, id=f"{OPS[op].text}-{precise.value}-{isa}")
        for op in ops
        for precise in PRECISE
        for isa in HOST_ISAS
    ]


def bound(op: Op, precise: DType) -> float:
    slack = REFERENCE_ERROR if precise is DType.FLOAT64 else 0.0
    if op is Op.ERF and precise is DType.FLOAT64:
        slack = 1.0
    return ULP[op][PRECISE.index(precise)] + slack


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities and NaN


def test_every_float_function_is_there_and_has_a_bound() -> None:
    wanted = {op for op, info in OPS.items() if info.rule is TypeRule.FLOAT and info.arity == 1}
    assert set(ELEMENTARY) == wanted
    assert set(ULP) == wanted | {Op.POW, Op.REMAINDER}


@pytest.mark.parametrize(("op", "precise", "isa"), cases(list(ELEMENTARY)))
def test_a_function_keeps_its_bound(op: Op, precise: DType, isa: str) -> None:
    x = samples(NUMPY[precise])
    truth = np.asarray(REFERENCE[op](x.astype(LONG)))
    got = mapped(ELEMENTARY[op], isa, precise, x)
    error = error_in_ulp(got, truth)
    worst = int(np.argmax(error))
    assert error[worst] <= bound(op, precise), f"{x[worst]!r} gives {got[worst]!r}, truth {truth[worst]!r}"


@pytest.mark.parametrize(("op", "precise", "isa"), cases(list(ELEMENTARY)))
def test_zeros_infinities_and_nan_are_the_references(op: Op, precise: DType, isa: str) -> None:
    kind = NUMPY[precise]
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, -0.3, 0.3, -2.5], kind)
    got, expected = mapped(ELEMENTARY[op], isa, precise, x), np.asarray(ELEMENTWISE[op](x))
    special = ~np.isfinite(expected) | (expected == 0)
    np.testing.assert_array_equal(got[special], expected[special])
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


def pairs(kind: type[np.floating[Any]]) -> tuple[Array, Array]:
    """Arguments of functions of two: all pairs of the special ones, and random ones of several ranges."""
    random = np.random.default_rng(6)
    info, least = np.finfo(kind), LEAST[kind]
    odd = 2.0**info.nmant + 1
    numbers = [0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 0.1, 10.0, np.inf, 1e30, odd, 2 * odd, info.tiny, info.max]
    numbers += [1 + info.eps, 1 - info.eps / 2, least, 3 * least]
    special = np.array(numbers).astype(kind)
    special = np.concatenate([special, -special, [np.nan]]).astype(kind)
    first, second = (grid.ravel() for grid in np.meshgrid(special, special))
    every = samples(kind, 1500)
    n = 6000
    a = [first, np.abs(random.permutation(every)), random.permutation(every), random.uniform(0, 10, n)]
    b = [second, random.permutation(every), random.permutation(every), random.uniform(-40, 40, n)]
    a += [np.exp(random.uniform(-5, 5, n)), 1 + random.uniform(-1, 1, n) * 1e-3, random.integers(-20, 20, n)]
    b += [random.uniform(-100, 100, n), random.uniform(-1e6, 1e6, n), random.integers(-20, 20, n)]
    return np.concatenate(a).astype(kind), np.concatenate(b).astype(kind)


@pytest.mark.parametrize(("op", "precise", "isa"), cases([Op.POW]))
def test_powers(op: Op, precise: DType, isa: str) -> None:
    a, b = pairs(NUMPY[precise])
    truth = np.power(a.astype(LONG), b.astype(LONG))
    got = mapped(power, isa, precise, a, b)
    error = error_in_ulp(got, truth)
    worst = int(np.argmax(error))
    assert error[worst] <= bound(op, precise), f"{a[worst]!r} ** {b[worst]!r} gives {got[worst]!r}"
    numbers = ~np.isnan(truth)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(truth[numbers]))


@pytest.mark.parametrize(("op", "precise", "isa"), cases([Op.REMAINDER]))
def test_remainders_are_numpys_to_the_bit(op: Op, precise: DType, isa: str) -> None:
    a, b = pairs(NUMPY[precise])
    got, expected = mapped(remainder, isa, precise, a, b), np.remainder(a, b)
    np.testing.assert_array_equal(got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


def quiet_nans(kind: type[np.floating[Any]]) -> Array:
    """NaN with payloads that a sum of exponents would carry into a number."""
    if kind is np.float32:
        return np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001, 0xFFC12345], np.uint32).view(kind)
    return np.array([2**63 - 1, 2**64 - 1, 0x7FF8000000000001], np.uint64).view(kind)


class TestExp2OfNonpositive:
    @pytest.mark.parametrize("isa", HOST_ISAS)
    @pytest.mark.parametrize("precise", PRECISE)
    def test_the_softmaxs_exact_values(self, precise: DType, isa: str) -> None:
        kind = NUMPY[precise]
        lowest = -127.0 if kind is np.float32 else -1023.0
        x = np.array([0.0, -0.0, lowest, lowest - 0.5, -1e30, -np.inf, -1.0, -2.0, lowest + 1], kind)
        expected = np.array([1, 1, 0, 0, 0, 0, 0.5, 0.25, 2.0 ** (lowest + 1)], kind)
        np.testing.assert_array_equal(mapped(exp2_of_nonpositive, isa, precise, x), expected)

    @pytest.mark.parametrize("isa", HOST_ISAS)
    @pytest.mark.parametrize("precise", PRECISE)
    def test_nan_stays_whatever_its_payload(self, precise: DType, isa: str) -> None:
        nans = quiet_nans(NUMPY[precise])
        assert np.isnan(mapped(exp2_of_nonpositive, isa, precise, nans)).all()

    @pytest.mark.parametrize("isa", HOST_ISAS)
    @pytest.mark.parametrize("precise", PRECISE)
    def test_is_close(self, precise: DType, isa: str) -> None:
        kind = NUMPY[precise]
        low = -126.0 if kind is np.float32 else -1022.0
        random = np.random.default_rng(7)
        x = np.concatenate([random.uniform(low, 0, 30_000), random.uniform(-1, 0, 30_000)]).astype(kind)
        truth = np.exp2(x.astype(LONG))
        assert (
            error_in_ulp(mapped(exp2_of_nonpositive, isa, precise, x), truth).max() <= 2.2 + REFERENCE_ERROR
        )

        def coarse(e: Emitter, x: Value) -> Value:
            return exp2_of_nonpositive(e, x, coarse=True)

        assert np.abs(mapped(coarse, isa, precise, x) / truth - 1).max() <= 3e-6


@pytest.mark.parametrize("isa", HOST_ISAS)
def test_a_scalar_gives_what_a_vector_does(isa: str) -> None:
    def spread_afterwards(e: Emitter, x: Value) -> Value:
        return e.splat(power(e, ELEMENTARY[Op.TANH](e, e.lane(x, 0)), e.lane(x, 0)))

    def at_once(e: Emitter, x: Value) -> Value:
        first = e.splat(e.lane(x, 0))
        return power(e, ELEMENTARY[Op.TANH](e, first), first)

    x = np.linspace(0.1, 3, 32, dtype=np.float32)
    results = [mapped(function, isa, DType.FLOAT32, x) for function in (spread_afterwards, at_once)]
    np.testing.assert_array_equal(*results)
    assert np.unique(results[0]).size > 1


def test_a_large_function_is_written_once() -> None:
    module = ir.Module(context=ir.Context())
    for name in ("first", "second"):
        e = Emitter(ISAS["avx2"], DType.FLOAT32, module, name)
        x = e.load_vector(e.function.args[0])
        for function in (ELEMENTARY[Op.SIN], ELEMENTARY[Op.SIN], ELEMENTARY[Op.EXP]):
            x = function(e, x)
        e.store(x, e.function.args[0])
        e.finish()
    text = str(module)
    assert text.count("define") == 3
    assert len(re.findall(r'define internal <8 x float> @"sin.v8f32"', text)) == 1
    assert len(re.findall(r'call <8 x float> @"sin.v8f32"', text)) == 4


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_vectors_wait_in_whole_cache_lines(isa: str) -> None:
    module = ir.Module(context=ir.Context())
    e = Emitter(ISAS[isa], DType.FLOAT32, module, "entry")
    x = e.load_vector(e.function.args[0])
    e.store(e.binary("fmul", ELEMENTARY[Op.SIN](e, x), x), e.function.args[0])  # x waits for the sine
    e.finish()
    target = Target("x86_64-unknown-linux-gnu", ISAS[isa].cpu, ISAS[isa].features)
    entry = emit_assembly(str(module), target).split("entry:")[1].split("retq")[0]
    stored = re.findall(r"(vmov\w+)\s+%[yz]mm\d+, \d*\(%rsp\)", entry)
    assert set(stored) == {"vmovaps"}


@pytest.mark.parametrize("precise", PRECISE)
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_calls_a_library(isa: str, precise: DType) -> None:
    def everything(e: Emitter, x: Value) -> Value:
        total = e.binary("fadd", exp2_of_nonpositive(e, x), power(e, x, remainder(e, x, e.real(3.0, x.type))))
        for function in ELEMENTARY.values():
            total = e.binary("fadd", total, function(e, x))
        return total

    assert library_calls(isa, precise, 2, elementwise(everything)) == set()
