"""Shapes and strides of the GPU engine interpreted: dimensions, lengths, head groups, shared keys, tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backends.triton.calls import assert_as_the_oracle, attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade import create_block_mask
from saccade.masks import causal, sliding_window


@pytest.mark.parametrize(
    ("dim", "value_dim"),
    [(8, 8), (16, 24), (40, 8), (64, 72), (72, 64), (128, 16), (192, 128), (200, 136), (256, 256)],
)
@interpreted
def test_head_dimensions_are_padded_in_registers(dim: int, value_dim: int) -> None:
    leaves = draw(17, 35, heads=2, kv_heads=1, dim=dim, value_dim=value_dim)
    assert_as_the_oracle(leaves, [{"mask_mod": causal}], mask=causal)


@pytest.mark.parametrize("lengths", [(1, 1), (40, 1), (1, 40), (70, 9), (16, 32), (33, 65)], ids=str)
@pytest.mark.parametrize("walk", ["everything", "mask_mod", "block_mask"])
@interpreted
def test_lengths(walk: str, lengths: tuple[int, int]) -> None:
    window = sliding_window(11)
    form: dict[str, Any] = {"mask_mod": window}
    if walk == "everything":
        window, form = None, {}
    elif walk == "block_mask":
        form = {"block_mask": create_block_mask(window, None, None, *lengths, device="cpu", BLOCK_SIZE=16)}
    assert_as_the_oracle(draw(*lengths, heads=2, kv_heads=1), [form], mask=window)


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0)], ids=str)
@interpreted
def test_nothing_asked_or_nothing_to_see(lengths: tuple[int, int]) -> None:
    leaves = draw(*lengths)
    out, lse, _ = attend(leaves)
    assert out.shape == (1, 4, lengths[0], 8)
    assert not out.any()
    assert (lse == -torch.inf).all()
    assert not any(each.any() for each in gradients((out, lse), leaves))


@pytest.mark.parametrize("heads", [(3, 1), (6, 2), (8, 1), (5, 5)], ids=str)
@pytest.mark.parametrize("q_len", [7, 37], ids=["packed", "more"])
@interpreted
def test_head_groups(q_len: int, heads: tuple[int, int]) -> None:
    """Few queries of the heads of a group share a tile; of three heads, some of its rows stay empty."""

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - 0.1 * h * (q_idx - kv_idx).abs()

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx + 20 - 2 * h >= kv_idx

    blocks = create_block_mask(mask, None, heads[0], q_len, 41, device="cpu", BLOCK_SIZE=16)
    forms: list[dict[str, Any]] = [
        {"score_mod": score, "mask_mod": mask},
        {"score_mod": score, "block_mask": blocks},
    ]
    leaves = draw(q_len, 41, heads=heads[0], kv_heads=heads[1])
    assert_as_the_oracle(leaves, forms, mask=mask, score=score)


@pytest.mark.parametrize("q_len", [3, 35])
@interpreted
def test_keys_that_batches_share(q_len: int) -> None:
    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx < 20 + 9 * b

    blocks = create_block_mask(mask, 3, None, q_len, 43, device="cpu", BLOCK_SIZE=16)
    leaves = draw(q_len, 43, batch=3, kv_batch=1)
    assert_as_the_oracle(leaves, [{"mask_mod": mask}, {"block_mask": blocks}], mask=mask)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (1, 3, 0, 2), (3, 2, 1, 0)], ids=str)
@interpreted
def test_any_order_of_dimensions_in_memory(order: tuple[int, ...]) -> None:
    """Where the last is not dense, tensors are copied; the output lies as the query, its last one dense."""
    back = sorted(range(4), key=order.__getitem__)
    leaves = [
        each.detach().permute(order).contiguous().permute(back).requires_grad_()
        for each in draw(19, 35, batch=2)
    ]
    assert_as_the_oracle(leaves, [{"mask_mod": causal}], mask=causal)
    out, _, _ = attend(leaves, mask_mod=causal)
    orders = [sorted(range(3), key=each.stride().__getitem__) for each in (out, leaves[0])]
    assert orders[0] == orders[1]
    assert out.stride(-1) == 1


@interpreted
def test_parts_of_larger_tensors_at_odd_addresses() -> None:
    """No address and no stride is a multiple of anything; a negative stride torch has not."""
    leaves = []
    for each in draw(19, 35):
        batch, heads, length, width = each.shape
        around = torch.full((batch, heads + 1, length + 2, width + 5), torch.nan)
        inner = around[:, 1:, 1 : length + 1, 3 : width + 3]
        inner.copy_(each.detach())
        leaves.append(inner.requires_grad_())
    assert_as_the_oracle(leaves, [{"mask_mod": causal}], mask=causal)


@interpreted
def test_expanded_inputs_and_gradients() -> None:
    """Heads that are one in memory; and the gradient of a sum, which is one number in memory."""
    query, key, value = (each.detach() for each in draw(19, 35, heads=4, kv_heads=1))
    shared = [key.expand(1, 2, 35, 24).requires_grad_(), value.expand(1, 2, 35, 8).requires_grad_()]
    assert_as_the_oracle([query.requires_grad_(), *shared], [{"mask_mod": causal}], mask=causal)
    out, _, _ = attend([query, *shared], mask_mod=causal)
    summed = torch.autograd.grad(out.sum(), query, retain_graph=True)
    torch.testing.assert_close(summed, torch.autograd.grad(out, query, torch.ones_like(out)))


@pytest.mark.parametrize("tile", [(16, 16), (32, 16), (16, 64), (64, 64), (128, 16)], ids=str)
@interpreted
def test_results_do_not_depend_on_tiles(tile: tuple[int, int]) -> None:
    rows, keys = tile
    tiles = {
        f"BLOCK_{axis}{which}": size for axis, size in (("M", rows), ("N", keys)) for which in ("", 1, 2)
    }
    blocks = create_block_mask(causal, None, None, 40, 70, device="cpu", BLOCK_SIZE=32)
    bias = torch.randn(70, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + bias[q_idx] * bias[kv_idx]

    forms: list[dict[str, Any]] = [
        {"score_mod": score, "kernel_options": tiles, **mask}
        for mask in ({"block_mask": blocks}, {"mask_mod": causal})
    ]
    leaves = draw(40, 70, heads=2, kv_heads=1)
    assert_as_the_oracle(leaves, forms, learned=[bias], mask=causal, score=score)
