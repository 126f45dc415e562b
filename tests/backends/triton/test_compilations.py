"""What compiles a kernel on a GPU, and what does not: lengths, windows and all numbers are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.triton.presence import require_triton
from codegen.triton.offline import record
from saccade import create_block_mask
from saccade.masks import causal, document, shift, sliding_window
from saccade.scores import alibi, softcap

TARGET = "cuda:90"


def draw(q_len: int, kv_len: int, *, batch: int = 1, heads: int = 8, kv_heads: int = 2) -> list[Tensor]:
    shapes = ((batch, heads, q_len, 64), (batch, kv_heads, kv_len, 64), (batch, kv_heads, kv_len, 64))
    return [torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def kernels(leaves: list[Tensor], **options: Any) -> set[tuple[object, ...]]:
    """All that the compilations of a call and its backward depend on."""
    require_triton()
    found = record(TARGET, leaves, **options)
    return {
        (each.text, *each.signature.items(), *each.divisible.items(), *sorted(each.options.items()))
        for each in found
    }


def test_a_growing_cache_is_decoded_by_the_same_kernels() -> None:
    cache = torch.zeros(1, 2, 5000, 64, dtype=torch.bfloat16)
    found = []
    for length in (1000, 1001, 2048, 4999):
        query = torch.zeros(1, 8, 1, 64, dtype=torch.bfloat16, requires_grad=True)
        part = cache[:, :, : length + 1]
        found.append(kernels([query, part, part], mask_mod=shift(causal, q=length)))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("others", [{}, {"batch": 3}, {"heads": 16, "kv_heads": 4}, {"heads": 12}], ids=str)
@pytest.mark.parametrize("lengths", [(1024, 1024), (1000, 1537), (4096, 8191)], ids=str)
def test_lengths_batches_and_heads(lengths: tuple[int, int], others: dict[str, int]) -> None:
    def of(lengths: tuple[int, int], **others: int) -> set[tuple[object, ...]]:
        blocks = create_block_mask(sliding_window(300), None, None, *lengths, device="cpu")
        options = {"score_mod": softcap(20.0), "block_mask": blocks, "kernel_options": {"SPLIT_KV": 1}}
        return kernels(draw(*lengths, **others), **options)

    assert of(lengths, **others) == of((2048, 2048))


MODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "window": lambda n: {"mask_mod": sliding_window(100 + n)},
    "documents": lambda n: {"mask_mod": document(lengths=[512 + n, 512 - n])},
    "softcap": lambda n: {"score_mod": softcap(20.5 + n)},
    "alibi": lambda n: {"score_mod": alibi(slopes=torch.full((8,), 0.1 * n))},
    "a number of one's own": lambda n: {"score_mod": lambda s, b, h, q, k: s * (n + 0.5) + (k - q) * 0.1 * n},
    "scale": lambda n: {"scale": 0.125 * n},
    "dropout": lambda n: {"dropout_p": 0.1 * n},
}


@pytest.mark.parametrize("mods", MODS)
def test_numbers(mods: str) -> None:
    leaves = draw(1024, 1024)
    assert kernels(leaves, **MODS[mods](2)) == kernels(leaves, **MODS[mods](3))


def test_another_mod_is_another_kernel() -> None:
    """So that what is compared above can differ."""
    leaves = draw(1024, 1024)
    assert kernels(leaves, mask_mod=causal) != kernels(leaves, mask_mod=sliding_window(100))
    assert kernels(leaves) != kernels(leaves, dropout_p=0.5)


def test_tensors_at_odd_addresses_have_kernels_of_their_own() -> None:
    """What is compiled for aligned ones would fault there."""
    around = torch.zeros(1, 8, 1024, 65, dtype=torch.bfloat16)
    odd = [around[..., 1:].requires_grad_(), *draw(1024, 1024)[1:]]
    assert kernels(odd).isdisjoint(kernels(draw(1024, 1024)))
