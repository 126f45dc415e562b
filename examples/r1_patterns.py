# %% [markdown]
"""
# Patterns of attention

The best known patterns, each written in a line, checked against attention computed the long way, and drawn on
one sheet:

    python examples/r1_patterns.py

leaves the sheet in `out/r1_patterns.png`.
"""

# %%
from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saccade import (
    BlockMask,
    Mask,
    MaskMod,
    ScoreMod,
    alibi,
    causal,
    checkerboard,
    create_block_mask,
    document,
    flex_attention,
    image_cross_attention,
    image_intervals,
    local_2d,
    natten,
    noop_mask,
    prefix_lm,
    sliding_window,
    softcap,
)
from saccade.bench import test_mask
from saccade.masks import jagged
from saccade.viz import Panel, contact_sheet, save_figure

torch.manual_seed(0)
console = Console(highlight=False)


# %% [markdown]
# ## A mask is a function
#
# It is told the batch entry, the head and the positions of a query and a key, and says whether the one may
# see the other. The library's own are written in the same way, and can be combined: `causal` is this
# function.


# %%
def past(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Let a query see the keys up to its own position."""
    return q_idx >= kv_idx


def blocks(mask: MaskMod, q_len: int, kv_len: int | None = None) -> BlockMask:
    """The blocks of a mask that is the same in every batch entry and head."""
    return create_block_mask(mask, None, None, q_len, kv_len or q_len, device="cpu")


print(blocks(past, 1024))
assert torch.equal(blocks(past, 1024).to_bool(), blocks(causal, 1024).to_bool())

# %% [markdown]
# ## Six masks, at the sizes they are known for
#
# With 128 × 128 tokens, stand-alone self-attention (SASA) sees 8 pixels to each side, and neighbourhood
# attention (NATTEN) its nearest 7 × 7 pixels, wherever it stands. A block is 128 × 128 pairs: empty ones
# are skipped, and in full ones no mask is evaluated.


# %%
def masks_for(side: int) -> dict[str, Mask]:
    """Masks over side × side tokens; where they are pixels, those of a square image."""
    tokens = side * side
    eighth, quarter = tokens // 8, tokens // 4
    return {
        "causal": causal,
        "sliding window": sliding_window(tokens // 16),
        "prefix LM": prefix_lm(eighth),
        "documents": causal & document(lengths=[eighth, eighth, quarter, quarter, quarter]),
        "SASA": local_2d((side, side), window=side // 16),
        "NATTEN": natten((side, side), kernel=7),
    }


full_size = {name: blocks(mask, 128 * 128) for name, mask in masks_for(128).items()}

table = Table("pattern", "visible pairs", "empty blocks", "partial", "full")
for column in table.columns[1:]:
    column.justify = "right"
for name, block_mask in full_size.items():
    counts = block_mask.runs.counts()
    numbers = (block_mask.visible_pairs(), *(counts[kind] for kind in sorted(counts)))
    table.add_row(name, *(f"{number:,}" for number in numbers))
console.print(table)

assert full_size["causal"].visible_pairs() == 16_384 * 16_385 // 2
assert full_size["NATTEN"].visible_pairs() == 16_384 * 7 * 7


# %% [markdown]
# ## Attention, and what it is compared with
#
# `flex_attention` takes the block mask. The yardstick is attention as a textbook has it: every pair, in
# float64, the same functions called on plain tensors of indices. Results and gradients are compared for
# each pattern.


# %%
def long_way(
    query: Tensor, key: Tensor, value: Tensor, score_mod: ScoreMod | None = None, mask: MaskMod = noop_mask
) -> Tensor:
    """Compute attention with every pair in memory, [B, H, Q, K] in float64."""
    query, key, value = query.double(), key.double(), value.double()
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    b, h, q_idx, kv_idx = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    score = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    if score_mod is not None:
        score = score_mod(score, b, h, q_idx, kv_idx)
    weights: Tensor = score.masked_fill(~mask(b, h, q_idx, kv_idx), -torch.inf).softmax(dim=-1)
    return weights @ value


def difference(ours: Tensor, theirs: Tensor, inputs: Sequence[Tensor]) -> float:
    """Return the largest difference of two results and of their gradients, which must be small."""
    upstream = torch.randn(theirs.shape)
    gradients = (torch.autograd.grad(out, inputs, upstream.to(out.dtype)) for out in (ours, theirs))
    pairs = [(ours, theirs), *zip(*gradients, strict=True)]
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, check_dtype=False)
    return max(float((mine - other).detach().abs().max()) for mine, other in pairs)


def compare(mask: MaskMod, q_len: int, kv_len: int | None = None, score_mod: ScoreMod | None = None) -> float:
    """Return how far attention and its gradients are from the long way."""
    query = torch.randn(1, 4, q_len, 32, requires_grad=True)
    key, value = torch.randn(2, 1, 4, kv_len or q_len, 32, requires_grad=True).unbind()
    ours = flex_attention(query, key, value, score_mod, blocks(mask, q_len, kv_len))
    return difference(ours, long_way(query, key, value, score_mod, mask), (query, key, value))


differences = {name: compare(mask, 16 * 16) for name, mask in masks_for(16).items()}


# %% [markdown]
# ## Scores
#
# A `score_mod` changes the score of a visible pair. ALiBi lowers it with the distance, each head at its own
# rate: by a formula, or by slopes in a tensor. A softcap keeps it within bounds, exactly or with a cheaper
# tanh that has a derivative of its own. A checkerboard doubles it at even distances and halves it at odd
# ones. A causal mask written as a score is right too, but no block is skipped for it.


# %%
def causal_score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Lower the scores of later keys to minus infinity."""
    return torch.where(q_idx >= kv_idx, score, -torch.inf)


scores = {
    "ALiBi": alibi(n_heads=4),
    "ALiBi, slopes in a tensor": alibi(slopes=torch.tensor([0.25, 0.0625, 0.015625, 0.00390625])),
    "softcap": softcap(2.0),
    "softcap, cheaper tanh": softcap(2.0, approximate=True),
    "checkerboard": checkerboard,
}
differences |= {name: compare(causal, 256, score_mod=score) for name, score in scores.items()}
differences["causal as a score"] = compare(noop_mask, 256, score_mod=causal_score)

# %% [markdown]
# ## Text that looks at images
#
# In Flamingo's cross attention the queries are text and the keys are image tokens. The token 1 stands for
# an image here; text sees an image from that token on, until the next run of images begins. Three images of
# three tokens each:

# %%
text = [1, 1, 9673, 527, 1403, 12875, 13, 1, 1115, 374, 264, 8415]
intervals = image_intervals(text, image_token=1)
flamingo = image_cross_attention(intervals, image_lengths=3)
print(intervals)
print(blocks(flamingo, 12, 9).to_bool()[0, 0].int())

assert intervals == [[0, 7], [1, 7], [7, 12]]
differences["Flamingo"] = compare(flamingo, 12, 9)

# %% [markdown]
# ## Jagged batches
#
# Sixteen sequences of 1 to 64 tokens, packed end to end without padding. `jagged` applies a mask within
# each, with the positions of that sequence.

# %%
draw = random.Random(0)
offsets = torch.tensor([0, *itertools.accumulate(draw.randint(1, 64) for _ in range(16))])
packed_tokens = int(offsets[-1])
packed = jagged(causal, offsets)
differences["jagged, packed"] = compare(packed, packed_tokens)

# %% [markdown]
# The same sequences as nested tensors of torch, which know their offsets: `flex_attention` takes them, the
# mask is that of one sequence, and a nested tensor comes back. Torch's causal attention, called for one
# sequence after another, gives the same.

# %%
# Torch's log has a remark on its own tracing when the first nested tensor is made.
logging.getLogger("torch.fx").setLevel(logging.ERROR)

values = torch.randn(3, packed_tokens, 4, 32, requires_grad=True).unbind()
query, key, value = (torch.nested.nested_tensor_from_jagged(one, offsets).transpose(1, 2) for one in values)
ours = flex_attention(query, key, value, mask_mod=causal)
sequences = zip(query.unbind(), key.unbind(), value.unbind(), strict=True)
theirs = torch.cat([F.scaled_dot_product_attention(*one, is_causal=True) for one in sequences], dim=1)
differences["jagged, nested"] = difference(ours.values(), theirs, values)
print("tokens of each sequence:", *(one.shape[1] for one in ours.unbind()))

# %% [markdown]
# ## All agree
#
# The largest difference of each from the long way (from torch's, for nested tensors), over the result and
# its gradients:

# %%
table = Table("pattern", "largest difference")
for name, largest in differences.items():
    table.add_row(name, f"{largest:.1e}")
console.print(table)

# %% [markdown]
# ## What it takes
#
# One pattern beside its peers, checked and then timed: `test_mask` prints the table for any mask or score,
# here scaled down from 16 × 16 heads and 8192 tokens. Causal flash attention computes another pattern, and
# is there for orientation.

# %%
test_mask(mask_mod=sliding_window(256), B=1, H=2, S=1024, D=64, rounds=3, compiled=False)

# %% [markdown]
# ## All on one sheet

# %%
full = [Panel(name, "16,384", block_mask) for name, block_mask in full_size.items()]
near = masks_for(16)
few = blocks(causal, 24)
pictures = {
    "Text": [*full[:4], Panel("jagged", "16 sequences", blocks(packed, packed_tokens))],
    "Images, and scores": [
        *(Panel(name, "16×16 image", blocks(near[name], 256)) for name in ("SASA", "NATTEN")),
        Panel("Flamingo", "12 text × 9 image", blocks(flamingo, 12, 9)),
        *(Panel(f"causal + {name}", "24", few, scores[name]) for name in ("ALiBi", "checkerboard")),
    ],
}
sheet = contact_sheet(pictures, "Patterns of attention", columns=5)
print(save_figure(sheet, "out/r1_patterns.png"))
sheet
