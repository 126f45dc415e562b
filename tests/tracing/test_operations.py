"""Every rule against torch, over operands of mixed types: the type and the value."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saccade.ir.dtype import DType
from saccade.ir.expr import var
from saccade.ir.interpret import evaluate
from saccade.tracing.dtypes import STORED
from saccade.tracing.proxy import Proxy
from saccade.tracing.recorder import Recorder
from saccade.tracing.value import Value

BOOLS = torch.tensor([False, True, True, False, True, False])
INTS = torch.tensor([-7, -2, 0, 1, 3, 8])
INT32 = torch.tensor([2, -3, 5, 1, -1, 4], dtype=torch.int32)
FLOATS = torch.tensor([-2.5, -1.0, 0.0, 0.3, 1.5, 40.0])
DOUBLES = torch.tensor([0.7, -0.2, 2.0, -3.0, 1e-3, 0.5], dtype=torch.float64)
EDGES = torch.tensor([math.nan, math.inf, -math.inf, 0.5, -0.5, 1.0])
OPERANDS = {"bool": BOOLS, "int": INTS, "int32": INT32, "float": FLOATS, "double": DOUBLES, "edges": EDGES}


def finite(y: Any) -> Any:
    """3 for an infinity: quotients by infinity are limits in torch, and NaN by the equation of REMAINDER."""
    return torch.where(y.isinf(), 3, y)


UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": abs,
    "torch.abs": torch.abs,
    "neg": lambda x: -x,
    "pos": lambda x: +x,
    "invert": lambda x: ~x,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": lambda x: x.expm1(),
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": lambda x: x.tanh(),
    "sigmoid": torch.sigmoid,
    "expit": torch.special.expit,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "sign": torch.sign,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "deg2rad": torch.deg2rad,
    "rad2deg": torch.rad2deg,
    "relu": torch.relu,
    "F.relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus": F.softplus,
    "softplus 2 3": lambda x: F.softplus(x, beta=2, threshold=3),
    "leaky_relu": F.leaky_relu,
    "leaky_relu 0.2": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "elu 2": lambda x: F.elu(x, alpha=2.0),
    "logsigmoid": F.logsigmoid,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.25, -1.0),
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "isposinf": torch.isposinf,
    "isneginf": torch.isneginf,
    "isfinite": torch.isfinite,
    "nan_to_num": torch.nan_to_num,
    "nan_to_num 1 2 3": lambda x: torch.nan_to_num(x, nan=1.0, posinf=2.0, neginf=-3.0),
    "logical_not": torch.logical_not,
    "clamp min": lambda x: x.clamp(min=-1),
    "clamp max": lambda x: torch.clamp(x, max=1),
    "clamp both": lambda x: torch.clip(x, -1, 2),
    "clamp crossed": lambda x: torch.clamp(x, 2, -1),
    "clamp float": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp_min(0.25),
    "clamp_max": lambda x: torch.clamp_max(x, 0),
    "x + 1": lambda x: x + 1,
    "1 + x": lambda x: 1 + x,
    "x + 0.5": lambda x: x + 0.5,
    "2 - x": lambda x: 2 - x,
    "x - True": lambda x: x - True,
    "x * 3": lambda x: x * 3,
    "2.5 * x": lambda x: 2.5 * x,
    "x / 2": lambda x: x / 2,
    "1 / x": lambda x: 1 / x,
    "x // 3": lambda x: x // 3,
    "x // -3": lambda x: x // -3,
    "x // 0.3": lambda x: x // 0.3,
    "x % 3": lambda x: x % 3,
    "x % -3": lambda x: x % -3,
    "x % 0.7": lambda x: x % 0.7,
    "fmod 3": lambda x: torch.fmod(x, 3),
    "fmod -3": lambda x: x.fmod(-3),
    "div floor": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "div trunc": lambda x: torch.div(x, 3, rounding_mode="trunc"),
    "div trunc -2": lambda x: x.div(-2, rounding_mode="trunc"),
    "x ** 0": lambda x: x**0,
    "x ** 1": lambda x: x**1,
    "x ** 2": lambda x: x**2,
    "x ** 3": lambda x: x**3,
    "x ** 5": lambda x: x**5,
    "x ** 0.5": lambda x: x**0.5,
    "x ** -0.5": lambda x: x**-0.5,
    "x ** -1.0": lambda x: x**-1.0,
    "x ** -2.0": lambda x: x**-2.0,
    "x ** 1.7": lambda x: torch.pow(x, 1.7),
    "2.0 ** x": lambda x: 2.0**x,
    "float_power": lambda x: torch.float_power(x, 3),
    "x & 3": lambda x: x & 3,
    "x | True": lambda x: x | True,
    "6 ^ x": lambda x: 6 ^ x,
    "x << 2": lambda x: x << 2,
    "x >> 1": lambda x: x >> 1,
    "x < 1": lambda x: x < 1,
    "x <= 0.3": lambda x: x <= 0.3,
    "0 < x": lambda x: x > 0,
    "x >= 1": lambda x: x >= 1,
    "x == 1": lambda x: x == 1,
    "x != 0": lambda x: x != 0,
    "rsub": lambda x: torch.rsub(x, 2),
    "add alpha": lambda x: torch.add(x, 3, alpha=2),
    "2 ** x": lambda x: 2**x,
    "7 // x": lambda x: 7 // torch.where(x == 0, 3, finite(x)),
    "7.5 % x": lambda x: 7.5 % torch.where(x == 0, 3, finite(x)),
    "100 >> x": lambda x: 100 >> (x & 3),
    "3 << x": lambda x: 3 << (x & 7),
    "6 & x": lambda x: 6 & x,
    "6 | x": lambda x: 6 | x,
    "new_tensor of a value": lambda x: (
        x.new_tensor(x + 1, dtype=torch.float64) if not isinstance(x, torch.Tensor) else (x + 1).double()
    ),
    "expand_as": lambda x: x.expand_as(x[None]).sum(),
    "numpy float": lambda x: x * np.float32(0.5),
    "numpy int": lambda x: x + np.int64(3),
    "numpy float on the left": lambda x: 1.0 * x if isinstance(x, torch.Tensor) else np.float64(1.0) * x,
    "to float": lambda x: x.to(torch.float32),
    "to double": lambda x: x.double(),
    "to bool": lambda x: x.bool(),
    "to half": lambda x: x.half(),
    "to bfloat16": lambda x: x.to("cpu", torch.bfloat16),
    "type": lambda x: x.type(torch.float64),
    "type_as": lambda x: x.type_as(DOUBLES),
    "to other": lambda x: x.to(DOUBLES),
    "to dtype": lambda x: x.to(dtype=torch.int16),
    "new_ones": lambda x: x.new_ones(()) + x,
    "new_zeros": lambda x: x.new_zeros(size=(), dtype=torch.float64) + x,
    "new_full": lambda x: x.new_full((), 3),
    "new_tensor": lambda x: x.new_tensor(1),
    "new_tensor list": lambda x: x.new_tensor([1, 0]).sum(),
    "new_tensor typed": lambda x: x.new_tensor(2.5, dtype=torch.float64),
    "ones_like": torch.ones_like,
    "zeros_like": lambda x: torch.zeros_like(x, dtype=torch.int64),
    "full_like": lambda x: torch.full_like(x, 1),
    "where scalar": lambda x: torch.where(x > 0, 1.0, -math.inf),
    "where ints": lambda x: torch.where(x > 0, 1, 2),
    "where mixed": lambda x: torch.where(x != 0, 1, 2.5),
    "where number": lambda x: torch.where(x > 0, x, 0),
    "where method": lambda x: x.where(x > 0, 7),
    "where float": lambda x: torch.where(x > 0, -0.5, x),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1),
    "detach": lambda x: x.detach() + x.clone().contiguous(),
    "torch.ops": lambda x: torch.ops.aten.tanh.default(x),
    "torch.ops packet": lambda x: torch.ops.aten.exp(x),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(),
    "view": lambda x: x.view(1, 1).reshape(()),
    "view_as": lambda x: x.view_as(x) + x.reshape_as(x),
    "axis": lambda x: x[None].sum(0),
    "expand": lambda x: x.expand(3).sum(),
    "sum of itself": lambda x: x.sum(),
    "builtin sum": lambda x: sum([x, x]),
    "cpu": lambda x: x.cpu().to(x.device),
}


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "floor div": lambda x, y: x // finite(y),
    "mod": lambda x, y: x % finite(y),
    "fmod": lambda x, y: torch.fmod(x, finite(y)),
    "div trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "max": torch.max,
    "min": lambda x, y: x.min(y),
    "fmin": torch.fmin,
    "fmax": torch.fmax,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "eq": lambda x, y: x == y,
    "ne": torch.ne,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x.le(y),
    "gt": lambda x, y: x > y,
    "ge": torch.greater_equal,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": lambda x, y: x.logical_xor(y),
    "where": lambda x, y: torch.where(x < y, x, y),
    "clamp": lambda x, y: torch.clamp(x, y, y + 1),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=2),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, x, value=2),
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=2),
    "type_as": lambda x, y: x.nan_to_num(0, 9, -9).type_as(y) + y,
    "abs difference": lambda x, y: abs(x - y),
}


def traced(*operands: torch.Tensor) -> tuple[Recorder, list[Value]]:
    """Each operand read at an index: the first at `q_idx`, the second at `kv_idx`."""
    recorder = Recorder(Proxy, torch.device("cpu"))
    indices = [Proxy(var(name), DType.INT64, (), recorder) for name in ("q_idx", "kv_idx")]
    return recorder, [operand[index] for operand, index in zip(operands, indices, strict=False)]


def agrees(function: Callable[..., Any], *operands: torch.Tensor) -> None:
    """Compare the rule with torch on every combination of elements that torch accepts."""
    pairs, results = [], []
    for at in product(*(range(len(operand)) for operand in operands)):
        # Torch has no kernel for some types and refuses quotients by zero: there a rule is free.
        with contextlib.suppress(RuntimeError, TypeError):
            results.append(function(*(x[i] for x, i in zip(operands, at, strict=True))))
            pairs.append((*at, 0)[:2])
    if not pairs:
        return
    recorder, values = traced(*operands)
    result = function(*values)
    expected = torch.stack([torch.as_tensor(value) for value in results])
    assert result.dtype == expected.dtype
    assert result.shape == ()
    assert result.expr.dtype is STORED[expected.dtype].value_type
    at = np.array(pairs)
    outcome = evaluate(
        result.expr, {"q_idx": at[:, 0], "kv_idx": at[:, 1]}, recorder.captures, recorder.numbers
    )
    actual = np.broadcast_to(outcome.value, (len(pairs),))
    wanted = expected.to(torch.float64) if expected.dtype.is_floating_point else expected
    half = expected.dtype in (torch.float16, torch.bfloat16)
    rtol = 1e-9 if expected.dtype is torch.float64 else 1e-2 if half else 3e-6
    np.testing.assert_allclose(actual, wanted.numpy(), rtol=rtol, atol=rtol)
    assert not outcome.is_poisoned


@pytest.mark.parametrize("name", UNARY)
def test_one_operand_as_in_torch(name: str) -> None:
    for operand in OPERANDS:
        try:
            agrees(UNARY[name], OPERANDS[operand])
        except AssertionError as error:
            raise AssertionError(f"{operand}: {error}") from error


@pytest.mark.parametrize("name", BINARY)
def test_two_operands_as_in_torch(name: str) -> None:
    for first, second in product(OPERANDS, OPERANDS):
        try:
            agrees(BINARY[name], OPERANDS[first], OPERANDS[second])
        except AssertionError as error:
            raise AssertionError(f"{first}, {second}: {error}") from error
