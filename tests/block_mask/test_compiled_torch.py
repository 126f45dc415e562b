"""torch's compiled flex_attention on a CPU, on our masks and on its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import oracle
from saccade import masks
from saccade.backends.flex import has_cpp_compiler
from saccade.block_mask import create_block_mask
from saccade.signatures import MaskMod

LENGTH = 300  # the last block is cut
BLOCK = 64


def padded(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Causal over a length for each batch entry; later rows see nothing."""
    length = 200 - 90 * b
    return (q_idx >= kv_idx) & (q_idx < length) & (kv_idx < length)


# One of comparisons alone, one that reads a tensor, one that is a user's function and reads the batch.
PATTERNS: dict[str, tuple[MaskMod, int | None]] = {
    "window": (masks.sliding_window(100), None),
    "documents": (masks.causal & masks.document(lengths=[70, 130, 100]), None),
    "padding": (padded, 2),
}


@pytest.fixture(scope="module")
def compiled() -> Callable[..., Tensor]:
    """One compiled function for all patterns, as a model has."""
    return torch.compile(torch_flex.flex_attention, fullgraph=True)


# Torch takes some seconds to compile each pattern.
@pytest.mark.skipif(not has_cpp_compiler(), reason="torch's flex_attention on a CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which differ from release to release
@pytest.mark.parametrize("name", PATTERNS)
def test_our_masks_give_the_results_of_torchs_own(compiled: Callable[..., Tensor], name: str) -> None:
    mod, batch = PATTERNS[name]

    def plain(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(b, h, q_idx, kv_idx)

    query, key, value = torch.randn(3, 2, 2, LENGTH, 16)
    theirs = torch_flex.create_block_mask(plain, batch, None, LENGTH, LENGTH, "cpu", BLOCK)
    ours = create_block_mask(mod, batch, None, LENGTH, LENGTH, "cpu", BLOCK).to_torch()
    with torch.no_grad():
        with_theirs = compiled(query, key, value, block_mask=theirs)
        with_ours = compiled(query, key, value, block_mask=ours)
    assert torch.equal(with_ours, with_theirs)
    # And both are attention under this mask.
    reference = oracle.attention(query, key, value, mask=mod)
    torch.testing.assert_close(with_ours, reference.out.float())
