"""The drawing of a mask, cell by cell."""

from __future__ import annotations

import pytest

from saccade import masks
from saccade.block_mask import create_block_mask
from saccade.block_mask.render import grid_text, mask_text, steps
from saccade.errors import ArgumentError


def test_exact_drawing() -> None:
    mask = create_block_mask(masks.causal, None, None, 10, 16, "cpu", 4)
    assert str(mask) == (
        "BlockMask(shape=(1, 1, 10, 16), sparsity=40.00%, \n(0, 0)\n░░      \n██░░    \n████░░\n)"
    )
    assert mask.to_string() == "(0, 0)\n░░      \n██░░    \n████░░  \n"


def test_sections_are_full_only_when_all_their_blocks_are() -> None:
    mask = create_block_mask(masks.causal, None, None, 80, 80, "cpu", 1)
    assert mask.to_string(4) == "(0, 0)\n░░      \n██░░    \n████░░  \n██████░░\n"
    assert mask.to_string((2, 8)) == "(0, 0)\n██░░░░░░        \n████████████░░░░\n".replace(
        "██░░░░░░  ", "░░░░░░░░  "
    ).replace("████████████░░░░", "████████░░░░░░░░")
    assert len(mask.to_string(-1).splitlines()) == 81
    assert len(mask.to_string((-1, 4)).splitlines()[1]) == 8


def test_batches_and_heads_up_to_the_limit() -> None:
    mask = create_block_mask(lambda b, h, q, k: k // 2 == b + h, 2, 3, 2, 8, "cpu", 2)
    assert mask.to_string(limit=6) == "\n".join(
        f"({b}, {h})\n{'  ' * (b + h)}██{'  ' * (3 - b - h)}\n" for b in range(2) for h in range(3)
    )
    assert mask.to_string(limit=1).splitlines()[3:] == [
        "...",
        "To print out more, set BlockMask.to_string(limit=N)",
        "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
    ]


def test_repr_counts_blocks() -> None:
    mask = create_block_mask(masks.sliding_window(6), 2, None, 12, 12, "cpu", 4)
    assert repr(mask) == (
        "BlockMask(sliding_window(6), shape=(2, 1, 12, 12), blocks of 4×4: 6 empty, 12 partial, 0 full)"
    )


def test_text_of_sections() -> None:
    assert grid_text([]) == ""
    assert mask_text([((0, 1), [[2, 0]])], omitted=False) == "(0, 1)\n██  \n"
    assert steps((3, -1), (10, 10)) == (4, 1)


@pytest.mark.parametrize("grid_size", [0, -2, (4, 0)])
def test_grid_size_is_checked(grid_size: int | tuple[int, int]) -> None:
    mask = create_block_mask(masks.causal, None, None, 8, 8, "cpu", 4)
    with pytest.raises(ArgumentError, match="grid_size must be a positive number, a pair"):
        mask.to_string(grid_size)
