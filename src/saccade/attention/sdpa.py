"""torch's `scaled_dot_product_attention`, on Saccade's backends.

Owns how its arguments read as those of `flex_attention`: a bool mask is a mask_mod, a float mask a score_mod,
both on the table as it is stored, and `is_causal` a block mask that is made once for each pair of lengths.
What is computed, and by whom, is decided as for `flex_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from saccade.attention.additive import additive_mods
from saccade.attention.compiled import compute_compiled
from saccade.attention.compute import compute, planned
from saccade.attention.leading import Folded, fold, fold_mask
from saccade.attention.nested import NestedForm, is_nested, outside_graphs, packed_call
from saccade.attention.request import Arguments, Request, autocasted, read_request
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError, ArgumentTypeError, OperandError, UnsupportedError
from saccade.masks import Mask, causal, dense
from saccade.planner import AUTO, Plan
from saccade.scores import Score
from saccade.torch_ops.routing import is_observed

__all__ = ["SdpaCall", "read_sdpa", "scaled_dot_product_attention"]

_CAUSAL_MASKS = 32

# The leading dimensions of the output as torch has it, or its sequences.
_Form = tuple[int, ...] | NestedForm


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    backend: str = AUTO,
) -> Tensor:
    """Compute attention as `torch.nn.functional.scaled_dot_product_attention` does, on Saccade's backends.

    Names, order and meaning are torch's, and so is the result up to rounding. What differs: dropout draws
    from Saccade's stream (`torch.manual_seed` repeats it, with other choices than torch's), and a row that
    sees no key gives output 0 and gradients 0 on every backend and device, where torch's kernels have given
    0, NaN or an average of all values. A mask is read where it lies: axes of size 1, and axes that were
    expanded, are not copied. Under autocast, tensors are cast as in torch. For a pattern that has a name, a
    mask of `saccade.masks` given to `flex_attention` skips what a table only hides.

    Args:
        query: `[..., L, E]`, two dimensions or more, float16, bfloat16, float32 or float64. The third from
            the end is the heads. Or nested `[B, H, j, E]` of layout jagged, as key and value then are: each
            sequence by itself, without attn_mask.
        key: `[..., S, E]` of the same dtype. Leading dimensions broadcast with the query's.
        value: `[..., S, Ev]`, likewise; Ev may differ from E.
        attn_mask: bool, True = attend; or float32 or of the query's dtype, added to the scores, which may
            require a gradient, and where an entry of at most half the dtype's lowest number hides its pair.
            At least two dimensions, broadcasts to `[..., L, S]`. None: nothing is hidden.
        dropout_p: The probability of dropping a weight, in [0, 1]. Always active when above 0, so pass 0.0 in
            evaluation.
        is_causal: Whether query i sees the keys 0 to i alone (upper left alignment); without attn_mask.
        scale: What q·k is multiplied by. None: 1/√E.
        enable_gqa: Whether the heads of key and value may be a divisor of the query's: query head h reads key
            head `h // (Hq / Hkv)`.
        backend: Who computes it, as for `flex_attention`.

    Returns:
        The output `[..., L, Ev]` of the query's dtype, nested where the query is.

    Raises:
        ArgumentTypeError: An argument is the wrong kind of object.
        OperandError: Shapes, dtypes or devices do not fit each other, attn_mask and is_causal are both given,
            or a number is out of range. It is a RuntimeError too, which torch raises.
        UnsupportedError: A tensor is nested with another layout than jagged, or given with attn_mask.
        BackendError: No backend, or not the one named, takes the call; every reason is shown.

    Example:
        >>> query, key, value = torch.randn(3, 2, 4, 6, 8)
        >>> keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None, None, :]  # [B, 1, 1, S]
        >>> scaled_dot_product_attention(query, key, value, attn_mask=keep).shape
        torch.Size([2, 4, 6, 8])
    """
    if is_nested(query, key, value):
        return _compute_nested(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            backend=backend,
        )
    given, form = _as_flex_arguments(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend
    )
    if torch.compiler.is_dynamo_compiling():
        return _unfolded(compute_compiled(given).out, form)
    call = SdpaCall(_read(given), form)
    return call.run(call.planned())


@final
@dataclass(frozen=True, eq=False)
class SdpaCall:
    """A call, checked and read; nothing is computed yet."""

    request: Request
    form: _Form

    def planned(self) -> Plan:
        """Choose who runs it.

        Raises:
            BackendError: No backend, or not the one named, takes it.
        """
        return planned(self.request)

    def run(self, chosen: Plan) -> Tensor:
        """Compute the output `[..., L, Ev]`, nested where the query is."""
        return _unfolded(compute(self.request, chosen).out, self.form)


def read_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    backend: str = AUTO,
) -> SdpaCall:
    """Read the arguments of `scaled_dot_product_attention`.

    Raises:
        SaccadeError: Something given cannot be used; see there.
    """
    given, form = _as_flex_arguments(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend
    )
    return SdpaCall(_read(given), form)


@outside_graphs
def _compute_nested(*args: Any, **kwargs: Any) -> Tensor:
    """Compute a call of nested tensors; the arguments are those of `scaled_dot_product_attention`."""
    call = read_sdpa(*args, **kwargs)
    return call.run(call.planned())


def _as_flex_arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | Tensor | None,
    enable_gqa: bool,
    backend: str,
) -> tuple[Arguments, _Form]:
    """The arguments of `flex_attention` that say the same, and what its output becomes."""
    _require_kinds(attn_mask, is_causal, query=query, key=key, value=value)
    given = Arguments(
        query,
        key,
        value,
        scale=_number("scale", scale) if isinstance(scale, Tensor) else scale,
        enable_gqa=enable_gqa,
        dropout_p=dropout_p,
        backend=backend,
    )
    if is_nested(query, key, value):
        return _packed(given, attn_mask, is_causal)
    folded = fold(query, key, value, enable_gqa)
    block_mask: BlockMask | None = None
    mask_mod, score_mod = _mods(attn_mask, folded)
    if is_causal and (torch.compiler.is_dynamo_compiling() or is_observed(query)):
        mask_mod = causal  # what is kept between calls is neither theirs to read nor to make
    elif is_causal:
        block_mask = _causal(*folded.scores_shape[-2:], query.device)
    given = given._replace(
        query=folded.query,
        key=folded.key,
        value=folded.value,
        score_mod=score_mod,
        block_mask=block_mask,
        enable_gqa=True,  # `fold` has settled which heads share
        mask_mod=mask_mod,
    )
    return given, folded.leading


def _packed(given: Arguments, attn_mask: Tensor | None, is_causal: bool) -> tuple[Arguments, _Form]:
    """A call of nested tensors `[B, H, j, E]` as one of their packed values."""
    if attn_mask is not None:
        raise UnsupportedError(
            "nested tensors take no attn_mask, for one table does not fit sequences of unequal lengths, got "
            f"attn_mask of shape {list(attn_mask.shape)}; pass is_causal=True, or call "
            "saccade.flex_attention with mask_mod="
        )
    try:
        call = packed_call(given._replace(mask_mod=causal if is_causal else None))
    except ArgumentError as fault:
        raise OperandError(str(fault)) from fault
    return call.packed, call.form


def _read(given: Arguments) -> Request:
    try:
        return read_request(given)
    except ArgumentError as fault:
        # The same fault, as the kind of error that torch raises here.
        raise OperandError(str(fault)) from fault


def _unfolded(out: Tensor, form: _Form) -> Tensor:
    if isinstance(form, NestedForm):
        return form.nested(out)
    return out if len(form) == 2 else out.reshape(*form, *out.shape[-2:])


def _require_kinds(attn_mask: object, is_causal: object, **tensors: object) -> None:
    given = tensors if attn_mask is None else tensors | {"attn_mask": attn_mask}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            remedy = "; call saccade.flex_attention with mask_mod=" if callable(tensor) else ""
            raise ArgumentTypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}{remedy}")
    if not isinstance(is_causal, bool):
        raise ArgumentTypeError(f"is_causal must be a bool, got {type(is_causal).__name__} {is_causal!r}")
    if is_causal and attn_mask is not None:
        raise OperandError(
            "expected attn_mask or is_causal, got both: is_causal=True, "
            f"attn_mask of shape {list(given['attn_mask'].shape)}; "  # type: ignore[attr-defined]
            "hide what is ahead in the mask itself, with attn_mask.tril() if it is bool"
        )


def _number(name: str, tensor: Tensor) -> float:
    """The number in a 0-d tensor, which torch's own reader of arguments takes for one."""
    if tensor.dim() or tensor.requires_grad:
        raise ArgumentTypeError(
            f"{name} must be a number, or a 0-d tensor without a gradient, got a tensor of shape "
            f"{list(tensor.shape)} with requires_grad={tensor.requires_grad}; multiply the query by it"
        )
    return float(tensor)


def _mods(attn_mask: Tensor | None, folded: Folded) -> tuple[Mask | None, Score | None]:
    """A table as a mask_mod, and where it is floating as a score_mod too."""
    if attn_mask is None:
        return None, None
    table = fold_mask(attn_mask, folded)
    if table.dtype is torch.bool:
        return dense(table), None
    query, table = autocasted(folded.query, table)
    if table.dtype not in (torch.float32, query.dtype):
        raise OperandError(
            "attn_mask must be bool (True = attend), float32 or of the query's dtype, got "
            f"attn_mask.dtype={attn_mask.dtype} and query.dtype={folded.query.dtype}; convert it with "
            ".to(query.dtype), or with .bool() if it marks what may be seen"
        )
    return additive_mods(table, folded.query.shape[-2])


@lru_cache(maxsize=_CAUSAL_MASKS)
def _causal(q_len: int, kv_len: int, device: torch.device) -> BlockMask:
    return create_block_mask(causal, None, None, q_len, kv_len, device=device)
