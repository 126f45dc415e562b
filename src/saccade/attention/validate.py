"""Checks of what `flex_attention` is given, before any work; each says what was expected and given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.ir.program import Program

__all__ = [
    "require_captures_on",
    "require_choice",
    "require_dense",
    "require_dropout",
    "require_no_grad",
    "require_scale",
    "require_shapes",
    "require_sinks",
    "require_types",
]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_dense(**tensors: object) -> None:
    """Check that arguments are tensors of four dimensions.

    Raises:
        ArgumentTypeError: One is no tensor.
        ShapeError: One has not four dimensions.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ArgumentTypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
        if tensor.dim() != 4:
            raise ShapeError(
                f"{name} must have four dimensions [batch, heads, length, head_dim], got "
                f"shape={list(tensor.shape)}; "
                "add the missing ones with unsqueeze"
            )


def require_types(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Check that the three have one floating dtype and one device.

    Raises:
        DTypeError: They have not, or an unusable dtype.
        ArgumentError: They lie on different devices.
    """
    if not query.dtype == key.dtype == value.dtype:
        raise DTypeError(
            "query, key and value must have one dtype, got "
            f"query.dtype={query.dtype}, key.dtype={key.dtype}, value.dtype={value.dtype}; convert with "
            ".to(query.dtype)"
        )
    if query.dtype not in _DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise DTypeError(
            f"query, key and value must be of dtype {known}, got {query.dtype}; convert with .to(...)"
        )
    if not query.device == key.device == value.device:
        raise ArgumentError(
            "query, key and value must be on one device, got "
            f"query.device={query.device}, key.device={key.device}, value.device={value.device}; move with "
            ".to(query.device)"
        )


def require_shapes(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    """Check that shapes `[B, Hq, Q, D]`, `[B or 1, Hkv, K, D]` and `[B or 1, Hkv, K, Dv]` fit together.

    Raises:
        ShapeError: They do not.
    """
    # Each shape is read once: torch makes a new object at every look.
    q_shape, k_shape, v_shape = query.shape, key.shape, value.shape
    batch, q_heads, _, head_dim = q_shape
    kv_batch, kv_heads, kv_len, key_dim = k_shape
    value_batch, value_heads, value_len, value_dim = v_shape
    if head_dim != key_dim:
        raise ShapeError(
            "query and key must have the same head dimension (their last), got "
            f"query.shape={list(q_shape)} and key.shape={list(k_shape)}; only the value's may differ"
        )
    if not (head_dim and value_dim):
        name, shape = ("value", v_shape) if head_dim else ("query", q_shape)
        raise ShapeError(f"{name} must have a head dimension of 1 or more, got shape={list(shape)}")
    if kv_batch != value_batch or kv_heads != value_heads or kv_len != value_len:
        raise ShapeError(
            "key and value must agree in batch, heads and length, got "
            f"key.shape={list(k_shape)} and value.shape={list(v_shape)}"
        )
    _require_heads(q_heads, kv_heads, enable_gqa)
    if kv_batch not in (batch, 1):
        raise ShapeError(
            "key and value must have the batch size of the query, or 1 to serve every batch, got "
            f"query.shape={list(q_shape)} and key.shape={list(k_shape)}"
        )


def _require_heads(q_heads: int, kv_heads: int, enable_gqa: bool) -> None:
    if q_heads == 0 or kv_heads == 0:
        raise ShapeError(f"query and key must have 1 head or more, got Hq={q_heads} and Hkv={kv_heads}")
    if q_heads == kv_heads:
        return
    if not enable_gqa:
        raise ShapeError(
            f"query and key must have the same number of heads, got Hq={q_heads} and Hkv={kv_heads}; "
            "pass enable_gqa=True to let groups of query heads share a key head"
        )
    if q_heads % kv_heads:
        raise ShapeError(
            f"the number of query heads must be a multiple of that of key heads, got Hq={q_heads} and "
            f"Hkv={kv_heads}"
        )


def require_scale(scale: object) -> None:
    """Check that the scale is None or a finite number.

    Raises:
        ArgumentTypeError: It is no number.
        ArgumentError: It is infinite or NaN.
    """
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, (Real, torch.SymFloat)):
        raise ArgumentTypeError(
            f"scale must be a number or None, got {type(scale).__name__}; pass float(scale), or multiply in "
            "a score_mod "
            "what should differ by head or want a gradient"
        )
    if not math.isfinite(scale):
        raise ArgumentError(f"scale must be finite, got scale={scale}; leave it out for 1/sqrt(head_dim)")


def require_dropout(dropout_p: object) -> None:
    """Check that dropout_p is a probability.

    Raises:
        ArgumentTypeError: It is no number.
        ArgumentError: It is outside [0, 1].
    """
    if type(dropout_p) is float and 0.0 <= dropout_p <= 1.0:
        return  # asking for a kind of number takes longer
    if isinstance(dropout_p, bool) or not isinstance(dropout_p, Real):
        raise ArgumentTypeError(
            f"dropout_p must be a number, got {type(dropout_p).__name__}; pass 0.0 for no dropout"
        )
    if not 0.0 <= float(dropout_p) <= 1.0:
        raise ArgumentError(
            f"dropout_p must be in [0, 1], the part of weights to drop, got dropout_p={dropout_p}"
        )


def require_sinks(sinks: object, query: Tensor) -> None:
    """Check that sinks are one floating number a query head, where the query is.

    Raises:
        ArgumentTypeError: They are no tensor.
        ShapeError: They are not `[Hq]`.
        DTypeError: They are not floating.
        ArgumentError: They are on another device.
    """
    if sinks is None:
        return
    if not isinstance(sinks, Tensor):
        raise ArgumentTypeError(f"sinks must be a torch tensor or None, got {type(sinks).__name__}")
    if sinks.shape != query.shape[1:2]:
        raise ShapeError(
            f"sinks must have one entry a query head, shape [{query.shape[1]}], got shape={list(sinks.shape)}"
        )
    if sinks.dtype not in _DTYPES:
        raise DTypeError(
            f"sinks must be of a floating dtype, got {sinks.dtype}; convert with .to({query.dtype})"
        )
    if sinks.device != query.device:
        raise ArgumentError(
            f"sinks must be on the query's device, got sinks.device={sinks.device} and "
            f"query.device={query.device}; "
            "move with .to(query.device)"
        )


def require_captures_on(device: torch.device, program: Program, argument: str) -> None:
    """Check that the tensors a mod reads are where the query is; 0-d ones may be on the host.

    Raises:
        ArgumentError: One is not.
    """
    for slot, capture in enumerate(program.captures):
        if isinstance(capture, Tensor) and capture.dim() and capture.device != device:
            name = program.names[slot] if slot < len(program.names) else f"capture {slot}"
            raise ArgumentError(
                f"{argument} must read tensors on the query's device, got {name}.device={capture.device} and "
                f"query.device={device}; move it with .to(query.device)"
            )


def require_no_grad(program: Program, argument: str) -> None:
    """Check that no gradient is wanted for a tensor that a mask reads.

    Raises:
        ArgumentError: One requires a gradient, and gradients are being recorded.
    """
    if not torch.is_grad_enabled():
        return
    for slot, capture in enumerate(program.captures):
        if isinstance(capture, Tensor) and capture.requires_grad:
            name = program.names[slot] if slot < len(program.names) else f"capture {slot}"
            raise ArgumentError(
                f"{argument} must read tensors without a gradient, got {name}.requires_grad=True: a pair is "
                f"visible or not, and nothing in between tells how that should change; read "
                f"{name}.detach(), or, for it to learn, change scores with it in score_mod"
            )


def require_choice(argument: str, given: object, choices: Sequence[str]) -> None:
    """Check that an argument is one of some names.

    Raises:
        ArgumentError: It is not; the message lists them.
    """
    if given not in choices:
        raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {given!r}")
