"""How long block masks take to make, on the host's clock.

Ours is made of tensors it has not seen; torch's evaluates all pairs, on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask as torch_create_block_mask

from saccade.bench.contenders import Workload, mask_axes
from saccade.bench.gpu.cases import GpuCase
from saccade.bench.gpu.clock import Clock
from saccade.bench.gpu.peers import OURS
from saccade.bench.gpu.workloads import make_pattern
from saccade.bench.sizes import free_bytes
from saccade.bench.timing import Timing, time_in_turns
from saccade.block_mask import create_block_mask

__all__ = ["TORCH", "time_masks"]

TORCH = "torch"
"""Who makes the other mask."""

_BYTES_A_PAIR = 20  # of torch's evaluation
_SHARE = 0.7  # of the free memory


def time_masks(
    case: GpuCase, work: Workload, clock: Clock, device: torch.device, *, rounds: int
) -> dict[str, Timing]:
    """Time the making of a case's block mask.

    Args:
        case: What is measured.
        work: The same as mods and tensors.
        clock: Waits for the device; the time is the host's.
        device: Where the mods' tensors lie.
        rounds: Masks of each kind.

    Returns:
        Whose mask to times; torch's only where all pairs fit the memory, none without a mask.

    Example:
        >>> from saccade.bench.gpu.clock import HostClock
        >>> from saccade.bench.gpu.workloads import make_workload
        >>> case, cpu = GpuCase("document", 64, 16, 1, 2, 2), torch.device("cpu")
        >>> work = make_workload(case, cpu, torch.float32)
        >>> list(time_masks(case, work, HostClock(), cpu, rounds=1))
        ['saccade', 'torch']
    """
    mask_mod, size = work.mask_mod, work.size
    if mask_mod is None:
        return {}
    batch, heads = mask_axes(mask_mod, size)
    fresh = iter([make_pattern(case, device).mask_mod for _ in range(rounds + 1)])

    def ours() -> None:
        made = next(fresh)
        assert made is not None, "the pattern has a mask"
        create_block_mask(made, batch, heads, size.q_len, size.kv_len, device=device)
        clock.finish()

    # A plain function is the one kind of callable that every torch takes.
    def plain(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mask_mod(b, h, q_idx, kv_idx)

    def theirs() -> None:
        torch_create_block_mask(plain, batch, heads, size.q_len, size.kv_len, device=str(device))
        clock.finish()

    contenders: dict[str, Callable[[], object]] = {OURS: ours}
    free = free_bytes(device)
    pairs = size.q_len * size.kv_len * (batch or 1) * (heads or 1)
    if free is None or pairs * _BYTES_A_PAIR < _SHARE * free:
        contenders[TORCH] = theirs
    clock.finish()
    return time_in_turns(contenders, rounds=rounds)
