"""What `torch.use_deterministic_algorithms` asks of sums that no order is fixed for.

It is asked where a call is planned, and again where its gradients are computed: it may be set in between.
"""

from __future__ import annotations

import warnings

import torch

from saccade.errors import UnsupportedError

__all__ = ["UNORDERED", "must_be_deterministic", "tell_unordered"]

UNORDERED = "it adds up the gradient of a tensor that the score_mod reads in no fixed order"
"""What it is, as a clause about "it", the engine."""


def must_be_deterministic() -> bool:
    """Tell whether what is not the same to the bit from run to run must be refused."""
    return torch.are_deterministic_algorithms_enabled() and not (
        torch.is_deterministic_algorithms_warn_only_enabled()
    )


def tell_unordered() -> None:
    """Warn of sums in no fixed order, or refuse them, as torch is told to do with its own.

    Raises:
        UnsupportedError: torch.use_deterministic_algorithms was set after the call.
    """
    if must_be_deterministic():
        raise UnsupportedError(
            "expected gradients that are the same to the bit from run to run, because "
            "torch.use_deterministic_algorithms is set; but backend='triton' has computed the call, and "
            f"{UNORDERED}; set it before the call, for another backend to be chosen, or pass warn_only=True"
        )
    if torch.are_deterministic_algorithms_enabled():
        warnings.warn(
            f"backend='triton': {UNORDERED}, and torch.use_deterministic_algorithms(True, warn_only=True) is "
            "set; the gradient may differ in its last digits from run to run",
            UserWarning,
            stacklevel=2,
        )
