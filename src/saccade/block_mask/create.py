"""From a mod to its mask: `create_block_mask` by analysis, `create_mask` element by element.

Owns the two public functions and the checks of their arguments. How a mod is read is `tracing`'s, what
follows from it is `analysis`'s.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saccade.block_mask.arguments import block_size, checked_lengths, exact_device
from saccade.block_mask.mask import BlockMask
from saccade.block_mask.pairs import dense_program
from saccade.block_mask.snapshot import analyse, host_arrays, mask_program
from saccade.block_mask.uncompiled import uncompiled
from saccade.block_mask.watching import watch
from saccade.errors import MaskAxisError, UnsupportedError
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod, Mod
from saccade.tracing import trace

__all__ = ["create_block_mask", "create_mask"]

_DEFAULT_SPARSE_BLOCK_SIZE = 128  # torch's name for it, which code written for torch imports


@uncompiled
def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: torch.device | str | int | None = None,
    BLOCK_SIZE: int | tuple[int, int] = _DEFAULT_SPARSE_BLOCK_SIZE,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
    *,
    Q_BLOCK_SIZE: int | None = None,
    KV_BLOCK_SIZE: int | None = None,
) -> BlockMask:
    """Work out which blocks of the score matrix a mask shows, in part or in full.

    The mod is read once and analysed over whole rectangles of queries and keys, so the time grows with the
    mask's outline and not with Q × K: a causal mask of a million tokens takes milliseconds. Make it once and
    use it in every layer. The names and their order are those of
    `torch.nn.attention.flex_attention.create_block_mask`.

    Args:
        mask_mod: A function of ``(b, h, q_idx, kv_idx)`` that is True where the query may see the key, or a
            mask of `saccade.masks`.
        B: Batch size; None for one mask shared by every batch entry.
        H: Number of query heads; None for one mask shared by every head.
        Q_LEN: Number of queries.
        KV_LEN: Number of keys.
        device: Where the index tensors (`kv_indices` and its kin) are handed out; by default the machine's
            accelerator, or else the CPU. The analysis runs on the host in any case.
        BLOCK_SIZE: Tokens a block: one number, or (queries, keys). Any size from 1 on.
        _compile: Accepted for compatibility; without effect, as nothing here needs compiling.
        separate_full_blocks: Whether torch's tensors list FULL blocks apart, as `full_kv_indices`. What the
            mask means, and how fast it runs, is the same either way.
        compute_dq_write_order: Not offered; must be False.
        dq_kv_order: Accepted for compatibility; belongs to `compute_dq_write_order`.
        Q_BLOCK_SIZE: Takes precedence over BLOCK_SIZE for queries.
        KV_BLOCK_SIZE: Takes precedence over BLOCK_SIZE for keys.

    Returns:
        The mask, of shape ``(B or 1, H or 1, Q_LEN, KV_LEN)``.

    Raises:
        ModError: `mask_mod` is not callable, a factory passed uncalled, or a score_mod.
        TraceError: `mask_mod` cannot be read as a program.
        MaskAxisError: It reads `b` and B is None, or `h` and H is None.
        ArgumentError: A size is negative, or a block or axis empty.
        ArgumentTypeError: A size is not an integer.
        IndexOutOfRangeError: It indexes a tensor out of range where that decides the mask of a pair.
        DivisionByZeroError: It divides by zero where that decides the mask of a pair.
        UnsupportedError: `compute_dq_write_order` is set, or the mod reads a tensor that differs from
            sample to sample of `torch.vmap`.

    Example:
        >>> def causal(b, h, q_idx, kv_idx):
        ...     return q_idx >= kv_idx
        >>> mask = create_block_mask(causal, None, None, 1024, 1024, device="cpu")
        >>> mask
        BlockMask(causal, shape=(1, 1, 1024, 1024), blocks of 128×128: 28 empty, 8 partial, 28 full)
        >>> mask.sparsity()
        43.75
        >>> mask.visible_pairs()
        524800
    """
    if compute_dq_write_order:
        raise UnsupportedError(
            "compute_dq_write_order=True is not offered: it serves one CUDA kernel's backward pass; "
            "leave it out, Saccade's gradients are deterministic without it"
        )
    shape = checked_lengths(B, H, Q_LEN, KV_LEN)
    q_block, kv_block = block_size(BLOCK_SIZE, Q_BLOCK_SIZE, KV_BLOCK_SIZE)
    program = mask_program(mask_mod, "create_block_mask()")
    _require_axes(program, B, H, "create_block_mask()")
    captures = host_arrays(program)
    batch, heads, q_len, kv_len = shape
    return BlockMask(
        runs=analyse(program, captures, shape, (q_block, kv_block)),
        program=program,
        mask_mod=mask_mod,
        batch=batch,
        heads=heads,
        q_len=q_len,
        kv_len=kv_len,
        q_block=q_block,
        kv_block=kv_block,
        device=exact_device(device),
        separate_full_blocks=separate_full_blocks,
        watched=watch(program, mask_mod),
    )


@uncompiled
def create_mask(
    mod_fn: Mod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: torch.device | str | int | None = None,
) -> Tensor:
    """Evaluate a mod at every pair.

    For looking at a mod, and for code that wants a dense mask; attention itself never needs one.

    Args:
        mod_fn: A mask_mod, or a score_mod: it shows the pairs for which it turns a score of 0 into anything
            but −inf.
        B: Batch size; None for 1.
        H: Number of query heads; None for 1.
        Q_LEN: Number of queries.
        KV_LEN: Number of keys.
        device: Where the result lies; by default the machine's accelerator, or else the CPU.

    Returns:
        bool tensor ``[B, H, Q_LEN, KV_LEN]``, True where the query may see the key.

    Raises:
        ModError: `mod_fn` is not callable, or a factory passed uncalled.
        TraceError: `mod_fn` cannot be read as a program.
        MaskAxisError: It reads `b` and B is None, or `h` and H is None.
        ArgumentError: A size is negative, or an axis empty.
        ArgumentTypeError: A size is not an integer.
        IndexOutOfRangeError: It indexes a tensor out of range at some pair, and the result depends on it.
        DivisionByZeroError: It divides by zero at some pair, and the result depends on it.
        UnsupportedError: It reads a tensor that differs from sample to sample of `torch.vmap`.

    Example:
        >>> create_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, 2, 3, device="cpu").int()
        tensor([[[[1, 0, 0],
                  [1, 1, 0]]]], dtype=torch.int32)
    """
    require_mod(mod_fn, "create_mask()")
    shape = checked_lengths(B, H, Q_LEN, KV_LEN)
    program = trace(mod_fn)
    _require_axes(program, B, H, "create_mask()")
    is_score = program.kind is ModKind.SCORE
    stored = (shape[0] if program.reads("b") else 1, shape[1] if program.reads("h") else 1, *shape[2:])
    visible = np.empty(stored, dtype=np.bool_)
    score = (np.float32(0),) if is_score else ()
    for b, h, strip, value in dense_program(program, host_arrays(program), stored, score):
        visible[b, h, strip] = ~np.isneginf(value) if is_score else value
    return torch.from_numpy(visible).to(exact_device(device)).expand(shape).contiguous()


def _require_axes(program: Program, batch: int | None, heads: int | None, receiver: str) -> None:
    for variable, size, axis, noun in (
        ("b", batch, "B", "batch size"),
        ("h", heads, "H", "number of query heads"),
    ):
        if size is None and program.reads(variable):
            raise MaskAxisError(
                f"{receiver}: the mod reads {variable!r}, so its mask differs along {axis}, "
                f"but {axis}=None asks for one mask shared by all; pass the {noun}"
            )
