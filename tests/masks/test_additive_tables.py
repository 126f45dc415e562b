"""A floating table given to `dense` hides where its entry is at most half the lowest number of its dtype."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import oracle
from saccade import create_block_mask, flex_attention, trace
from saccade.block_mask import BlockMask
from saccade.masks import causal, dense
from saccade.scores import bias

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BACKENDS = ("cpu", "eager")


def penalties(*shape: int, dtype: torch.dtype = torch.float32, hidden: float = 0.4) -> torch.Tensor:
    """Small penalties, and the lowest number or -inf at some of the pairs; row 3 is hidden whole."""
    generator = torch.Generator().manual_seed(sum(shape))
    table = torch.randn(shape, generator=generator).to(dtype)
    chance = torch.rand(shape, generator=generator)
    table = table.masked_fill(chance < hidden, torch.finfo(dtype).min).masked_fill(chance < 0.1, -torch.inf)
    table[..., 3, :] = torch.finfo(dtype).min
    return table


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_the_lowest_number_hides_and_the_next_above_does_not(dtype):
    limit = torch.tensor(torch.finfo(dtype).min / 2, dtype=dtype)
    above = torch.nextafter(limit, torch.zeros_like(limit))
    lowest = torch.finfo(dtype).min
    table = torch.tensor([[0.0, -0.0, lowest, -torch.inf, torch.inf, torch.nan]], dtype=dtype)
    table = torch.cat([table, limit.view(1, 1), above.view(1, 1)], dim=1)
    expected = torch.tensor([[True, True, False, False, True, True, False, True]])
    made = oracle.visible_pairs(dense(table), 1, 1, 1, 8)[0, 0]
    assert torch.equal(made, expected)
    # As read by the tracer and by the analysis, and pair by pair.
    assert torch.equal(create_block_mask(dense(table), 1, 1, 1, 8, device="cpu").to_bool()[0, 0], expected)
    assert torch.equal(oracle.visible_pairs(dense(table), 1, 1, 1, 8, pairwise=True)[0, 0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_backend_hides_what_an_additive_table_hides(dtype, backend):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 37, 8, dtype=torch.float64).to(torch.float32)
    table = penalties(2, 1, 37, 37, dtype=dtype)
    expected = oracle.attention(query, key, value, mask=dense(table), score=bias(table)).out
    block_mask = create_block_mask(dense(table), 2, None, 37, 37, device="cpu", BLOCK_SIZE=16)
    for mask in ({"mask_mod": dense(table)}, {"block_mask": block_mask}):
        out = flex_attention(query, key, value, score_mod=bias(table), backend=backend, **mask)
        assert not out[:, :, 3].any()
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_a_table_reaches_the_output_of_its_row_alone(backend):
    query, key, value = torch.randn(3, 1, 1, 8, 4)
    table = penalties(8, 8)
    table[5, 2] = torch.nan
    out = flex_attention(query, key, value, score_mod=bias(table), mask_mod=dense(table), backend=backend)
    assert out[0, 0].isnan().any(dim=-1).nonzero().tolist() == [[5]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_learned_table_is_mask_and_bias(backend):
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 2, 12, 8, requires_grad=True) for _ in range(3))
    table = penalties(2, 12, 12).requires_grad_()
    leaves = [query, key, value, table]
    out = flex_attention(query, key, value, score_mod=bias(table), mask_mod=dense(table), backend=backend)
    made = torch.autograd.grad(out.square().sum(), leaves)
    expected = oracle.attention(query, key, value, mask=dense(table), score=bias(table)).out
    exact = torch.autograd.grad(expected.square().sum(), leaves)
    for one, other in zip(made, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not made[3][dense(table.detach()).table <= -1e38].any()  # hidden pairs have no say


def test_a_learned_table_is_mask_and_bias_under_transforms_and_compilers():
    query, key, value = torch.randn(3, 1, 2, 12, 8)
    table = penalties(12, 12).requires_grad_()

    def loss(table):
        return flex_attention(query, key, value, score_mod=bias(table), mask_mod=dense(table)).square().sum()

    (expected,) = torch.autograd.grad(loss(table), table)
    torch.testing.assert_close(torch.func.grad(loss)(table.detach()), expected)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*torch.autograd.grad(compiled(table), table), expected)


def test_a_learned_table_is_read_as_it_is_now():
    table = torch.zeros(2, 2, requires_grad=True)
    mask = dense(table)
    with torch.no_grad():
        table[0, 1] = -torch.inf
    assert torch.equal(
        oracle.visible_pairs(mask, 1, 1, 2, 2)[0, 0], torch.tensor([[True, False], [True] * 2])
    )
    assert not trace(mask).captures[0].requires_grad
    assert mask.table is table


def kinds(mask: BlockMask) -> np.ndarray:
    """[rows, columns] of 0 empty, 1 partial, 2 full, by evaluating every block's pairs."""
    pairs = mask.to_bool()[0, 0].unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).transpose(1, 2)
    return (pairs.flatten(2).any(-1).int() + pairs.flatten(2).all(-1).int()).numpy()


def test_empty_and_full_blocks_of_an_additive_table_are_found():
    table = torch.full((1024, 1024), -0.5).masked_fill(~torch.ones(1024, 1024).tril().bool(), -torch.inf)
    table[512:, :512] = torch.finfo(torch.float32).min
    mask = create_block_mask(dense(table), None, None, 1024, 1024, device="cpu")
    half = np.tri(4, dtype=int) * 2 - np.eye(4, dtype=int)
    expected = np.block([[half, np.zeros((4, 4), int)], [np.zeros((4, 4), int), half]])
    assert np.array_equal(kinds(mask), expected)
    full = torch.zeros(8, 8, dtype=torch.int32)
    for row in range(8):
        full[row, mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].long()] = 1
    assert np.array_equal(full.numpy() * 2, np.where(expected == 2, 2, 0))
    assert mask.to_dense()[0, 0].int().tolist() == (expected > 0).astype(int).tolist()
    assert (mask.to_bool()[0, 0] == (table > -1e38)).all()


def test_an_expanded_table_is_not_enlarged():
    row = torch.zeros(3, 1, 1, 64)
    row[1, ..., 40:] = torch.finfo(torch.float32).min
    table = row.expand(3, 4, 4096, 64)
    mask = dense(table)
    (captured,) = trace(mask).captures
    assert captured.untyped_storage().nbytes() == row.untyped_storage().nbytes()
    assert len(pickle.dumps(mask)) < 4096
    again = pickle.loads(pickle.dumps(mask))
    assert again.table.stride() == table.stride()
    assert again == mask


def test_an_additive_table_combines_with_other_masks():
    table = torch.zeros(6, 6).masked_fill(torch.arange(6) == 2, -torch.inf)
    made = oracle.visible_pairs(causal & dense(table), 1, 1, 6, 6)[0, 0]
    assert torch.equal(made, torch.ones(6, 6).tril().bool() & (torch.arange(6) != 2))
