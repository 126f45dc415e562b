"""bfloat16 as it is, in triton's interpreter.

The interpreter holds bfloat16 as 16-bit integers. Left to itself it multiplies those integers in `tl.dot`,
cuts float32 to bfloat16 instead of rounding it, and widens subnormal numbers wrong: nothing raises, and
results are garbage. While a kernel of ours runs, products and conversions go through torch's. Arithmetic in
bfloat16 itself, of which our kernels have none, stays triton's. Invariant: where no kernel of ours runs,
triton is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from saccade.runtime.triton.installed import triton_package

__all__ = ["true_bfloat16"]

_Handle: TypeAlias = Any
"""A `TensorHandle` of the interpreter: a numpy array, and triton's type of it."""


@contextmanager
def true_bfloat16() -> Iterator[None]:
    """Have the interpreter compute with bfloat16 numbers; for one thread at a time."""
    builder = triton_package().runtime.interpreter.InterpreterBuilder
    own = {name: getattr(builder, name) for name in _MENDED}
    for name, mended in _MENDED.items():
        setattr(builder, name, mended(own[name]))
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(builder, name, method)


def _multiplying(multiply: Any) -> Any:
    bfloat16 = triton_package().language.bfloat16

    def create_dot(self: Any, a: _Handle, b: _Handle, *others: Any) -> _Handle:
        a, b = (_widened(one) if one.dtype.scalar == bfloat16 else one for one in (a, b))
        return multiply(self, a, b, *others)

    return create_dot


def _converting(convert: Any) -> Any:
    language = triton_package().language
    wide, narrow = language.float32, language.bfloat16

    def cast_impl(self: Any, source: _Handle, to: Any) -> _Handle:
        types = (source.dtype.scalar, to.scalar)
        if types == (narrow, wide):
            return _widened(source)
        return _rounded(source) if types == (wide, narrow) else convert(self, source, to)

    return cast_impl


_MENDED = {"create_dot": _multiplying, "cast_impl": _converting}


def _widened(handle: _Handle) -> _Handle:
    """The numbers of a bfloat16 handle in float32, which holds them all."""
    bits = torch.from_numpy(_copied(handle).view(np.int16))
    return _handle(bits.view(torch.bfloat16).float().numpy(), "float32")


def _rounded(handle: _Handle) -> _Handle:
    """The numbers of a float32 handle in bfloat16: the nearest, of two the even one."""
    nearest = torch.from_numpy(_copied(handle)).to(torch.bfloat16)
    return _handle(nearest.view(torch.int16).numpy().view(np.uint16), "bfloat16")


def _copied(handle: _Handle) -> Any:
    # Of an array that may not be written to torch would warn.
    return np.array(handle.data, order="C")


def _handle(data: Any, type_: str) -> _Handle:
    triton = triton_package()
    return triton.runtime.interpreter.TensorHandle(data, getattr(triton.language, type_))
