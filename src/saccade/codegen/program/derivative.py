"""The derivative of a score program, as a program of its own: what the backward kernel runs beside it."""

from __future__ import annotations

from functools import lru_cache

from saccade.ir.expr import const
from saccade.ir.grad import differentiate
from saccade.ir.structure import ModKind, Structure

__all__ = ["derivative"]


@lru_cache(maxsize=1024)
def derivative(structure: Structure) -> Structure:
    r"""Return the gradient of the score from `grad`, the gradient of what the score mod made of it.

    Its captures and numbers are the score program's own, in the same slots.

    Args:
        structure: A SCORE structure.

    Example:
        >>> from saccade.ir.text import format_expression, parse_structure
        >>> format_expression(derivative(parse_structure("score() -> f32\nscore * 3.0")).root)
        'grad * 3.0'
    """
    gradient = differentiate(structure).score
    root = const(0.0, structure.root.dtype) if gradient is None else gradient
    return Structure(ModKind.SCORE, root, structure.captures, structure.numbers)
