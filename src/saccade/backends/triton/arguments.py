"""The arguments of kernels by the names of their parameters: what the problem fixes, what operands bring.

Which names a kernel has, its source says; a value without a parameter is left out. Invariant: a tensor among
the arguments is one whose rows are consecutive elements and less than 2**23 elements apart, so that 32 bits
hold an offset inside a tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saccade.backends.storage import in_memory
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.codegen.program.which import Which
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.program import Array
from saccade.problem import AttentionProblem, ModFacts

__all__ = [
    "Capture",
    "Layout",
    "Values",
    "fill_captures",
    "fill_rows",
    "fill_seed",
    "fill_tensor",
    "fill_written",
    "template",
]

Values: TypeAlias = dict[str, object]
"""Arguments by parameter name."""

_PREFIX = {Which.MASK: "mask_", Which.MASK_MOD: "mask_mod_", Which.SCORE: "score_"}
_LABELS = {"grad_out": "the output's gradient", "grad_lse": "the gradient of lse"}
_STRIDES = {
    name: tuple(f"{name}_{axis}" for axis in ("b", "h", rows))
    for rows, names in {
        "q": ("query", "out", "grad_out", "grad_query"),
        "k": ("key", "value", "grad_key", "grad_value"),
    }.items()
    for name in names
}
_MOST_STRIDE = 2**23
_MOST_SPAN = 2**31 - 1  # elements, of what 32 bits count
_POINTER_BYTES, _STRIDE_ELEMENTS = 16, 8  # what `aligned` of a kernel's specification promises


def template(problem: AttentionProblem, mods: Mapping[Which, ModFacts]) -> Values:
    """Return all that the problem fixes: sizes, scale, dropout, programs' numbers and captures' sizes.

    Args:
        problem: The problem.
        mods: The facts of its programs.
    """
    values: Values = {
        "sinks": None,
        "batch": problem.batch,
        "kv_batch": problem.kv_batch,
        "q_heads": problem.q_heads,
        "kv_heads": problem.kv_heads,
        "group": problem.group_size,
        "q_len": problem.q_len,
        "kv_len": problem.kv_len,
        "scale": problem.scale,
    }
    if problem.dropout_p > 0.0:
        rate = keep_rate(problem.dropout_p)
        values["keep_threshold"] = drop_threshold(problem.dropout_p)
        values["keep_factor"] = 1.0 / rate if rate else 0.0
    for which, facts in mods.items():
        prefix = _PREFIX[which]
        for slot, shape in enumerate(facts.capture_shapes):
            values.update({f"{prefix}c{slot}_n{dim}": size for dim, size in enumerate(shape)})
        values.update({f"{prefix}n{slot}": number for slot, number in enumerate(facts.numbers)})
    return values


def fill_tensor(values: Values, name: str, tensor: Tensor) -> bool:
    """Put a tensor and its strides among the arguments; a copy where kernels cannot read it as it lies.

    Args:
        values: The arguments.
        name: The tensor's parameter; its strides have names that begin with it.
        tensor: `[batch, heads, rows, width]`.

    Returns:
        Whether its address and strides are multiples that allow loads of 16 bytes.

    Raises:
        OperandError: The tensor's storage ends before its last element.
    """
    first, second, third, last = tensor.stride()
    # As `in_memory` does, without a loop: this is asked of every tensor of every call.
    b, h, n, d = tensor.shape
    reach = (b - 1) * first + (h - 1) * second + (n - 1) * third + (d - 1) * last + 1
    held = tensor.untyped_storage().nbytes() // tensor.itemsize - tensor.storage_offset()
    far = third >= _MOST_STRIDE and n > 1
    if reach > held or last != 1 or far or tensor.is_neg() or not tensor.data_ptr():
        tensor = in_memory(tensor, _LABELS.get(name, name)).detach().resolve_neg().contiguous()
    return fill_written(values, name, tensor)


def fill_written(values: Values, name: str, tensor: Tensor) -> bool:
    """Put a tensor and its strides among the arguments as it lies, for kernels to write to.

    Args:
        values: The arguments.
        name: As in `fill_tensor`.
        tensor: `[batch, heads, rows, width]`, its rows consecutive elements; its rows may be far apart, for
            what counts places that are written has 64 bits.

    Returns:
        As `fill_tensor`.
    """
    first, second, third, last = tensor.stride()
    b, h, n, _ = tensor.shape
    assert last == 1, "a kernel writes rows of consecutive elements"
    # No step is taken along an axis of one.
    first, second, third = first if b > 1 else 0, second if h > 1 else 0, third if n > 1 else 0
    values[name] = tensor
    name_b, name_h, name_n = _STRIDES[name]
    values[name_b], values[name_h], values[name_n] = first, second, third
    return not (tensor.data_ptr() % _POINTER_BYTES or (first | second | third) % _STRIDE_ELEMENTS)


def fill_rows(values: Values, name: str, tensor: Tensor) -> None:
    """Put a tensor among the arguments that kernels read as a dense one of float32, on 16 bytes.

    Args:
        values: The arguments.
        name: Its parameter.
        tensor: The tensor.

    Raises:
        OperandError: The tensor's storage ends before its last element.
    """
    dense = in_memory(tensor.detach(), _LABELS.get(name, name))
    dense = dense.to(torch.float32).resolve_neg().contiguous()
    values[name] = dense.clone() if dense.data_ptr() % _POINTER_BYTES else dense


def fill_seed(values: Values, seed: Tensor) -> None:
    """Put the seed of dropout among the arguments, as two words of 32 bits that count as signed.

    Example:
        >>> values = {}
        >>> fill_seed(values, torch.tensor((5 << 32) + (1 << 32) - 1))
        >>> values
        {'seed_low': -1, 'seed_high': 5}
    """
    number = int(seed)
    values["seed_low"] = (number & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    values["seed_high"] = number >> 32


class Layout(NamedTuple):
    """How a captured array lies in memory, as far as code depends on it.

    Attributes:
        is_dense: Whether the elements of its last dimension are neighbours; True for one without dimensions.
        is_wide: Whether 32 bits may not hold a size, or an element's distance from the first.
        is_aligned: Whether its address and the strides that a kernel is given allow loads of 16 bytes.
    """

    is_dense: bool
    is_wide: bool
    is_aligned: bool

    @classmethod
    def of(cls, tensor: Tensor, strides: tuple[int, ...]) -> Layout:
        """Tell how a tensor lies that holds something.

        Args:
            tensor: It.
            strides: In elements, by dimension; 0 where no step is taken.
        """
        shape = tensor.shape
        is_dense = not strides or strides[-1] == 1 or shape[-1] == 1
        span = max([sum([(size - 1) * step for size, step in zip(shape, strides, strict=True)]), *shape])
        given, steps = strides[:-1] if is_dense else strides, 0
        for step in given:
            steps |= step
        is_aligned = not (tensor.data_ptr() % _POINTER_BYTES or steps % _STRIDE_ELEMENTS)
        return cls(is_dense, span > _MOST_SPAN, is_aligned)


class Capture(NamedTuple):
    """A captured array as a kernel reads it.

    Attributes:
        tensor: It, on the device; where it holds nothing, a single element that no step leaves.
        strides: In elements, by dimension; 0 where there is no step to take.
        layout: What code depends on of it.
    """

    tensor: Tensor
    strides: tuple[int, ...]
    layout: Layout

    @classmethod
    def of(cls, given: Array, device: torch.device) -> Capture:
        """Read a captured array.

        Args:
            given: A tensor on the device, a tensor of no dimension anywhere, or a numpy array.
            device: Where the kernel runs.

        Raises:
            OperandError: The tensor's storage ends before its last element.
            UnsupportedError: It is on the host, and a graph is captured.
        """
        if isinstance(given, Tensor):
            tensor = in_memory(given.detach(), "a tensor that a mod reads").resolve_neg()
            if tensor.device != device:
                _require_no_capture(device)
                # Without a copy from memory that the device would have to wait for.
                tensor = torch.full((), tensor.item(), dtype=tensor.dtype, device=device)
        else:
            _require_no_capture(device)
            tensor = _of_numpy(given, device)
        shape = tensor.shape
        if tensor.numel() == 0:
            # Its sizes are what an index is held against, however many elements they multiply to.
            is_wide = max(shape) > _MOST_SPAN
            return cls(tensor.new_zeros(1), (0,) * len(shape), Layout(False, is_wide, False))
        strides = tuple([step if size > 1 else 0 for size, step in zip(shape, tensor.stride(), strict=True)])
        return cls(tensor, strides, Layout.of(tensor, strides))


def _require_no_capture(device: torch.device) -> None:
    require_no_capture(
        device,
        "a mod reads an array in host memory, which a replay does not read again",
        f"move it to {device} before",
    )


def _of_numpy(given: Any, device: torch.device) -> Tensor:
    host = np.asarray(given)
    return torch.from_numpy(host.astype(host.dtype.newbyteorder("="), order="C")).to(device)


def fill_captures(values: Values, which: Which, captures: tuple[Capture, ...]) -> None:
    """Put the captures of a program among the arguments.

    Args:
        values: The arguments.
        which: The program.
        captures: Its captures, by slot.
    """
    prefix = _PREFIX[which]
    for slot, capture in enumerate(captures):
        values[f"{prefix}c{slot}"] = capture.tensor
        for dim, step in enumerate(capture.strides):
            values[f"{prefix}c{slot}_s{dim}"] = step
