# %% [markdown]
"""
# FlashAttention, a module without parameters

Queries, keys and values go in, with a mask and a bias as tables if there are any. `flash=True` computes in a
fused kernel, `flash=False` by plain products with the whole matrix in memory. The two agree, down to the
pairs that dropout drops:

    python examples/r2_flash.py

ends with a table of the times measured here.
"""

# %%
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saccade.nn import FlashAttention

torch.manual_seed(0)
console = Console(highlight=False)

BATCH, HEADS, LENGTH, WIDTH = 2, 4, 256, 32


def inputs(length: int = LENGTH, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values that want gradients, [B, H, S, D] each."""
    query, key, value = (torch.randn(batch, HEADS, length, WIDTH, requires_grad=True) for _ in range(3))
    return query, key, value


# %% [markdown]
# ## Basic
#
# Without anything else, every query sees every key.

# %%
query, key, value = inputs()
attention = FlashAttention()
out = attention(query, key, value)
print(attention, tuple(out.shape))

torch.testing.assert_close(out, F.scaled_dot_product_attention(query, key, value))

# %% [markdown]
# ## With masking
#
# A mask is True where a pair is kept, and has any shape that broadcasts to `[batch, heads, queries, keys]`.
# Here the second entry of the batch has 200 keys, and in the first entry no key at all is left to query 0.
# A bias is added to the scores; with three axes it is one for each head.

# %%
mask = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
mask[1, :, :, 200:] = False
mask[0, :, 0] = False
bias = torch.randn(HEADS, LENGTH, LENGTH, requires_grad=True)

out = attention(query, key, value, mask=mask, attn_bias=bias)
added = bias.masked_fill(~mask, -torch.inf)
torch.testing.assert_close(out[:, :, 1:], F.scaled_dot_product_attention(query, key, value, added)[:, :, 1:])

# %% [markdown]
# The query that sees nothing gets 0, and the bias gets its gradient where a pair is visible in some entry.

# %%
assert (out[0, :, 0] == 0).all()

(of_bias,) = torch.autograd.grad(out.square().sum(), bias)
print(f"bias: gradients to {int((of_bias != 0).sum()):,} of {of_bias.numel():,} numbers")
assert of_bias.isfinite().all()
assert ((of_bias != 0) == mask.any(dim=0)).all()

# %% [markdown]
# ## Causal, with dropout
#
# Causality is aligned at the last query and the last key: with fewer queries than keys, as in decoding, the
# queries are the latest tokens. `get_mask` is True where a key is hidden.

# %%
causal = FlashAttention(causal=True, dropout=0.25)
print(causal.get_mask(3, 5).int())

latest = causal.eval()(query[:, :, -3:], key, value)
torch.testing.assert_close(latest, causal(query, key, value)[:, :, -3:])

# %% [markdown]
# Dropout acts on the weights, in training only; what is kept grows, so that the mean stays. With the unit
# vectors as values the output *is* the matrix of weights, which shows it.

# %%
unit = torch.eye(LENGTH).expand(BATCH, HEADS, LENGTH, LENGTH)
whole = causal.eval()(query, key, unit)
kept = causal.train()(query, key, unit)

visible = ~causal.get_mask(LENGTH, LENGTH).expand_as(kept)
share = (kept[visible] == 0).float().mean().item()
print(
    f"dropped {share:.1%} of the visible pairs; a row of weights adds up to {kept.sum(-1).mean().item():.3f}"
)

assert ((kept == 0) | torch.isclose(kept, whole / 0.75, rtol=1e-5)).all()
assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / int(visible.sum()))

# %% [markdown]
# ## Fused against plain
#
# Both ways with all of it at once: a mask, a bias, causality, dropout from the same seed. Results and
# gradients differ by less than 1e-5 of their largest number.


# %%
def result_and_gradients(flash: bool) -> tuple[Tensor, ...]:
    """Attend once with everything, from one seed, and differentiate."""
    torch.manual_seed(1)
    module = FlashAttention(causal=True, dropout=0.25, flash=flash)
    out = module(query, key, value, mask=mask, attn_bias=bias)
    return out, *torch.autograd.grad(out.square().sum(), (query, key, value, bias))


names = ("result", "gradient of queries", "of keys", "of values", "of the bias")
for name, fused, plain in zip(names, result_and_gradients(True), result_and_gradients(False), strict=True):
    difference = ((fused - plain).abs().max() / plain.abs().max()).item()
    print(f"{name:>20}: {difference:.1e}")
    assert difference < 1e-5

# %% [markdown]
# ## Times
#
# Causal attention forward, and forward with backward, on this machine and at this moment: medians of nine,
# after the results have been compared. The matrix of weights grows with the square of the length.


# %%
def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of nine calls, after one that compiles."""
    call()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def times_of(module: FlashAttention, length: int) -> tuple[float, float]:
    """Time a module without gradients, and with them."""
    query, key, value = inputs(length, batch=1)

    def train() -> None:
        torch.autograd.grad(module(query, key, value).sum(), (query, key, value))

    with torch.no_grad():
        forward = milliseconds(lambda: module(query, key, value))
    return forward, milliseconds(train)


modules = [FlashAttention(causal=True, flash=flash) for flash in (False, True)]
table = Table(
    "tokens", "plain: forward", "with backward", "fused: forward", "with backward", title="milliseconds"
)
for column in table.columns:
    column.justify = "right"
for length in (128, 256, 512, 1024):
    query, key, value = inputs(length, batch=1)
    plain, fused = (module(query, key, value) for module in modules)
    torch.testing.assert_close(fused, plain)
    times = [median for module in modules for median in times_of(module, length)]
    table.add_row(str(length), *(f"{median:.2f}" for median in times))
console.print(table)
