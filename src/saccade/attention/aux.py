"""What `flex_attention` can return beside its output: how it is asked for, and how it comes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.problem import Outputs

__all__ = ["AuxOutput", "AuxRequest", "wanted_outputs"]

_OUT_ALONE, _OUT_AND_LSE = Outputs(), Outputs(lse=True)


class AuxRequest(NamedTuple):
    """Which further results a call returns; torch's own `AuxRequest` is taken as well.

    Attributes:
        lse: The logarithm of each row's softmax denominator.
        max_scores: Each row's largest score.
        weights: The attention weights. They are the whole score matrix: only `eager` forms them.

    Example:
        >>> AuxRequest(lse=True)
        AuxRequest(lse=True, max_scores=False, weights=False)
    """

    lse: bool = False
    max_scores: bool = False
    weights: bool = False


class AuxOutput(NamedTuple):
    """The further results; None for what was not asked for.

    Attributes:
        lse: `[B, Hq, Q]` float32 (float64 for float64 inputs), natural logarithm, differentiable. A sink is
            part of it. −inf for a row that sees nothing.
        max_scores: `[B, Hq, Q]` of the same type, after score_mod and mask, without a gradient. −inf for a
            row that sees nothing.
        weights: `[B, Hq, Q, K]` of the query's dtype: what multiplies the values, so after dropout.
    """

    lse: Tensor | None = None
    max_scores: Tensor | None = None
    weights: Tensor | None = None


def wanted_outputs(return_lse: bool, return_aux: object) -> Outputs:
    """Read which results are asked for.

    Args:
        return_lse: flex_attention's argument.
        return_aux: An `AuxRequest` of this module or of torch, or None.

    Raises:
        ArgumentError: Both are given.
        ArgumentTypeError: `return_aux` is no request.
    """
    if return_aux is None:
        return _OUT_AND_LSE if return_lse else _OUT_ALONE
    if not hasattr(return_aux, "lse"):
        raise ArgumentTypeError(
            f"return_aux must be an AuxRequest, got {type(return_aux).__name__} {return_aux!r}; "
            "write return_aux=AuxRequest(lse=True)"
        )
    if return_lse:
        raise ArgumentError(
            f"expected return_lse or return_aux, got both: return_lse={return_lse}, "
            f"return_aux={return_aux!r}; "
            "write return_aux=AuxRequest(lse=True) alone"
        )
    # torch's request has no weights, and that of older releases may lack more.
    wanted = {name: bool(getattr(return_aux, name, False)) for name in AuxRequest._fields}
    return Outputs(**wanted)
