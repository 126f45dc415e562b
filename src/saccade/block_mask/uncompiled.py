"""Functions that torch.compile leaves to Python: those that work out a mask from what tensors hold.

Invariant: nothing here loads torch's compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])

_REASON = (
    "it makes a block mask from what tensors hold, which a graph does not know; "
    "make the mask before, outside the compiled part, and pass it in"
)
_frames = torch._C._dynamo.eval_frame


def uncompiled(function: _Function) -> _Function:
    """Mark a function so that under `torch.compile` it, and all it calls, runs as plain Python.

    A graph ends where the function is called; with `fullgraph=True` Dynamo refuses the call and gives our
    reason. The marks are those that `torch.compiler.disable` rests on, which itself would load the compiler.

    Args:
        function: A Python function.

    Returns:
        The same function.
    """
    assert isinstance(function, FunctionType)
    marked: Any = function
    marked._torchdynamo_disable = True  # Dynamo does not follow a call from a function that it compiles
    marked._torchdynamo_disable_msg = _REASON
    if hasattr(_frames, "set_code_exec_strategy"):  # a torch that names it otherwise compiles what it calls
        skip = _frames._FrameAction.SKIP
        _frames.set_code_exec_strategy(function.__code__, _frames._FrameExecStrategy(skip, skip))
    return function
