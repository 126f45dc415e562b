# %% [markdown]
"""
# Masks as tensors, and what replaces them

Many models carry their mask as a tensor `[batch, 1, queries, keys]` that is added to the scores: 0 keeps a
pair, the lowest number of the dtype hides it. Such masks are made here with the names that transformers gave
them, each beside the mask that says the same without a table:

    python examples/r3_dense_masks.py

leaves a picture in `out/r3_dense_masks.png`.
"""

# %%
from __future__ import annotations

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saccade import flex_attention
from saccade.dense_masks import AttentionMaskConverter, additive_mask, mods_of_additive
from saccade.viz import Panel, contact_sheet, save_figure

torch.manual_seed(0)
console = Console(highlight=False)


def show(table: Tensor | None) -> None:
    """Print each batch entry of an additive mask beside the last: 0 keeps a pair, − hides it."""
    assert table is not None
    for rows in zip(*table[:, 0].tolist(), strict=True):
        print("   ".join(" ".join("0" if entry == 0 else "−" for entry in row) for row in rows))
    print()


# %% [markdown]
# ## Causal
#
# A converter holds the rule, and is told the lengths. The queries are the last of the keys: with six keys,
# two of them from a cache, the first of four queries sees three. A single query sees everything, and needs
# no mask at all.

# %%
causal = AttentionMaskConverter(is_causal=True)
show(causal.to_causal_4d(1, 4, 4))
show(causal.to_causal_4d(1, 4, 6))

assert causal.to_causal_4d(1, 1, 6) is None

# %% [markdown]
# ## Padding
#
# A tokenizer says 1 for a token and 0 for padding. The first of these two sentences has padding on its
# left; its padded query sees nothing. Without causality the same padding hides a column, whoever asks.

# %%
tokens = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
both_ways = AttentionMaskConverter(is_causal=False)
show(causal.to_4d(tokens, 4, key_value_length=4))
show(both_ways.to_4d(tokens, 4))

# %% [markdown]
# ## Windows
#
# A window of 1 keeps the query's own key and 1 before it. (The library's own `sliding_window(1)` counts all
# it keeps: one key.)

# %%
window = AttentionMaskConverter(is_causal=True, sliding_window=1)
show(window.to_causal_4d(1, 4, 6))

# %% [markdown]
# ## The same without a table
#
# Each of these is a mask of the library too: an expression that knows its blocks, and needs no memory that
# grows with the square of the length. Both are compared here pair by pair.

# %%
ones = torch.ones(2, 4, dtype=torch.int64)
cases = {
    "causal": (causal, 4, ones),
    "causal, two keys cached": (causal, 4, F.pad(ones, (2, 0), value=1)),
    "causal, padded": (causal, 4, tokens),
    "one query, padded": (causal, 1, tokens),
    "both ways, padded": (both_ways, 4, tokens),
    "window of 1, two keys cached": (window, 4, F.pad(tokens, (2, 0), value=1)),
}
agreement = Table("case", "visible pairs", "as a mask")
for name, (converter, q_len, keep) in cases.items():
    kv_len = keep.shape[1]
    table = converter.to_4d(keep, q_len, key_value_length=kv_len)
    mask = converter.mask_mod(q_len, kv_len, keep)
    block_mask = converter.block_mask(2, q_len, kv_len, keep)
    assert torch.equal(additive_mask(mask, 2, None, q_len, kv_len, device="cpu"), table)
    assert torch.equal(block_mask.to_bool(), table == 0)
    agreement.add_row(name, str(block_mask.visible_pairs()), str(mask))
console.print(agreement)

# %% [markdown]
# ## Attention with either
#
# Two sentences of 200 tokens, the first with 40 of padding on its left. For every query that sees
# something, torch's attention with the table and `flex_attention` with the block mask give the same.

# %%
LENGTH, PADDING = 200, 40
keep = torch.ones(2, LENGTH, dtype=torch.int64)
keep[0, :PADDING] = 0
table = causal.to_4d(keep, LENGTH, key_value_length=LENGTH)
query, key, value = torch.randn(3, 2, 4, LENGTH, 32, requires_grad=True).unbind()

with_table = F.scaled_dot_product_attention(query, key, value, table)
with_blocks = flex_attention(query, key, value, block_mask=causal.block_mask(2, LENGTH, LENGTH, keep))
seeing = keep.bool()[:, None, :, None].expand_as(with_table)
torch.testing.assert_close(with_blocks[seeing], with_table[seeing])

# %% [markdown]
# ## Rows that see nothing
#
# Padded queries part them. To torch all the keys of such a row are equally hidden, so equally visible: on a
# CPU it gives the average of all values, those of padding and of the future too. In Saccade what is hidden
# is hidden: 0, and no gradient. That holds for a table as well: `mods_of_additive` splits it into the pairs
# it hides, and the penalties it adds to others, of which there are none here.
#
# The gradient below is that of the padded outputs' sum. Were they averages and no more, the last of 200
# values would get 1/200 from each of 40 rows, 0.2 in all.

# %%
mods = mods_of_additive(table)
from_table = flex_attention(query, key, value, mods.score_mod, mask_mod=mods.mask_mod)
torch.testing.assert_close(from_table, with_blocks)
assert mods.score_mod is None

results = Table("a padded query gets", "0", "the average", "gradient to the last value")
answers = {"torch": with_table, "Saccade": with_blocks, "Saccade, from the table": from_table}
for name, out in answers.items():
    padded = out[0, :, :PADDING]
    average = value[0].mean(dim=-2, keepdim=True).expand_as(padded)
    is_zero, is_average = bool((padded == 0).all()), torch.allclose(padded, average, atol=1e-5)
    (gradient,) = torch.autograd.grad(padded.sum(), value, retain_graph=True)
    words = ("yes" if holds else "no" for holds in (is_zero, is_average))
    results.add_row(name, *words, f"{gradient[0, 0, -1, 0].item():.3f}")
console.print(results)

assert (from_table[0, :, :PADDING] == 0).all()
assert (with_blocks[0, :, :PADDING] == 0).all()

# %% [markdown]
# A table of numbers between 0 and the lowest is both things at once: it hides, and it penalises.

# %%
penalties = -0.1 * (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs() + table[1, 0]
mods = mods_of_additive(penalties)
print(mods)

expected = F.scaled_dot_product_attention(query, key, value, penalties)
torch.testing.assert_close(flex_attention(query, key, value, **mods._asdict()), expected)

# %% [markdown]
# ## In a picture
#
# The same rules over 24 tokens. Queries run down, keys to the right.

# %%
keep = torch.ones(1, 24, dtype=torch.int64)
keep[0, :7] = 0
window = AttentionMaskConverter(is_causal=True, sliding_window=5)
masks = {
    "causal": causal.block_mask(1, 24, 24),
    "12 cached keys": causal.block_mask(1, 12, 24),
    "padded on the left": causal.block_mask(1, 24, 24, keep),
    "window of 5": window.block_mask(1, 24, 24),
    "window, padded": window.block_mask(1, 24, 24, keep),
    "both ways, padded": both_ways.block_mask(1, 24, 24, keep),
}
panels = [Panel(name, f"{mask.q_len} × {mask.kv_len}", mask) for name, mask in masks.items()]
sheet = contact_sheet({"AttentionMaskConverter": panels}, "Masks that were tensors", columns=3)
print(save_figure(sheet, "out/r3_dense_masks.png"))
sheet
