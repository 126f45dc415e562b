"""The table of rules: what each torch operation means in a mod.

A rule is named once and found under every form of the operation: the function in `torch`, `torch.special` or
`torch.nn.functional`, the method of `torch.Tensor` with its operators, and `torch.ops.aten`. To support
another operation, add a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from saccade.errors import UnsupportedOpError
from saccade.tracing import arithmetic, axes, conversion, elementary, indexing, logic, reductions
from saccade.tracing.refusals import advice_for
from saccade.tracing.registration import canonical, op_name, user_rule

__all__ = ["METHODS", "refusal", "rule_for"]

Rule = Callable[..., Any]

# Valid as functions and as methods, with the value first.
_RULES: dict[str, Rule] = {
    **elementary.ELEMENTARY,
    "abs": arithmetic.absolute,
    "absolute": arithmetic.absolute,
    "add": arithmetic.add,
    "addcdiv": arithmetic.addcdiv,
    "addcmul": arithmetic.addcmul,
    "all": reductions.all_of,
    "amax": reductions.amax,
    "amin": reductions.amin,
    "any": reductions.any_of,
    "bitwise_and": logic.bitwise_and,
    "bitwise_left_shift": logic.shift_left,
    "bitwise_not": logic.bitwise_not,
    "bitwise_or": logic.bitwise_or,
    "bitwise_right_shift": logic.shift_right,
    "bitwise_xor": logic.bitwise_xor,
    "ceil": arithmetic.ceil,
    "clamp": arithmetic.clamp,
    "clamp_max": arithmetic.clamp_max,
    "clamp_min": arithmetic.clamp_min,
    "clip": arithmetic.clamp,
    "clone": conversion.keep,
    "detach": conversion.detach,
    "div": arithmetic.divide,
    "divide": arithmetic.divide,
    "dot": reductions.dot,
    "elu": elementary.elu,
    "embedding": indexing.embedding,
    "eq": logic.equal,
    "fix": arithmetic.trunc,
    "float_power": arithmetic.float_power,
    "floor": arithmetic.floor,
    "floor_divide": arithmetic.floor_divide,
    "fmax": arithmetic.fmax,
    "fmin": arithmetic.fmin,
    "fmod": arithmetic.fmod,
    "full_like": conversion.full_like,
    "ge": logic.greater_equal,
    "gelu": elementary.gelu,
    "greater": logic.greater,
    "greater_equal": logic.greater_equal,
    "gt": logic.greater,
    "hardsigmoid": elementary.hardsigmoid,
    "hardswish": elementary.hardswish,
    "hardtanh": elementary.hardtanh,
    "index_select": indexing.index_select,
    "inner": reductions.dot,
    "isfinite": logic.is_finite,
    "isinf": logic.is_inf,
    "isnan": logic.is_nan,
    "isneginf": logic.is_neginf,
    "isposinf": logic.is_posinf,
    "le": logic.less_equal,
    "leaky_relu": elementary.leaky_relu,
    "lerp": arithmetic.lerp,
    "less": logic.less,
    "less_equal": logic.less_equal,
    "logical_and": logic.logical_and,
    "logical_not": logic.logical_not,
    "logical_or": logic.logical_or,
    "logical_xor": logic.logical_xor,
    "lt": logic.less,
    "masked_fill": logic.masked_fill,
    "matmul": reductions.matmul,
    "max": reductions.max_of,
    "maximum": arithmetic.maximum,
    "mean": reductions.mean,
    "min": reductions.min_of,
    "minimum": arithmetic.minimum,
    "mish": elementary.mish,
    "mul": arithmetic.multiply,
    "multiply": arithmetic.multiply,
    "nan_to_num": logic.nan_to_num,
    "ne": logic.not_equal,
    "neg": arithmetic.negative,
    "negative": arithmetic.negative,
    "not_equal": logic.not_equal,
    "ones_like": conversion.ones_like,
    "permute": axes.permute,
    "positive": arithmetic.positive,
    "pow": arithmetic.power,
    "reciprocal": arithmetic.reciprocal,
    "relu": elementary.relu,
    "relu6": elementary.relu6,
    "remainder": arithmetic.remainder,
    "reshape": axes.reshape,
    "round": arithmetic.round_half_even,
    "rsub": arithmetic.rsub,
    "sign": arithmetic.sign,
    "silu": elementary.silu,
    "softplus": elementary.softplus,
    "square": arithmetic.square,
    "squeeze": axes.squeeze,
    "sub": arithmetic.subtract,
    "subtract": arithmetic.subtract,
    "sum": reductions.sum_of,
    "take": indexing.take,
    "threshold": elementary.threshold,
    "transpose": axes.transpose,
    "true_divide": arithmetic.divide,
    "trunc": arithmetic.trunc,
    "unsqueeze": axes.unsqueeze,
    "vdot": reductions.dot,
    "zeros_like": conversion.zeros_like,
}

# Functions whose method takes its arguments in another order, or does not exist.
_FUNCTIONS: dict[str, Rule] = {"where": logic.where}


def _of_dtype(dtype: torch.dtype) -> Rule:
    return lambda x: conversion.move(x, dtype)


# Methods and operators of tensors alone.
_METHODS: dict[str, Rule] = {
    "__add__": arithmetic.add,
    "__and__": logic.bitwise_and,
    "__eq__": logic.equal,
    "__floordiv__": arithmetic.floor_divide,
    "__ge__": logic.greater_equal,
    "__getitem__": indexing.getitem,
    "__gt__": logic.greater,
    "__le__": logic.less_equal,
    "__lshift__": logic.shift_left,
    "__lt__": logic.less,
    "__matmul__": reductions.matmul,
    "__mod__": arithmetic.remainder,
    "__mul__": arithmetic.multiply,
    "__ne__": logic.not_equal,
    "__or__": logic.bitwise_or,
    "__pow__": arithmetic.power,
    "__rshift__": logic.shift_right,
    "__sub__": arithmetic.subtract,
    "__truediv__": arithmetic.divide,
    "__xor__": logic.bitwise_xor,
    "bfloat16": _of_dtype(torch.bfloat16),
    "bool": _of_dtype(torch.bool),
    "byte": _of_dtype(torch.uint8),
    "char": _of_dtype(torch.int8),
    "contiguous": conversion.keep,
    "cpu": conversion.keep,
    "cuda": conversion.keep,
    "double": _of_dtype(torch.float64),
    "expand": axes.expand,
    "expand_as": axes.expand_as,
    "float": _of_dtype(torch.float32),
    "half": _of_dtype(torch.float16),
    "int": _of_dtype(torch.int32),
    "long": _of_dtype(torch.int64),
    "new_full": conversion.new_full,
    "new_ones": conversion.new_ones,
    "new_tensor": conversion.new_tensor,
    "new_zeros": conversion.new_zeros,
    "reshape_as": lambda x, other: axes.reshape(x, *other.shape),
    "short": _of_dtype(torch.int16),
    "to": conversion.move,
    "type": conversion.type_of,
    "type_as": conversion.type_as,
    "view": axes.reshape,
    "view_as": lambda x, other: axes.reshape(x, *other.shape),
    "where": logic.where_method,
}

METHODS: dict[str, Rule] = {**_RULES, **_METHODS}
"""What a traced value offers as a method, by name."""


def _by_function() -> dict[object, Rule]:
    """Every torch callable that has a rule."""
    table: dict[object, Rule] = {}
    for module in (torch.nn.functional, torch.special, torch):
        for name, rule in {**_RULES, **_FUNCTIONS}.items():
            if hasattr(module, name):
                table[getattr(module, name)] = rule
    for name, rule in METHODS.items():
        if hasattr(torch.Tensor, name):
            table[getattr(torch.Tensor, name)] = rule
    return table


_TABLE = _by_function()


def rule_for(torch_op: object) -> Rule:
    """The rule of a torch operation.

    Raises:
        UnsupportedOpError: It has none.
    """
    rule = user_rule(torch_op) or _TABLE.get(torch_op)
    if rule is not None:
        return rule
    operation = canonical(torch_op)
    if isinstance(operation, OpOverloadPacket):
        namespace, _, name = str(operation).partition(".")
        if namespace == "aten" and name in _ATEN:
            return _ATEN[name]
    raise refusal(torch_op)


_ATEN = {**_RULES, **_FUNCTIONS}


def refusal(torch_op: object) -> UnsupportedOpError:
    """The error for an operation without a rule."""
    name = op_name(torch_op)
    advice = advice_for(name.rpartition(".")[2])
    if advice is None:
        advice = (
            "write it with other operations, compute it outside the mod into a tensor that the mod indexes, "
            f"or give it a rule: saccade.register_rule({name}, lambda *args: ...)"
        )
    return UnsupportedOpError(f"{name} has no meaning in a mod: {advice}")
