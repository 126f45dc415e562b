"""Gradients of query, key and value in Triton's interpreter, against float64 autograd through the oracle."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from codegen.triton.backward_call import Backward, run_backward
from codegen.triton.kernel_process import KernelProcess
from saccade.block_mask import BlockMask, create_block_mask
from saccade.masks import causal, sliding_window


def leaf(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(
        shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64
    )
    return drawn.to(dtype).requires_grad_()


def operands(
    q_len: int = 37,
    kv_len: int = 45,
    *,
    batch: int = 1,
    kv_batch: int | None = None,
    heads: int = 2,
    kv_heads: int | None = None,
    dim: int = 16,
    value_dim: int = 16,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """A query, a key and a value."""
    kv_batch, kv_heads = kv_batch or batch, kv_heads or heads
    return (
        leaf(batch, heads, q_len, dim, seed=1, dtype=dtype),
        leaf(kv_batch, kv_heads, kv_len, dim, seed=2, dtype=dtype),
        leaf(kv_batch, kv_heads, kv_len, value_dim, seed=3, dtype=dtype),
    )


def masked(mod: object, q_len: int, kv_len: int, *, heads: int | None = None) -> BlockMask:
    return create_block_mask(mod, None, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=16)


def assert_right(process: KernelProcess, call: Backward) -> None:
    """Hold all gradients of a call against float64 ones."""
    dtype, leaves = call.query.dtype, call.leaves
    reference = oracle.attention(call.query, call.key, call.value, **call.mods)
    usual = low_precision.attention(call.query, call.key, call.value, **call.mods)
    lse = [each if call.with_lse else each.detach() for each in (reference.lse, usual[1])]
    exact = low_precision.gradients((reference.out, lse[0]), leaves, dtype)
    independent = low_precision.gradients((usual[0], lse[1]), leaves, dtype)
    # The weights that `gradients` draws.
    generator = torch.Generator().manual_seed(5)
    of_out, of_lse = (
        torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in (reference.out, lse[0])
    )
    of_lse = torch.where(reference.lse.isfinite(), of_lse, 0.0)
    found = run_backward(process, call, of_out.to(dtype), of_lse if call.with_lse else None)
    found = [mine.to(other.dtype) for mine, other in zip(found, independent, strict=True)]
    low_precision.assert_as_good(found, independent, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_pair_visible(interpreted, dtype):
    assert_right(interpreted, Backward(*operands(dtype=dtype)))


WANTED = [each for each in itertools.product((False, True), repeat=3) if any(each)]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_only_what_is_wanted(interpreted, wanted):
    mask = masked(causal, 37, 45)
    assert_right(interpreted, Backward(*operands(), block_mask=mask, wanted=wanted, with_lse=False))


@pytest.mark.parametrize("shape", [(16, 32), (37, 45), (1, 70), (40, 1)], ids=str)
def test_lengths_beside_tiles(interpreted, shape):
    q_len, kv_len = shape
    call = Backward(*operands(q_len, kv_len, dim=24, value_dim=40))
    assert_right(interpreted, call)
    assert_right(interpreted, replace(call, block_mask=masked(sliding_window(9), q_len, kv_len)))
    assert_right(interpreted, replace(call, mask_mod=causal))


def test_keys_through_descriptors(interpreted):
    call = Backward(*operands(dim=24, value_dim=40, batch=2, kv_batch=1), descriptors=True)
    assert_right(interpreted, replace(call, block_mask=masked(causal, 37, 45), wanted=(True, False, False)))


def test_a_mask_beside_a_block_mask(interpreted):
    def even(b, h, q, k):
        return (q + k + h) % 2 == 0

    assert_right(interpreted, Backward(*operands(), block_mask=masked(causal, 37, 45), mask_mod=even))


def test_blocks_that_differ_among_batches_and_heads(interpreted):
    mask = create_block_mask(by_head_and_batch, 2, 2, 37, 45, device="cpu", BLOCK_SIZE=16)
    assert_right(interpreted, Backward(*operands(batch=2), block_mask=mask))


def by_head_and_batch(b, h, q, k):
    return ((k <= q) & (h == 1)) | ((k > q + 4 * b) & (h == 0))


def test_given_blocks_are_the_truth(interpreted):
    counts, indices = torch.tensor([[[1, 2, 1]]]), torch.tensor([[[[1, 0], [0, 1], [1, 0]]]])
    full_counts, full_indices = torch.tensor([[[1, 0, 0]]]), torch.zeros(1, 1, 3, 2, dtype=torch.int64)
    mask = BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=(20, 24),
        mask_mod=causal,
        seq_lengths=(50, 45),
    )
    assert_right(interpreted, Backward(*operands(50, 45), block_mask=mask))


@pytest.mark.parametrize("kv_batch", [1, 2])
def test_keys_that_heads_and_batches_share(interpreted, kv_batch):
    call = Backward(*operands(20, 45, batch=2, kv_batch=kv_batch, heads=4, kv_heads=2))
    assert_right(interpreted, replace(call, block_mask=masked(causal, 20, 45)))


def test_sinks_join_lse(interpreted):
    assert_right(
        interpreted, Backward(*operands(), sinks=torch.tensor([1.5, float("-inf")]), mask_mod=causal)
    )


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("tile", [(16, 32), (32, 16)], ids=str)
def test_dropout_keeps_what_the_stream_says(interpreted, p, tile):
    call = Backward(*operands(20, 150, heads=2, kv_heads=1), dropout=(p, -(3 << 40) + 5), tile=tile)
    assert_right(interpreted, call)


def test_dropout_in_ranges_that_begin_anywhere(interpreted):
    mask = masked(sliding_window(20), 40, 70)
    assert_right(interpreted, Backward(*operands(40, 70), dropout=(0.3, 77), block_mask=mask))


def softcapped(score, b, h, q, k):
    return 4.0 * torch.tanh(score / 4.0) + 0.1 * (k - q)


def test_scores_that_a_mod_changes(interpreted):
    call = Backward(*operands(), score_mod=softcapped, mask_mod=causal)
    assert_right(interpreted, call)
    assert_right(interpreted, replace(call, mask_mod=None, block_mask=masked(causal, 37, 45)))


def wild_where_hidden(score, b, h, q, k):
    """NaN, infinities and slopes without end, but only at pairs after the query."""
    return torch.where(k <= q, score, score / (k - q - 1) * torch.sqrt(q - k))


def test_hidden_pairs_have_no_say(interpreted):
    for form in ({"mask_mod": causal}, {"block_mask": masked(causal, 37, 45)}):
        call = Backward(*operands(), **form)
        given = torch.randn(1, 2, 37, 16), torch.randn(1, 2, 37)
        expected = run_backward(interpreted, call, *given)
        found = run_backward(interpreted, replace(call, score_mod=wild_where_hidden), *given)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other)


def test_rows_that_see_nothing_have_no_gradient(interpreted):
    def late(b, h, q, k):
        return (q >= 7) & (q < 30) & (k <= q)

    def hidden_score(score, b, h, q, k):
        return torch.where(q < 9, float("-inf"), score)

    for call in (
        Backward(*operands(), block_mask=masked(late, 37, 45)),
        Backward(*operands(), mask_mod=late, sinks=torch.ones(2)),
        Backward(*operands(), score_mod=hidden_score),
    ):
        assert_right(interpreted, call)


def test_what_lse_receives_where_nothing_is_seen_is_not_looked_at(interpreted):
    call = Backward(*operands(), mask_mod=lambda b, h, q, k: (k <= q) & (q != 5))
    out, lse = torch.randn(1, 2, 37, 16), torch.zeros(1, 2, 37)
    plain = run_backward(interpreted, call, out, lse)
    lse[:, :, 5] = float("nan")
    for mine, other in zip(run_backward(interpreted, call, out, lse), plain, strict=True):
        assert other.isfinite().all()
        assert torch.equal(mine, other)
