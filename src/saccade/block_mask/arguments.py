"""What a mask is made with, checked and made plain: lengths, batch, heads, blocks and the device."""

from __future__ import annotations

import operator

import torch

from saccade.errors import ArgumentError, ArgumentTypeError

_SINGLE = ("cpu", "meta")  # kinds of device that have no number


def checked_lengths(B: int | None, H: int | None, Q_LEN: int, KV_LEN: int) -> tuple[int, int, int, int]:
    """Return batches, heads, queries and keys; a batch or head count of None is 1.

    Raises:
        ArgumentTypeError: One is not an integer.
        ArgumentError: A length is negative, or the batch or the number of heads less than 1.
    """
    batch = 1 if B is None else whole_number("B", B, 1)
    heads = 1 if H is None else whole_number("H", H, 1)
    return batch, heads, whole_number("Q_LEN", Q_LEN, 0), whole_number("KV_LEN", KV_LEN, 0)


def block_size(
    both: int | tuple[int, int], queries: int | None = None, keys: int | None = None
) -> tuple[int, int]:
    """Return queries and keys a block; `queries` and `keys` go before `both`.

    Raises:
        ArgumentTypeError: `both` is neither an integer nor a pair of them.
        ArgumentError: A size is less than 1.
    """
    if isinstance(both, (tuple, list)):
        if len(both) != 2:
            raise ArgumentTypeError(f"BLOCK_SIZE must be an integer or a pair (queries, keys), got {both!r}")
        q_block, kv_block = both
    else:
        q_block = kv_block = both
    q_name = "BLOCK_SIZE" if queries is None else "Q_BLOCK_SIZE"
    kv_name = "BLOCK_SIZE" if keys is None else "KV_BLOCK_SIZE"
    return (
        whole_number(q_name, q_block if queries is None else queries, 1),
        whole_number(kv_name, kv_block if keys is None else keys, 1),
    )


def exact_device(device: torch.device | str | int | None) -> torch.device:
    """Return a device with its number, as tensors name theirs; None is the accelerator, or else the CPU."""
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    named = torch.device("cpu" if device is None else device)
    if named.type in _SINGLE or ":" in str(named):
        return named
    return torch.empty(0, device=named).device


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as a plain integer.

    Raises:
        ArgumentTypeError: It is none.
        ArgumentError: It is less than `least`.
    """
    # bool is an int to Python, and True for a length is a slip.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    number = operator.index(value)
    if number < least:
        raise ArgumentError(f"{name} must be at least {least}, got {name}={number}")
    return number
