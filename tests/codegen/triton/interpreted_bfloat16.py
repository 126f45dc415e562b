"""bfloat16 as it is, in Triton's interpreter.

The interpreter holds bfloat16 as 16-bit integers. Some of its products multiply those integers, and what it
rounds to bfloat16 it cuts; both are mended here by torch's conversions.
"""

from __future__ import annotations

from typing import Any


def mend() -> None:
    """Replace the interpreter's products and conversions of bfloat16, in this process."""
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply, convert = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(handle: Any) -> Any:
        bits = torch.from_numpy(np.ascontiguousarray(handle.data).view(np.int16))
        return TensorHandle(bits.view(torch.bfloat16).float().numpy(), tl.float32)

    def rounded(handle: Any) -> Any:
        near = torch.from_numpy(np.ascontiguousarray(handle.data)).to(torch.bfloat16)
        return TensorHandle(near.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        a, b = (widened(one) if one.dtype.scalar == tl.bfloat16 else one for one in (a, b))
        return multiply(self, a, b, *others)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16 and to.scalar == tl.float32:
            return widened(source)
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            return rounded(source)
        return convert(self, source, to)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl
