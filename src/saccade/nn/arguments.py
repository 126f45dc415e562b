"""Checks of the numbers and choices that modules are made with; each says what was expected and given."""

from __future__ import annotations

from numbers import Real

from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.mod_value import require_at_least

__all__ = ["require_bools", "require_divisor", "require_probability", "require_sizes"]


def require_bools(receiver: str, **choices: object) -> None:
    """Check that what says yes or no is a bool: any text would be a yes.

    Raises:
        ArgumentTypeError: One is none.
    """
    for name, choice in choices.items():
        if not isinstance(choice, bool):
            raise ArgumentTypeError(
                f"{receiver}(): {name} must be True or False, got {type(choice).__name__} {choice!r}"
            )


def require_sizes(receiver: str, **sizes: int) -> None:
    """Check that sizes are integers of 1 or more.

    Raises:
        ArgumentTypeError: One is no integer.
        ArgumentError: One is below 1.
    """
    for name, size in sizes.items():
        require_at_least(1, size, f"{receiver}(): {name}")


def require_divisor(receiver: str, dividend: tuple[str, int], divisor: tuple[str, int]) -> None:
    """Check that one size divides another, each given with its name.

    Raises:
        ArgumentError: It does not.
    """
    if dividend[1] % divisor[1]:
        raise ArgumentError(
            f"{receiver}(): {dividend[0]} must be a multiple of {divisor[0]}, got "
            f"{dividend[0]}={dividend[1]} and {divisor[0]}={divisor[1]}"
        )


def require_probability(receiver: str, dropout: object) -> None:
    """Check that a dropout is a probability.

    Raises:
        ArgumentTypeError: It is no number.
        ArgumentError: It is outside [0, 1].
    """
    if isinstance(dropout, bool) or not isinstance(dropout, Real):
        raise ArgumentTypeError(
            f"{receiver}(): dropout must be a number, got {type(dropout).__name__} {dropout!r}; "
            "0.0 drops nothing"
        )
    if not 0.0 <= float(dropout) <= 1.0:
        raise ArgumentError(
            f"{receiver}(): dropout must be in [0, 1], the part of weights to drop, got dropout={dropout}"
        )
