"""torch.nn.MultiheadAttention with masks and scores that are functions.

Owns the parameters, which are torch's by name, shape and initial value, and the way of a call: project, add
keys, attend, project. What tables of masks mean is `mask_tables`'s, how tokens lie `layout`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, init
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention import flex_attention
from saccade.block_mask import BlockMask
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.masks import causal
from saccade.mod_value import require_mod
from saccade.nn.added_keys import append_learned, append_zeros, mask_of_blocks, mods_of_given
from saccade.nn.arguments import require_divisor, require_probability, require_sizes
from saccade.nn.implementation import AttentionModule
from saccade.nn.layout import Layout, merge_heads, split_heads
from saccade.nn.mask_tables import ScoreShape, TableMods, joint_mask, joint_score, mods_of_tables
from saccade.nn.nested import as_jagged, as_strided, is_strided_nested, require_functions
from saccade.nn.token_tensors import read_layout
from saccade.nn.weights import attend_with_weights
from saccade.planner import AUTO
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["MultiheadAttention"]


class MultiheadAttention(AttentionModule):
    """What `torch.nn.MultiheadAttention` is, with masks and scores as functions and a choice of backend.

    Names, order and meaning of the arguments are torch's, and so are the parameters: state dicts load both
    ways, and the same seed gives the same start. It takes torch's place inside `TransformerEncoderLayer` and
    the like, whose fused shortcut for evaluation steps aside for it. What differs:

    - `need_weights` is False unless asked for, since weights are the whole score matrix. They end a graph of
      `torch.compile`, so that `fullgraph=True` refuses them.
    - A query that sees no key gets attention 0, so `out_proj.bias`, where torch gives NaN.
    - `is_causal=True` needs no `attn_mask`; one that is given is taken to be the causal mask.
    - With keys added by `add_bias_kv` or `add_zero_attn`, `is_causal=True` is causal among the given keys and
      shows the added ones, as torch does with `need_weights=True`; with False, torch's hides them.
    - An entry of a floating mask hides when it is at most half the lowest number of its dtype.
    - Dropout draws from Saccade's stream: `torch.manual_seed` repeats it, with other choices than torch's.

    Args:
        embed_dim: Width of the queries and of the output, E; a multiple of `num_heads`.
        num_heads: Number of query heads.
        dropout: The probability of dropping a weight, in [0, 1], while training.
        bias: Whether the projections have a bias.
        add_bias_kv: Whether to put one learned key and value behind those given.
        add_zero_attn: Whether to put one key and value of zeros behind them (and the learned one).
        kdim: Width of the keys. None: embed_dim.
        vdim: Width of the values. None: embed_dim.
        batch_first: Whether the batch is the first axis, `[N, L, E]`, not the second, `[L, N, E]`.
        device: Where the parameters are. None: torch's default.
        dtype: Of the parameters. None: torch's default.
        num_kv_heads: Number of key and value heads, a divisor of num_heads: groups of query heads share one
            (grouped-query attention, arXiv 2305.13245). None: num_heads. With fewer, `in_proj_weight` has
            E + 2·num_kv_heads·head_dim rows, those of queries, keys and values in turn.
        attn_implementation: Who computes the attention: "auto", or the name of a backend.

    Attributes:
        in_proj_weight (nn.Parameter | None): `[3E, E]`, rows of queries, keys and values; None where kdim or
            vdim differ from embed_dim. Then there are `q_proj_weight` `[E, E]`, `k_proj_weight` `[E, kdim]`
            and `v_proj_weight` `[E, vdim]`.
        in_proj_bias (nn.Parameter | None): `[3E]`.
        out_proj (nn.Linear): From E to E.
        bias_k (nn.Parameter | None): The learned key `[1, 1, E]`, and `bias_v` its value.

    Raises:
        ArgumentTypeError: A size is no integer, or dropout no number.
        ArgumentError: A size is below 1 or no divisor, dropout is outside [0, 1], or no backend has the name.

    Example:
        >>> from saccade import sliding_window
        >>> attention = MultiheadAttention(32, num_heads=4, num_kv_heads=2, batch_first=True)
        >>> tokens = torch.randn(2, 10, 32)
        >>> out, _ = attention(tokens, tokens, tokens, mask_mod=sliding_window(4))
        >>> out.shape
        torch.Size([2, 10, 32])

    The method is that of "Attention Is All You Need" (arXiv 1706.03762).
    """

    # torch's encoder layers ask this before they compute attention themselves from the parameters, past this
    # module and what it was told. They do so only where it is True.
    _qkv_same_embed_dim = False

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_kv_heads: int | None = None,
        attn_implementation: str = AUTO,
    ) -> None:
        super().__init__(attn_implementation)
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self._check_sizes()
        require_probability("MultiheadAttention", dropout)
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_zero_attn = add_zero_attn

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        q_rows, kv_rows, _ = self._rows
        together = self.kdim == self.vdim == embed_dim
        self.in_proj_weight = parameter(q_rows + 2 * kv_rows, embed_dim) if together else None
        self.q_proj_weight = None if together else parameter(q_rows, embed_dim)
        self.k_proj_weight = None if together else parameter(kv_rows, self.kdim)
        self.v_proj_weight = None if together else parameter(kv_rows, self.vdim)
        self.in_proj_bias = parameter(q_rows + 2 * kv_rows) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.bias_k = parameter(1, 1, kv_rows) if add_bias_kv else None
        self.bias_v = parameter(1, 1, kv_rows) if add_bias_kv else None
        self.reset_parameters()

    @classmethod
    def from_torch(
        cls, module: nn.MultiheadAttention, *, attn_implementation: str = AUTO
    ) -> MultiheadAttention:
        """Make the same of a `torch.nn.MultiheadAttention`, with parameters of its own.

        Args:
            module: torch's module. Its parameters' values, dtype, device and `requires_grad` are taken over,
                and whether it is training.
            attn_implementation: Who computes the attention: "auto", or the name of a backend.

        Raises:
            ArgumentTypeError: `module` is no torch.nn.MultiheadAttention.
            ArgumentError: No backend has the name, or the module has other parameters than torch's own, as a
                parametrization makes them.

        Example:
            >>> theirs = nn.MultiheadAttention(32, 4, batch_first=True)
            >>> ours, tokens = MultiheadAttention.from_torch(theirs), torch.randn(2, 10, 32)
            >>> torch.allclose(ours(tokens, tokens, tokens)[0], theirs(tokens, tokens, tokens)[0], atol=1e-6)
            True
        """
        if not isinstance(module, nn.MultiheadAttention):
            raise ArgumentTypeError(
                f"from_torch() takes a torch.nn.MultiheadAttention, got {type(module).__name__}"
            )
        weight = module.out_proj.weight
        made = cls(
            module.embed_dim,
            module.num_heads,
            module.dropout,
            bias=module.in_proj_bias is not None,
            add_bias_kv=module.bias_k is not None,
            add_zero_attn=module.add_zero_attn,
            kdim=module.kdim,
            vdim=module.vdim,
            batch_first=module.batch_first,
            device="meta",  # nothing is drawn for parameters that are replaced
            dtype=weight.dtype,
            attn_implementation=attn_implementation,
        ).to_empty(device=weight.device)
        _require_same_parameters(made, module)
        made.load_state_dict(module.state_dict())
        theirs = dict(module.named_parameters())
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(theirs[name].requires_grad)
        return made.train(module.training)

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as torch does at first: Xavier's for weights, 0 for biases.

        `out_proj.weight` is left as it is; its own `reset_parameters` draws it.
        """
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for learned in (self.bias_k, self.bias_v):
            if learned is not None:
                init.xavier_normal_(learned)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        mask_mod: MaskMod | None = None,
        score_mod: ScoreMod | None = None,
        block_mask: BlockMask | TorchBlockMask | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Let every query attend to the keys that all masks show it.

        Keys that the module adds are seen by every query at their plain score; no mask and no function is
        asked about them.

        Args:
            query: `[L, N, E]`, or `[N, L, E]` with `batch_first`, or `[L, E]` without a batch; or nested
                `[N, j, E]`, with `batch_first`.
            key: The same with length S and width kdim. Its batch may be 1, to serve every batch entry.
            value: The same with length S and width vdim.
            key_padding_mask: `[N, S]`, or `[S]` without a batch: bool, **True = hidden**, or floating, added
                to the scores (after score_mod).
            need_weights: Whether to return the weights; they are computed by "eager", whatever
                `attn_implementation` says, and outside of any compiled graph.
            attn_mask: `[L, S]` or `[N·num_heads, L, S]`, of the same two kinds.
            average_attn_weights: Whether to average the returned weights over the heads.
            is_causal: Whether query i sees the keys 0 to i alone. `attn_mask` is then taken to say the same,
                and not read.
            mask_mod: A function of `(b, h, q_idx, kv_idx)`, **True = visible**.
            score_mod: A function of `(score, b, h, q_idx, kv_idx)` that returns the new score.
            block_mask: A mask from `create_block_mask`, analysed once for many calls.

        Returns:
            The output, laid out like the query; and the weights `[N, L, S']` (by head: `[N, num_heads, L,
            S']`; without N where the query has none), after dropout, or None. S' counts added keys too.

        Raises:
            ShapeError: Tensors, tables or the block mask do not fit each other or the module.
            DTypeError: A table is neither bool nor floating.
            UnsupportedError: A table is given with nested tensors, or keys are to be added to nested ones or
                under a block mask of given blocks.
            SaccadeError: As for `flex_attention`.
        """
        strided = is_strided_nested(query)
        if strided or is_strided_nested(key) or is_strided_nested(value):
            query, key, value = as_jagged(query, key, value)
        layout = read_layout(query, key, value, (self.embed_dim, self.kdim, self.vdim), self.batch_first)
        projected = self._project(query, key, value)
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        queries, keys, values = (
            split_heads(tokens, n, layout) for tokens, n in zip(projected, heads, strict=True)
        )
        if query.is_nested:
            require_functions(self._adds_keys, key_padding_mask=key_padding_mask, attn_mask=attn_mask)
            tables = TableMods((causal,) if is_causal else ())
        else:
            batch, _, q_len, _ = queries.shape
            shape = ScoreShape(batch, self.num_heads, q_len, keys.shape[2], layout)
            tables = mods_of_tables(
                key_padding_mask, attn_mask, is_causal, shape, rescored=score_mod is not None
            )
        attended, weights = self._attend(
            (queries, keys, values), tables, mask_mod, score_mod, block_mask, need_weights
        )
        out = self.out_proj(merge_heads(attended, layout))
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights.squeeze(0) if layout is Layout.UNBATCHED else weights
        return as_strided(out) if strided else out, weights

    def extra_repr(self) -> str:
        """Return what printing the module says beside its projection."""
        usual = {
            "num_kv_heads": self.num_heads,
            "kdim": self.embed_dim,
            "vdim": self.embed_dim,
            "dropout": 0.0,
            "batch_first": False,
            "add_zero_attn": False,
        }
        parts = [f"{self.embed_dim}, num_heads={self.num_heads}"]
        parts += [
            f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        ]
        parts += ["bias=False"] if self.in_proj_bias is None else []
        parts += ["add_bias_kv=True"] if self.bias_k is not None else []
        return ", ".join([*parts, f"attn_implementation={self.attn_implementation!r}"])

    @property
    def _rows(self) -> tuple[int, int, int]:
        """Widths of queries, keys and values once projected."""
        kv_rows = self.num_kv_heads * (self.embed_dim // self.num_heads)
        return self.embed_dim, kv_rows, kv_rows

    def _check_sizes(self) -> None:
        sizes = {
            name: getattr(self, name) for name in ("embed_dim", "num_heads", "num_kv_heads", "kdim", "vdim")
        }
        require_sizes("MultiheadAttention", **sizes)
        for dividend, divisor in (("embed_dim", "num_heads"), ("num_heads", "num_kv_heads")):
            require_divisor("MultiheadAttention", (dividend, sizes[dividend]), (divisor, sizes[divisor]))

    @property
    def _adds_keys(self) -> bool:
        return self.bias_k is not None or self.add_zero_attn

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """Tokens as queries, keys and values, laid out as they were."""
        together, bias, rows = self.in_proj_weight, self.in_proj_bias, self._rows
        # Not of nested tensors: torch does not differentiate what splits them into unequal parts.
        if together is not None and query is key is value and not query.is_nested:
            return functional.linear(query, together, bias).split_with_sizes(rows, dim=-1)
        apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = apart if together is None else together.split_with_sizes(rows)
        biases = (None, None, None) if bias is None else bias.split_with_sizes(rows)
        projected = []
        for tokens, weight, offset in zip((query, key, value), weights, biases, strict=True):
            assert weight is not None, "a module has three weights apart, or all in one"
            projected.append(functional.linear(tokens, weight, offset))
        return projected

    def _attend(
        self,
        tokens: tuple[Tensor, Tensor, Tensor],
        tables: TableMods,
        mask_mod: MaskMod | None,
        score_mod: ScoreMod | None,
        block_mask: BlockMask | TorchBlockMask | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention [N, H, L, D] of queries, keys and values, and its weights [N, H, L, S'] where wanted."""
        queries, keys, values = tokens
        masks, scores = tables
        if mask_mod is not None:
            require_mod(mask_mod, "MultiheadAttention: mask_mod")
            masks = (mask_mod, *masks)
        if score_mod is not None:
            require_mod(score_mod, "MultiheadAttention: score_mod")
            scores = (score_mod, *scores)
        if self._adds_keys:
            if block_mask is not None:
                batch, heads, q_len, _ = queries.shape
                masks = (*masks, mask_of_blocks(block_mask, batch, heads, q_len, keys.shape[2]))
                block_mask = None
            mask, score = mods_of_given(joint_mask(masks), joint_score(scores), keys.shape[2])
            keys, values = self._with_added(keys, self.bias_k), self._with_added(values, self.bias_v)
        else:
            mask, score = joint_mask(masks), joint_score(scores)
        options: dict[str, Any] = {
            "score_mod": score,
            "block_mask": block_mask,
            "enable_gqa": True,
            "mask_mod": mask,
            "dropout_p": self.dropout if self.training else 0.0,
        }
        if need_weights:
            return attend_with_weights(queries, keys, values, **options)
        return flex_attention(queries, keys, values, **options, backend=self.attn_implementation), None

    def _with_added(self, given: Tensor, learned: Tensor | None) -> Tensor:
        """Keys or values [N, Hkv, S, D], and behind them those that the module adds."""
        if learned is not None:
            given = append_learned(given, learned)
        return append_zeros(given) if self.add_zero_attn else given


def _require_same_parameters(made: MultiheadAttention, module: nn.MultiheadAttention) -> None:
    """Check that a module of torch has the parameters of one that was just made, by name."""
    ours, theirs = made.state_dict().keys(), module.state_dict().keys()
    if ours != theirs:
        raise ArgumentError(
            "from_torch() takes over the parameters of a plain torch.nn.MultiheadAttention, got a module "
            f"without {sorted(ours - theirs)} and with {sorted(theirs - ours)}; what computes a parameter is "
            "not taken over: remove it before, with torch.nn.utils.parametrize.remove_parametrizations, and "
            "put it on the module that is made"
        )
