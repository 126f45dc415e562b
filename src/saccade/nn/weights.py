"""Attention that gives its weights back beside its output, the whole score matrix.

Owns which backend forms them, and that `torch.compile` leaves such a call to Python, as the operator in its
graphs returns none.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from saccade.attention import AuxRequest, flex_attention
from saccade.block_mask.uncompiled import uncompiled

__all__ = ["attend_with_weights"]

_FORMS_THEM = "eager"


@uncompiled
def attend_with_weights(
    query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend by "eager", and return the weights `[B, Hq, Q, K]` too.

    Args:
        query: As for `flex_attention`, and so are all that follow.
        key: See there.
        value: See there.
        options: The others, but for `return_aux` and `backend`.

    Example:
        >>> import torch
        >>> out, weights = attend_with_weights(*torch.randn(3, 1, 2, 5, 8))
        >>> weights.sum(-1).allclose(torch.ones(1, 2, 5))
        True
    """
    attended, aux = flex_attention(
        query, key, value, return_aux=AuxRequest(weights=True), backend=_FORMS_THEM, **options
    )
    return attended, aux.weights


_marked: Any = attend_with_weights
_marked._torchdynamo_disable_msg = (
    "need_weights=True asks for the whole score matrix, which the operator in a compiled graph does not "
    "return; compile without fullgraph=True, or ask for the weights outside the compiled part"
)
