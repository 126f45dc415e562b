"""Attention without parameters: queries, keys and values in, a mask and a bias as tables."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.attention import flex_attention
from saccade.attention.additive import additive_mods
from saccade.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from saccade.masks import Mask, and_masks, causal, dense, shift
from saccade.mod_value import require_at_least, require_tensor
from saccade.nn.arguments import require_bools, require_probability
from saccade.nn.implementation import AttentionModule
from saccade.planner import AUTO
from saccade.scores import Score

__all__ = ["FlashAttention"]

_PLAIN = "eager"  # the backend that forms every product


class FlashAttention(AttentionModule):
    """Attention of given queries, keys and values, by a fused engine or by plain products.

    Both ways give the same, gradients and dropped pairs included: mask, bias and causality combine, and a
    query that sees nothing gets 0. Plain products hold the whole score matrix; they are for comparison.

    Args:
        causal: Whether a query sees no later key. Aligned at the lower right: the last query sees the last
            key, so fewer queries than keys are the last ones of a longer sequence.
        dropout: The probability of dropping a weight, in [0, 1], while training.
        flash: True for a fused engine, False for plain products, which is `attn_implementation="eager"`.
        attn_implementation: Which engine: "auto", or the name of a backend.

    Attributes:
        causal (bool): As given.
        dropout (float): As given.

    Raises:
        ArgumentTypeError: `causal` or `flash` is no bool, or `dropout` no number.
        ArgumentError: `dropout` is outside [0, 1], no backend has the name, or one that is fused is named
            with `flash=False`.

    Example:
        >>> attention = FlashAttention(causal=True)
        >>> queries, keys, values = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
        >>> attention(queries, keys, values).shape
        torch.Size([1, 2, 3, 8])
        >>> plain = FlashAttention(causal=True, flash=False)
        >>> torch.allclose(attention(queries, keys, values), plain(queries, keys, values), atol=1e-6)
        True

    The names are those of the module in the zeta library; fused attention is that of FlashAttention
    (arXiv 2205.14135).
    """

    _put_aside: str = AUTO  # the fused engine that `flash = False` took the place of

    def __init__(
        self,
        causal: bool = False,
        dropout: float = 0.0,
        flash: bool = True,
        *,
        attn_implementation: str = AUTO,
    ) -> None:
        super().__init__(attn_implementation)
        require_bools("FlashAttention", causal=causal, flash=flash)
        require_probability("FlashAttention", dropout)
        if not flash and attn_implementation not in (AUTO, _PLAIN):
            raise ArgumentError(
                f"FlashAttention(): flash=False means plain products, attn_implementation={_PLAIN!r}, got "
                f"attn_implementation={attn_implementation!r} beside it; leave one of the two out"
            )
        self.flash = self.flash and flash
        self.causal = causal
        self.dropout = dropout

    @property
    def flash(self) -> bool:
        """Whether a fused engine computes; assigning it changes `attn_implementation`, and the reverse.

        True takes back the engine that False put aside.
        """
        return self.attn_implementation != _PLAIN

    @flash.setter
    def flash(self, fused: bool) -> None:
        require_bools("FlashAttention", flash=fused)
        if fused == self.flash:
            return
        if fused:
            self.attn_implementation = self._put_aside
        else:
            self._put_aside, self.attn_implementation = self.attn_implementation, _PLAIN

    def get_mask(self, i: int, j: int, device: torch.device | str | None = None) -> Tensor:
        """Return which keys causality hides, whether or not this module is causal.

        Args:
            i: Number of queries.
            j: Number of keys.
            device: Where the mask is made. None: torch's default.

        Returns:
            bool `[i, j]`, True where the key is hidden. Row 0 sees the first j - i + 1 keys.

        Raises:
            ArgumentTypeError: A number is no integer.
            ArgumentError: A number is negative.

        Example:
            >>> FlashAttention().get_mask(2, 4).int()
            tensor([[0, 0, 0, 1],
                    [0, 0, 0, 0]], dtype=torch.int32)
        """
        for name, length in (("i", i), ("j", j)):
            require_at_least(0, length, f"get_mask(): {name}")
        return torch.ones((i, j), dtype=torch.bool, device=device).triu(j - i + 1)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None
    ) -> Tensor:
        """Attend, by the engine that the module was told.

        Args:
            q: Queries `[B, H, Q, D]`.
            k: Keys `[B, H, K, D]` of the same dtype; a divisor of H heads serves groups of query heads.
            v: Values `[B, H, K, Dv]`.
            mask: bool, True = keep, broadcasting to `[B, H, Q, K]`. None: all.
            attn_bias: Floating, added to the scores, broadcasting to `[B, H, Q, K]` (so `[H, Q, K]` is one
                for each head); may require a gradient. An entry of at most half the dtype's lowest number
                hides its pair. None: nothing.

        Returns:
            `[B, H, Q, Dv]` of the query's dtype.

        Raises:
            ShapeError: There is not one value for each key, or a table does not broadcast.
            DTypeError: The mask is not bool, or the bias not floating.
            UnsupportedError: A tensor is nested.
            SaccadeError: As for `flex_attention`.
        """
        return self._attend(q, k, v, mask, attn_bias, self.attn_implementation)

    def flash_attn(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None
    ) -> Tensor:
        """Attend by a fused engine, also where `forward` takes plain products.

        Args:
            q: As for `forward`, and so are all that follow.
            k: See there.
            v: See there.
            mask: See there.
            attn_bias: See there.

        Returns:
            `[B, H, Q, Dv]` of the query's dtype.

        Raises:
            SaccadeError: As for `forward`.
        """
        return self._attend(
            q, k, v, mask, attn_bias, self.attn_implementation if self.flash else self._put_aside
        )

    def extra_repr(self) -> str:
        """Return what printing the module says."""
        return (
            f"causal={self.causal}, dropout={self.dropout}, attn_implementation={self.attn_implementation!r}"
        )

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attn_bias: Tensor | None, backend: str
    ) -> Tensor:
        _require_tensors(q, k, v)
        scores = (*q.shape[:3], k.shape[2])
        masks: list[Mask] = [] if mask is None else [_mask(mask, scores)]
        hides, score = (None, None) if attn_bias is None else _additive(attn_bias, scores)
        masks += [] if hides is None else [hides]
        if self.causal:
            masks.append(shift(causal, q=k.shape[2] - q.shape[2]))
        return flex_attention(
            q,
            k,
            v,
            score_mod=score,
            mask_mod=and_masks(*masks) if masks else None,
            enable_gqa=True,
            dropout_p=self.dropout if self.training else 0.0,
            backend=backend,
        )


def _mask(given: Tensor, scores: tuple[int, ...]) -> Mask:
    """What the argument `mask` keeps, of scores of that shape."""
    require_tensor(given, "mask")
    if given.dtype is not torch.bool:
        raise DTypeError(
            f"mask must be bool, True = keep, got dtype={given.dtype}; convert 0 and 1 with .bool(), and "
            "pass what is added to scores as attn_bias"
        )
    return dense(_table("mask", given, scores))


def _additive(given: Tensor, scores: tuple[int, ...]) -> tuple[Mask | None, Score]:
    """What the argument `attn_bias` hides and adds, of scores of that shape."""
    require_tensor(given, "attn_bias")
    if not given.dtype.is_floating_point:
        raise DTypeError(
            f"attn_bias must be floating, got dtype={given.dtype}; pass what says which pairs are "
            "kept as mask"
        )
    return additive_mods(_table("attn_bias", given, scores), scores[2])


def _require_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require_tensor(tensor, name)
        if tensor.is_nested:
            raise UnsupportedError(
                f"FlashAttention takes dense tensors, got a nested {name}; call flex_attention, which takes "
                "nested ones, with mask_mod=causal where it should be causal"
            )
        if tensor.dim() != 4:
            raise ShapeError(
                f"{name} must be [batch, heads, length, features], got shape={list(tensor.shape)}; add the "
                "missing axes with unsqueeze"
            )
    if v.shape[2] != k.shape[2]:
        raise ShapeError(
            f"v must have one row for each key, got {v.shape[2]} for {k.shape[2]}: "
            f"v.shape={list(v.shape)} and k.shape={list(k.shape)}"
        )


def _table(name: str, table: Tensor, scores: tuple[int, ...]) -> Tensor:
    """A table with two axes or more, after checking that it broadcasts to `[B, H, Q, K]`."""
    fits = table.dim() <= 4 and all(
        size in (1, full) for size, full in zip(table.shape[::-1], scores[::-1], strict=False)
    )
    if not fits:
        raise ShapeError(
            f"{name} must broadcast to [batch, heads, queries, keys] = {list(scores)}, got "
            f"{name}.shape={list(table.shape)}; give an axis on which it does not vary the size 1"
        )
    return table if table.dim() >= 2 else table.reshape(1, -1)
