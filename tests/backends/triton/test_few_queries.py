"""Few queries and many keys, of the GPU engine interpreted: keys shared among programs, results merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backends.triton.calls import assert_as_the_oracle, draw
from backends.triton.interpreted import interpreted
from saccade import create_block_mask
from saccade.masks import causal, shift, sliding_window

KV_LEN = 157
SPLITS = 3


def last_queries(mask: Any, q_len: int) -> Any:
    """The mask of the queries that stand at the end of the keys."""
    return shift(mask, q=KV_LEN - q_len)


@pytest.mark.parametrize("q_len", [1, 5])
@pytest.mark.parametrize("walk", ["everything", "mask_mod", "block_mask"])
@pytest.mark.parametrize("splits", [1, SPLITS, 40])
@interpreted
def test_splits_are_merged(splits: int, walk: str, q_len: int) -> None:
    """More of them than tiles of keys, too; sinks join once."""
    mask = None if walk == "everything" else last_queries(causal, q_len)
    form: dict[str, Any] = {"kernel_options": {"SPLIT_KV": splits}}
    if walk == "mask_mod":
        form["mask_mod"] = mask
    elif walk == "block_mask":
        form["block_mask"] = create_block_mask(mask, None, None, q_len, KV_LEN, device="cpu", BLOCK_SIZE=16)
    sinks = torch.randn(4, requires_grad=True)
    assert_as_the_oracle(
        [*draw(q_len, KV_LEN), sinks], [{"sinks": sinks, **form}], mask=mask, sinks=sinks
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [(8, 1), (6, 2), (2, 2)], ids=str)
@interpreted
def test_a_score_and_a_window_of_grouped_heads(heads: tuple[int, int], dtype: torch.dtype) -> None:
    """Most splits see nothing."""
    window = last_queries(sliding_window(20), 2)
    blocks = create_block_mask(window, None, None, 2, KV_LEN, device="cpu", BLOCK_SIZE=16)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - 0.05 * (h + 1) * (q_idx - kv_idx).abs()

    leaves = draw(2, KV_LEN, batch=2, heads=heads[0], kv_heads=heads[1], dtype=dtype)
    forms = [{"score_mod": score, "block_mask": blocks, "kernel_options": {"SPLIT_KV": SPLITS}}]
    assert_as_the_oracle(leaves, forms, mask=window, score=score)


@interpreted
def test_rows_that_see_nothing_in_any_split() -> None:
    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (h % 2 == 0) & (q_idx == 1) & (kv_idx > 100)

    forms: list[dict[str, Any]] = [
        {"mask_mod": mask, "kernel_options": {"SPLIT_KV": SPLITS}},
        {
            "block_mask": create_block_mask(mask, None, 4, 3, KV_LEN, device="cpu", BLOCK_SIZE=16),
            "kernel_options": {"SPLIT_KV": SPLITS},
        },
    ]
    assert_as_the_oracle(draw(3, KV_LEN), forms, mask=mask)
