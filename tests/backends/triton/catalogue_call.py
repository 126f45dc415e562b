"""One mod of the catalogue through the engine, against float64."""

from __future__ import annotations

from typing import Any

import torch

from backends.triton.calls import assert_as_the_oracle, draw
from catalogue import CATALOGUE, Sizes
from saccade import create_block_mask

__all__ = ["CASES", "check"]

CASES = {case.name: case for case in CATALOGUE}


def check(
    name: str, lengths: tuple[int, int], dtype: torch.dtype, form: str, options: dict[str, Any]
) -> None:
    """Hold results and all gradients of a case against the oracle's.

    Args:
        name: The case.
        lengths: Queries and keys.
        dtype: Of query, key and value.
        form: How a mask is given: "block_mask" or "mask_mod".
        options: The call's `kernel_options`.
    """
    case = CASES[name]
    if case.pairwise:
        lengths = (min(18, lengths[0]), min(33, lengths[1]))  # the oracle asks pair by pair
    batch, heads = 2 if case.reads_b else 1, 4 if case.reads_h else 2
    # The oracle asks the function itself, and torch would round what it makes of half-precision tables.
    mods = case.build(Sizes(*lengths, batch=batch, heads=heads, dtype=torch.float32))
    given: dict[str, Any] = {"score_mod": mods.score, "kernel_options": options}
    if mods.mask is not None and form == "block_mask":
        axes = (batch if case.reads_b else None, heads if case.reads_h else None)
        given[form] = create_block_mask(mods.mask, *axes, *lengths, device="cpu", BLOCK_SIZE=16)
    elif mods.mask is not None:
        given[form] = mods.mask
    assert_as_the_oracle(
        draw(*lengths, batch=batch, heads=heads, kv_heads=heads // 2, dtype=dtype),
        [given],
        learned=list(mods.learned.values()),
        pairwise=case.pairwise,
        mask=mods.mask if mods.plain_mask is None else mods.plain_mask,
        score=mods.score,
    )
