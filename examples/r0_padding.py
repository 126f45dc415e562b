# %% [markdown]
"""
# Causal attention over padded sequences

Sequences of unequal length share a batch by being padded to one length. Here is self-attention that looks
neither ahead nor at padding, in a module, for a training step, and in a picture:

    python examples/r0_padding.py

leaves two pictures in `out`: `r0_padding.png` and `r0_weights.png`.
"""

# %%
from __future__ import annotations

import torch
import torch.nn.functional as F

from saccade import causal, create_block_mask, create_padding_mask
from saccade.nn import MultiheadFlexAttention
from saccade.viz import plot_attention_scores, save_figure, visualize_attention_scores

torch.manual_seed(4)

BATCH, LENGTH, WIDTH, HEADS = 1, 10, 64, 8

# %% [markdown]
# ## Ten tokens, the last of them padding
#
# Padding is a tail of zero vectors, of a length that is drawn at random. Which tokens are padding is read
# off the vectors themselves: True where all their numbers are zero.

# %%
tokens = torch.randn(BATCH, LENGTH, WIDTH)
real = LENGTH - int(torch.randint(1, 5, ()))
tokens[:, real:] = 0
pads = (tokens == 0).all(dim=-1)
print(pads.int())

assert pads.sum() == LENGTH - real

# %% [markdown]
# ## The mask
#
# A pair is visible when the key is not later than the query, and neither of the two is padding. The padding
# differs from one batch entry to the next, so the block mask is made for `B` entries; it is the same in
# every head.

# %%
mask = causal & create_padding_mask(pads)
block_mask = create_block_mask(mask, B=BATCH, H=None, Q_LEN=LENGTH, KV_LEN=LENGTH, device="cpu")
print(block_mask.to_bool()[0, 0].int())

triangle = torch.ones(real, real, dtype=torch.bool).tril()
assert torch.equal(block_mask.to_bool()[0, 0], F.pad(triangle, (0, LENGTH - real, 0, LENGTH - real)))

# %% [markdown]
# ## The module
#
# One projection makes queries, keys and values, another takes the heads together again. The module returns
# its queries and keys too, for the pictures below.

# %%
attention = MultiheadFlexAttention(WIDTH, WIDTH, n_heads=HEADS)
out, queries, keys = attention(tokens, block_mask)
print(attention)
print(out.shape, queries.shape, keys.shape)

# %% [markdown]
# The real tokens get what they would get without any padding: here by torch's own attention, on the real
# tokens alone.

# %%
projected = attention.in_proj(tokens[:, :real]).view(BATCH, real, 3, HEADS, -1)
query, key, value = projected.permute(2, 0, 3, 1, 4)
alone = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(-2)
torch.testing.assert_close(out[:, :real], attention.out_proj(alone))

# %% [markdown]
# A padded token sees nothing. Its attention is 0, never NaN, and the last projection adds its bias to that.

# %%
assert out.isfinite().all()
torch.testing.assert_close(out[pads], attention.out_proj.bias.expand_as(out[pads]))

# %% [markdown]
# ## A training step
#
# Each real token is to tell the next. Padding takes no part: neither in the loss, nor by a gradient that
# reaches it.

# %%
tokens.requires_grad_()
optimizer = torch.optim.AdamW(attention.parameters(), lr=1e-2)


def loss_of_next() -> torch.Tensor:
    """Compare what each real token but the last becomes with the token after it."""
    became, _, _ = attention(tokens, block_mask)
    return F.mse_loss(became[:, : real - 1], tokens[:, 1:real].detach())


before = loss_of_next()
torch.autograd.backward(before)
assert tokens.grad is not None
assert (tokens.grad[pads] == 0).all()
assert (tokens.grad[:, : real - 1] != 0).any(dim=-1).all()
assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in attention.parameters())

optimizer.step()
after = loss_of_next()
print(f"loss {before.item():.4f} before the step, {after.item():.4f} after it")

assert after < before

# %% [markdown]
# ## Pictures
#
# The scores of the first head: a colour for each visible pair, a triangle in the upper left corner, and
# nothing where a token is padding. `visualize_attention_scores` writes them to a file,
# `plot_attention_scores` returns the figure.

# %%
labels = [f"token {place}" for place in range(real)] + ["padding"] * (LENGTH - real)
name = "scores of the first head"
print(
    visualize_attention_scores(queries, keys, None, mask, name=name, path="out/r0_padding.png", tokens=labels)
)
plot_attention_scores(queries, keys, None, mask, name=name, tokens=labels)

# %% [markdown]
# The weights after the softmax, of all heads. The first token has one key to see, itself.

# %%
figure = plot_attention_scores(queries, keys, None, mask, name="weights", head_idx=None, show="weights")
print(save_figure(figure, "out/r0_weights.png"))
figure
