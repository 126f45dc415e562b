"""What a mod says at one moment: its program, its tensors as host arrays, and the block kinds that follow.

A mask is a snapshot of the tensors its mod read. This module does the reading; `watching` notices what
changes afterwards. Invariant: nothing here writes a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.analysis.classify import classify
from saccade.analysis.runs import Runs
from saccade.errors import ModError, UnsupportedError
from saccade.ir import interpret
from saccade.ir.program import Array, Program
from saccade.ir.structure import ModKind
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod
from saccade.tracing import trace

HostArray = npt.NDArray[Any]

_functorch = torch._C._functorch


def host_arrays(program: Program) -> tuple[HostArray, ...]:
    """Return every capture of a program as a numpy array, in slot order."""
    return tuple(host_array(capture) for capture in program.captures)


def host_array(array: Array) -> HostArray:
    """Return what an array or tensor holds, also where a transform of torch.func has wrapped it.

    Args:
        array: A numpy array, or a tensor on any device.

    Returns:
        The values, as `saccade.ir.interpret.host_array` gives them.

    Raises:
        UnsupportedError: The tensor differs from sample to sample of `torch.vmap`.

    Example:
        >>> torch.func.grad(lambda x: x.sum() * float(host_array(x)[0]))(torch.tensor([2.0, 3.0]))
        tensor([2., 2.])
    """
    if not isinstance(array, Tensor) or _functorch.peek_interpreter_stack() is None:
        return interpret.host_array(array)
    stored = array
    while _functorch.is_functorch_wrapped_tensor(stored):
        if _functorch.is_batchedtensor(stored):
            given = f"{str(array.dtype).removeprefix('torch.')}{list(array.shape)}"
            raise UnsupportedError(
                "expected a mask that every sample of torch.vmap shares, got one made from a tensor that "
                f"differs between samples ({given}); pass the mod as mask_mod= to flex_attention, or make "
                "the mask outside of vmap and let its batch stand for the samples"
            )
        stored = _functorch.get_unwrapped(stored)
    with torch._C._DisableFuncTorch():  # else the transform wraps what is made on the way
        return interpret.host_array(stored)


def mask_program(mask_mod: MaskMod, receiver: str) -> Program:
    """Trace a mask_mod that `receiver`, "create_block_mask()" say, was given.

    Raises:
        ModError: It is not callable, a factory passed uncalled, or a score_mod.
        TraceError: It cannot be read as a program.
    """
    require_mod(mask_mod, receiver)
    program = trace(mask_mod)
    if program.kind is not ModKind.MASK:
        raise ModError(
            f"{receiver} expects a mask_mod, a function of (b, h, q_idx, kv_idx) that returns a bool; "
            f"got the score_mod {getattr(mask_mod, '__name__', mask_mod)!r}; "
            "give it to flex_attention(score_mod=...)"
        )
    return program


def is_same_program(first: Program, second: Program) -> bool:
    """Whether two programs are equal in structure, numbers and the content of their captures."""
    if first.structure != second.structure or first.numbers != second.numbers:
        return False
    return all(
        _is_same_array(mine, yours) for mine, yours in zip(first.captures, second.captures, strict=True)
    )


def analyse(
    program: Program,
    captures: Sequence[HostArray],
    shape: tuple[int, int, int, int],
    block_size: tuple[int, int],
) -> Runs:
    """Classify every block of a mask program.

    Args:
        program: A MASK program.
        captures: Its captures as numpy arrays (`host_arrays`).
        shape: Batches, heads, queries and keys.
        block_size: Queries and keys a block.

    Returns:
        The block kinds. An axis of batches or heads that the program does not read is stored once.
    """
    batch, heads, q_len, kv_len = shape
    return classify(
        program.structure,
        captures,
        program.numbers,
        program.names,
        batch=batch if program.reads("b") else 1,
        heads=heads if program.reads("h") else 1,
        q_len=q_len,
        kv_len=kv_len,
        q_block=block_size[0],
        kv_block=block_size[1],
    )


def _is_same_array(first: Array, second: Array) -> bool:
    if first is second:
        return True
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.device != second.device:
            return False
        if _functorch.peek_interpreter_stack() is None:
            return torch.equal(first, second)
    return np.array_equal(host_array(first), host_array(second))
