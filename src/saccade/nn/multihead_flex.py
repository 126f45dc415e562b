"""Self-attention whose mask is a BlockMask, in as little code as it takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention import flex_attention
from saccade.block_mask import BlockMask
from saccade.errors import ShapeError
from saccade.mod_value import require_tensor
from saccade.nn.arguments import require_divisor, require_sizes
from saccade.nn.implementation import AttentionModule
from saccade.nn.layout import Layout, merge_heads, split_heads
from saccade.nn.nested import as_jagged, as_strided, is_strided_nested
from saccade.planner import AUTO
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["MultiheadFlexAttention"]


class MultiheadFlexAttention(AttentionModule):
    """Self-attention of several heads under a block mask: one projection in, attention, one projection out.

    Use it where every layer sees the same mask: make the mask once with `create_block_mask` and hand it to
    each. Tokens that see nothing, such as padding, get attention 0, so `out_proj.bias` after the projection.

    Args:
        d_in: Width of the tokens that come in.
        d_out: Width of the tokens that go out, and of query, key and value; a multiple of `n_heads`.
        n_heads: Number of heads, each of width d_out / n_heads.
        bias: Whether the projection in has a bias; the one out always has.
        attn_implementation: Who computes the attention: "auto", or the name of a backend.
        device: Where the parameters are. None: torch's default.
        dtype: Of the parameters. None: torch's default.

    Attributes:
        in_proj (nn.Linear): From d_in to 3·d_out. Its rows are laid out (3, n_heads, d_head): queries, keys,
            values.
        out_proj (nn.Linear): From d_out to d_out.
        n_heads (int): As given.
        d_head (int): Width of a head.

    Raises:
        ArgumentTypeError: A size is no integer.
        ArgumentError: A size is below 1, d_out is no multiple of n_heads, or no backend has the name.

    Example:
        >>> from saccade import causal, create_block_mask, create_padding_mask
        >>> pads = torch.tensor([[False] * 7 + [True] * 3])
        >>> mask = create_block_mask(causal & create_padding_mask(pads), 1, None, 10, 10, device="cpu")
        >>> attention = MultiheadFlexAttention(64, 64, n_heads=8)
        >>> out, queries, keys = attention(torch.randn(1, 10, 64), mask)
        >>> out.shape, queries.shape, keys.shape
        (torch.Size([1, 10, 64]), torch.Size([1, 8, 10, 8]), torch.Size([1, 8, 10, 8]))
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_heads: int,
        bias: bool = False,
        *,
        attn_implementation: str = AUTO,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(attn_implementation)
        require_sizes("MultiheadFlexAttention", d_in=d_in, d_out=d_out, n_heads=n_heads)
        require_divisor("MultiheadFlexAttention", ("d_out", d_out), ("n_heads", n_heads))
        self.n_heads = n_heads
        self.d_head = d_out // n_heads
        self.in_proj = nn.Linear(d_in, 3 * d_out, bias=bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(d_out, d_out, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        block_mask: BlockMask | TorchBlockMask | None = None,
        *,
        mask_mod: MaskMod | None = None,
        score_mod: ScoreMod | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let every token attend to the tokens that the mask shows it.

        Args:
            x: Tokens `[B, S, d_in]`; or a nested tensor `[B, j, d_in]`.
            block_mask: Which pairs are visible. None: all.
            mask_mod: The same as a function of `(b, h, q_idx, kv_idx)`; with a block_mask, both must hold.
            score_mod: How scores change, a function of `(score, b, h, q_idx, kv_idx)`. None: they do not.

        Returns:
            The tokens after attention `[B, S, d_out]`, and the queries and keys `[B, n_heads, S, d_head]`
            that met in it, for a look at their scores. Nested where `x` is, in its layout.

        Raises:
            ArgumentTypeError: `x` is no tensor.
            ShapeError: `x` is not `[B, S, d_in]`, or the mask is for other lengths.
            SaccadeError: As for `flex_attention`.
        """
        require_tensor(x, "x")
        strided = is_strided_nested(x)
        (x,) = as_jagged(x)
        if x.dim() != 3 or x.shape[-1] != self.in_proj.in_features:
            raise ShapeError(
                f"x must be [B, S, d_in] with d_in={self.in_proj.in_features}, got shape={list(x.shape)}"
                + ("; add the batch axis with x[None]" if x.dim() == 2 else "")
            )
        queries, keys, values = (
            split_heads(tokens, self.n_heads, Layout.BATCH_FIRST)
            for tokens in self.in_proj(x).chunk(3, dim=-1)
        )
        attended = flex_attention(
            queries,
            keys,
            values,
            score_mod=score_mod,
            block_mask=block_mask,
            mask_mod=mask_mod,
            backend=self.attn_implementation,
        )
        out = self.out_proj(merge_heads(attended, Layout.BATCH_FIRST))
        if strided:
            return as_strided(out), as_strided(queries), as_strided(keys)
        return out, queries, keys

    def extra_repr(self) -> str:
        """Return what printing the module says beside its projections."""
        return f"n_heads={self.n_heads}, attn_implementation={self.attn_implementation!r}"
