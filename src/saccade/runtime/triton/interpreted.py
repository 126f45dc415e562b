"""A kernel's text run on the CPU by triton's interpreter, program after program.

Its numbers and pointers get the types of the signature, as on a device: left to itself the interpreter takes
every small integer for 32 bits and every float for single precision, and would hide what overflows, or find
overflows that are none. Invariant: one kernel at a time, for the interpreter patches triton while it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from saccade.runtime.triton.devices import INTERPRETER
from saccade.runtime.triton.installed import triton_package
from saccade.runtime.triton.interpreted_bfloat16 import true_bfloat16

__all__ = ["InterpretedKernel"]

_one_at_a_time = threading.RLock()

_NUMPY_TYPES = {
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "fp16": np.float16,
    "fp32": np.float32,
    "fp64": np.float64,
}


@final
class InterpretedKernel:
    """A `Compiled` kernel that is interpreted.

    Args:
        name: The function's name.
        source: The file that holds its text.
        function: What `triton.jit` made of it.
        types: The signature's types, in the order of the parameters.
    """

    resources = None

    def __init__(self, name: str, source: Path, function: Any, types: Sequence[str]) -> None:
        self.name = name
        self.source = source
        self.target = INTERPRETER
        self._function = function
        self._types = tuple(types)

    def __repr__(self) -> str:
        return f"<InterpretedKernel {self.name}>"

    def is_loaded(self, device: torch.device) -> bool:
        """Nothing is loaded anywhere: True."""
        return True

    def launch(self, grid: int, arguments: Sequence[object], device: torch.device) -> None:
        """Run every program of the grid, one after another, and return when all are done."""
        typed = [_typed(value, type_) for value, type_ in zip(arguments, self._types, strict=True)]
        if grid:
            with _one_at_a_time, true_bfloat16():
                self._function[(grid,)](*typed)


def _typed(value: Any, type_: str) -> Any:
    """An argument as a device would get it; what the interpreter itself must move stays as it is."""
    if type_.startswith("*"):
        if value is None:
            return _scalar(0, np.uint64, type_)
        if isinstance(value, torch.Tensor) and value.device.type == "cpu":
            return _scalar(value.data_ptr(), np.uint64, type_)
        return value
    if type_.startswith("tensordesc"):
        return value
    return _scalar(value, _NUMPY_TYPES[type_], type_)


def _scalar(value: Any, dtype: Any, type_: str) -> Any:
    triton = triton_package()
    language = triton.language
    meant = language.str_to_ty(type_, None)
    handle = triton.runtime.interpreter.TensorHandle(np.array([value], dtype=dtype), meant)
    return language.tensor(handle, meant)
