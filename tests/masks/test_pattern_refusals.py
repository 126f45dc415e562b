"""What the masks from papers refuse, with what was expected, what was given and what to do."""

from __future__ import annotations

import pytest
import torch

from saccade.block_mask import create_block_mask
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    IndexOutOfRangeError,
    ModError,
    ShapeError,
)
from saccade.masks import (
    block_diffusion,
    build_seq_idx,
    causal,
    chunked,
    create_njt_wrapper,
    dilated_window,
    global_tokens,
    image_cross_attention,
    image_intervals,
    jagged,
    local_2d,
    natten,
    random_blocks,
    shared_prefix,
    sliding_tile,
    streaming,
    strided,
    token_order,
    tree,
)

INTS, FLOATS, BOOLS = torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])

NUMBERS = [
    (lambda n: chunked(n), 1, "chunked(): size"),
    (lambda n: streaming(n, 1), 1, "streaming(): window"),
    (lambda n: streaming(1, n), 0, "streaming(): first"),
    (lambda n: dilated_window(n, 1, 1), 0, "dilated_window(): left"),
    (lambda n: dilated_window(1, n, 1), 0, "dilated_window(): right"),
    (lambda n: dilated_window(1, 1, n), 1, "dilated_window(): dilation"),
    (lambda n: strided(n), 1, "strided(): stride"),
    (lambda n: global_tokens(n), 0, "global_tokens(): tokens"),
    (lambda n: random_blocks(n, 1, 0), 1, "random_blocks(): length"),
    (lambda n: random_blocks(8, n, 0), 1, "random_blocks(): block"),
    (lambda n: random_blocks(8, 1, n), 0, "random_blocks(): number"),
    (lambda n: block_diffusion(n, 1), 1, "block_diffusion(): length"),
    (lambda n: block_diffusion(8, n), 1, "block_diffusion(): block"),
    (lambda n: tree([-1], n), 0, "tree(): context"),
    (lambda n: shared_prefix(n, [1]), 0, "shared_prefix(): prefix"),
    (lambda n: local_2d((n, 4), 1), 1, "local_2d(): canvas"),
    (lambda n: local_2d((4, 4), (1, n)), 0, "local_2d(): window"),
    (lambda n: sliding_tile((4, n), 1, 1), 1, "sliding_tile(): canvas"),
    (lambda n: sliding_tile(4, n, 1), 1, "sliding_tile(): tile"),
    (lambda n: sliding_tile(4, 1, n), 1, "sliding_tile(): window"),
    (lambda n: natten(4, 1, order="tiled", tile=n), 1, "natten(): tile"),
    (lambda n: token_order(n, "row"), 1, "token_order(): canvas"),
    (lambda n: image_cross_attention([[0, 1]], n), 0, "image_cross_attention(): image_lengths"),
]


@pytest.mark.parametrize(("make", "minimum", "what"), NUMBERS, ids=[row[2] for row in NUMBERS])
def test_a_number_too_small_or_no_integer_is_refused(make, minimum, what):
    what = what.replace("(", r"\(").replace(")", r"\)")
    make(minimum)
    with pytest.raises(ArgumentError, match=f"{what} must be at least {minimum}, got {minimum - 1}"):
        make(minimum - 1)
    with pytest.raises(ArgumentTypeError, match=f"{what} must be an integer, got float 1.5"):
        make(1.5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: random_blocks(8, 2, 1, 0.5), ArgumentTypeError, "seed must be an integer, got float 0.5"),
        (
            lambda: random_blocks(9, 2, 6),
            ArgumentError,
            r"number must not exceed the 5 blocks of 2 in length=9, got number=6; lower it",
        ),
        (
            lambda: global_tokens(INTS),
            DTypeError,
            r"a bool tensor, True = global, got dtype=torch.int64",
        ),
        (lambda: global_tokens(BOOLS[0]), ShapeError, r"tokens must be \[S\] or \[B, S\], got shape=\[\]"),
        (lambda: tree([0]), ArgumentError, r"before its child, got parents\[0\]=0; number the nodes"),
        (lambda: tree([-1, -2]), ArgumentError, r"must be -1 \(a root\).*got parents\[1\]=-2"),
        (lambda: tree([-1, 2, 0]), ArgumentError, r"a node before its child, got parents\[1\]=2"),
        (lambda: tree([-1.0]), DTypeError, r"tree\(\): parents must be of an integer dtype.*float32"),
        (lambda: tree(INTS[None]), ShapeError, r"tree\(\): parents must have one axis, got shape=\[1, 2\]"),
        (lambda: tree([-1], FLOATS), DTypeError, r"tree\(\): context must be of an integer dtype.*float32"),
        (lambda: tree([-1], INTS[None]), ShapeError, r"tree\(\): context must be a number for all"),
        (
            lambda: shared_prefix(1, [2, -1]),
            ArgumentError,
            r"shared_prefix\(\): lengths must be 0 or more, got lengths=\[2, -1\]",
        ),
        (lambda: shared_prefix(1, FLOATS), DTypeError, r"shared_prefix\(\): lengths must be of an integer"),
        (lambda: shared_prefix(1, INTS[None]), ShapeError, r"shared_prefix\(\): lengths must have one axis"),
        (
            lambda: local_2d((4, 4, 4), 1),
            ArgumentError,
            r"must be \(height, width\), got canvas=\(4, 4, 4\)",
        ),
        (lambda: local_2d((1, 2, 3, 4), 1), ArgumentError, r"local_2d\(\): canvas must have 1 to 3 axes"),
        (lambda: local_2d((4, 4), (1,)), ArgumentError, r"local_2d\(\): window must have a number for each"),
        (lambda: sliding_tile((), 1, 1), ArgumentError, r"sliding_tile\(\): canvas must have 1 to 3 axes"),
        (lambda: sliding_tile((4, 4), (2,), 1), ArgumentError, "tile must have a number for each of the 2"),
        (
            lambda: sliding_tile((4, 4), 2, (1,)),
            ArgumentError,
            "window must have a number for each of the 2",
        ),
        (
            lambda: sliding_tile((4, 6), 4, 1),
            ArgumentError,
            r"tile must divide the canvas.*got canvas=\(4, 6\), tile=\(4, 4\); pad the canvas",
        ),
        (
            lambda: sliding_tile((4, 6), 2, 3),
            ArgumentError,
            r"counts tiles and must not exceed the \(2, 3\) of the canvas, got window=\(3, 3\); lower it",
        ),
        (
            lambda: natten(4, 1, order="column"),
            ArgumentError,
            r"natten\(\): order must be 'row', 'tiled' or 'morton', got order='column'",
        ),
        (
            lambda: natten(4, 1, order="tiled"),
            ArgumentError,
            "tile goes with order='tiled' and that needs it, got order='tiled' with tile=None; give both",
        ),
        (lambda: natten(4, 1, tile=2), ArgumentError, "got order='row' with tile=2; give both or neither"),
        (
            lambda: natten((4, 6), 1, order="morton"),
            ArgumentError,
            r"needs powers of two for the canvas, got canvas=\(4, 6\); use order='tiled'",
        ),
        (lambda: token_order((4, 6), "tiled", (2, 4)), ArgumentError, r"token_order\(\): tile must divide"),
        (
            lambda: jagged(causal, [1, 2]),
            ArgumentError,
            r"jagged\(\): offsets must start at 0.*\[1, 2\]",
        ),
        (
            lambda: jagged(causal, [0, 3, 2]),
            ArgumentError,
            r"never fall.*got offsets=\[0, 3, 2\]; for",
        ),
        (lambda: jagged(causal, []), ArgumentError, r"must start at 0.*offsets=\[\]"),
        (lambda: jagged(causal, FLOATS), DTypeError, r"jagged\(\): offsets must be of an integer dtype"),
        (lambda: jagged(causal, INTS[None]), ShapeError, r"jagged\(\): offsets must have one axis"),
        (
            lambda: jagged(causal, [0, 2], [0, 1, 2]),
            ArgumentError,
            "kv_offsets must tell as many sequences as offsets, got 2 and 1; repeat an offset",
        ),
        (lambda: jagged(causal, [0, 2], [2]), ArgumentError, r"jagged\(\): kv_offsets must start at 0"),
        (lambda: jagged(3, [0, 2]), ModError, r"jagged\(\) expects mods.*got the int 3"),
        (lambda: build_seq_idx([1, 2]), ArgumentError, r"build_seq_idx\(\): offsets must start at 0"),
        (
            lambda: create_njt_wrapper(causal, [0, 2], torch.tensor([0, 1])),
            ArgumentError,
            r"seq_idx must be that of offsets, 2 numbers, got shape=\[2\]; make it with build_seq_idx",
        ),
        (
            lambda: create_njt_wrapper(causal, [0, 2], torch.tensor([0])),
            ArgumentError,
            r"2 numbers, got shape=\[1\]",
        ),
        (
            lambda: image_cross_attention([[0, 1]], [1, 2]),
            ArgumentError,
            "a number for each of the 1 intervals, got 2; give an int where all are equal",
        ),
        (
            lambda: image_cross_attention([[0, 1]], [-1]),
            ArgumentError,
            r"image_lengths must be 0 or more, got image_lengths=\[-1\]",
        ),
        (
            lambda: image_cross_attention([[0, 1], [2]], 1),
            ShapeError,
            r"intervals must be pairs, got \[\[0, 1\], \[2\]\]; give \[first, stop\]",
        ),
        (
            lambda: image_cross_attention([[0, 1, 2]], 1),
            ShapeError,
            r"intervals must be \[images, 2\], got shape=\[1, 3\]; give \[first, stop\]",
        ),
        (lambda: image_cross_attention(INTS, 1), ShapeError, r"must be \[images, 2\], got shape=\[2\]"),
        (lambda: image_cross_attention(FLOATS[None], 1), DTypeError, "intervals must be of an integer dtype"),
        (lambda: image_cross_attention([[0, 1.5]], 1), DTypeError, "got dtype=torch.float32; give token"),
        (lambda: image_cross_attention([[0, 1]], FLOATS), DTypeError, "image_lengths must be of an integer"),
        (
            lambda: image_intervals(FLOATS, 1),
            DTypeError,
            r"image_intervals\(\): tokens must be of an int",
        ),
        (
            lambda: image_intervals(INTS[None], 1),
            ShapeError,
            r"image_intervals\(\): tokens must have one a",
        ),
    ],
)
def test_an_argument_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "q_len", "kv_len"),
    [
        (jagged(causal, [0, 3, 8]), 9, 8),
        (jagged(causal, [0, 3, 8]), 8, 9),
        (random_blocks(8, 2, 1), 9, 8),
        (tree([-1, 0, 1], context=2), 3, 6),
        (tree([-1, 0, 1]), 4, 3),
        (image_cross_attention([[0, 4]], 3), 4, 4),
        (shared_prefix(2, [3]), 6, 6),
    ],
    ids=repr,
)
def test_positions_that_a_mask_does_not_know_are_refused(mask, q_len, kv_len):
    with pytest.raises(IndexOutOfRangeError, match=r"has \d entries in dimension 0, got index \d.* at \(b=0"):
        create_block_mask(mask, 1, 1, q_len, kv_len)
