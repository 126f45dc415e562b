"""What `torch.use_deterministic_algorithms` asks of a library: gradients summed in a fixed order.

It is asked where a call is planned and where it is made; what is set between a call and its gradients comes
too late, for these libraries decide it at the call.
"""

from __future__ import annotations

import warnings

import torch

from saccade.backends.flash.library import Library
from saccade.problem import AttentionProblem

__all__ = ["is_ordered", "order_reasons"]


def order_reasons(library: Library, problem: AttentionProblem, gpu: tuple[int, int]) -> list[str]:
    """Return why a library must not compute the gradients that a problem wants.

    Args:
        library: Who would, installed and without faults.
        problem: What is asked.
        gpu: The compute capability.
    """
    if not _is_asked(problem) or torch.is_deterministic_algorithms_warn_only_enabled():
        return []
    reason = _unordered(library, problem, gpu)
    return [f"{reason}, and torch.use_deterministic_algorithms is set"] if reason else []


def is_ordered(library: Library, problem: AttentionProblem, gpu: tuple[int, int]) -> bool:
    """Tell whether to ask a library for a fixed order; warns where it has none and torch is told to warn.

    Args:
        library: Who computes.
        problem: What is asked.
        gpu: The compute capability.
    """
    if not _is_asked(problem):
        return False
    reason = _unordered(library, problem, gpu)
    if reason:
        warnings.warn(
            f"{library.package}: {reason}, and torch.use_deterministic_algorithms(True, warn_only=True) is "
            "set; gradients may differ in their last digits from run to run",
            UserWarning,
            stacklevel=2,
        )
    return not reason


def _is_asked(problem: AttentionProblem) -> bool:
    return problem.needs_grad and torch.are_deterministic_algorithms_enabled()


def _unordered(library: Library, problem: AttentionProblem, gpu: tuple[int, int]) -> str:
    """Why its backward has no fixed order, as a clause about "it"; "" where it has one."""
    if not all(library.takes_deterministic(packed=packed) for packed in (False, True)):
        return "its installed version sums gradients in no fixed order"
    if gpu[0] not in library.ordered_majors:
        return f"on compute capability {gpu[0]}.x it sums gradients in no fixed order"
    if problem.head_dim > library.ordered_dim:
        return (
            f"beyond head dimensions of {library.ordered_dim} it sums gradients in no fixed order, got "
            f"D={problem.head_dim}"
        )
    return ""
