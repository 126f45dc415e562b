"""Every kernel of the GPU engine compiled without a GPU, as it is launched: it fits, and registers suffice.

For Ampere, Hopper and Blackwell, with the tiles that the engine chooses and the alignment that its launches
have, in bfloat16. `test_offline_variants` has other types, mods and tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from backends.triton.presence import require_triton
from codegen.triton.offline import Recorded, record, resources_of
from saccade import create_block_mask
from saccade.masks import causal
from saccade.runtime.triton import Resources, Target

TARGETS = ("cuda:80", "cuda:90", "cuda:100")
DIMS = (64, 128, 256)
LENGTH = 2048
MOST_REGISTERS = 255  # of a thread, on all of these


def draw(dim: int, *, q_len: int = LENGTH, kv_len: int = LENGTH, kv_heads: int = 8) -> list[Tensor]:
    shapes = ((1, 8, q_len, dim), (1, kv_heads, kv_len, dim), (1, kv_heads, kv_len, dim))
    return [torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def attending(target: str, dim: int) -> list[Recorded]:
    """A causal mask, differentiated."""
    blocks = create_block_mask(causal, None, None, LENGTH, LENGTH, device="cpu")
    return record(target, draw(dim), block_mask=blocks, kernel_options={"SPLIT_KV": 1})


def decoding(target: str, dim: int) -> list[Recorded]:
    """Few queries of grouped heads, many keys."""
    leaves = draw(dim, q_len=1, kv_len=16384, kv_heads=2)
    return record(target, leaves, backward_too=False)


def learning(target: str, dim: int) -> list[Recorded]:
    """A bias whose gradient is stored directly, and one summed by keys."""
    length = 1024
    of_pairs = torch.zeros(8, length, length, requires_grad=True)
    of_keys = torch.zeros(length, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + of_pairs[h, q_idx, kv_idx] + of_keys[kv_idx]

    blocks = create_block_mask(causal, None, None, length, length, device="cpu")
    leaves = draw(dim, q_len=length, kv_len=length)
    return record(target, leaves, score_mod=score, block_mask=blocks)


KERNELS: dict[str, tuple[Callable[[str, int], list[Recorded]], str]] = {
    "forward": (attending, "attend"),
    "delta": (attending, "delta_rows"),
    "query_gradient": (attending, "query_gradient"),
    "key_gradient": (attending, "key_gradient"),
    "split": (decoding, "attend_split"),
    "combine": (decoding, "combine"),
}
LEARNING = ("query_gradient", "key_gradient")

# Bytes of a thread, where a tile holds more than its registers do: numbers that move once for a tile or a
# range, and smaller tiles would read keys more often. What is not here spills nothing.
SPILLS = {
    ("forward", "cuda:80", 64): 48,
    ("forward", "cuda:80", 128): 48,
    ("forward", "cuda:100", 128): 128,
    ("forward", "cuda:100", 256): 384,
    ("split", "cuda:80", 256): 16,
    ("split", "cuda:90", 256): 16,
    ("split", "cuda:100", 128): 16,
    ("query_gradient", "cuda:90", 256): 192,
    ("key_gradient", "cuda:90", 256): 64,
}
# A bias and its gradient have an address for each pair, beside the four tiles of a gradient.
LEARNING_SPILLS = 1024


@cache
def recorded(calls: Callable[[str, int], list[Recorded]], target: str, dim: int) -> dict[str, Recorded]:
    return {each.name: each for each in calls(target, dim)}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_compiles_and_fits(kernel: str, target: str, dim: int) -> None:
    require_triton()
    calls, name = KERNELS[kernel]
    use = used(recorded(calls, target, dim)[name], target)
    assert use.spills <= SPILLS.get((kernel, target, dim), 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", LEARNING)
def test_with_the_gradients_of_captured_tensors(kernel: str, target: str) -> None:
    require_triton()
    source = recorded(learning, target, 64)[kernel]
    assert any(name.startswith("sum") for name in source.signature)
    assert used(source, target).spills <= LEARNING_SPILLS


def used(source: Recorded, target: str) -> Resources:
    """What a kernel uses of a card, held against what the card has."""
    use, limit = resources_of(source), Target.parse(target).shared_limit
    assert limit is not None
    assert use.shared_bytes <= limit
    assert use.registers <= MOST_REGISTERS
    return use


def test_no_kernel_is_left_out() -> None:
    """What the calls compile is what is compiled above."""
    require_triton()
    for calls in (attending, decoding):
        assert set(recorded(calls, "cuda:90", 64)) == {name for of, name in KERNELS.values() if of is calls}
    assert set(LEARNING) <= set(recorded(learning, "cuda:90", 64))
