"""Who runs a problem: the one place where backends are chosen.

`auto` takes the first backend that accepts, fastest first for the device. It takes `eager`, which holds every
score, only within a limit (or for the weights, which nothing else forms). A backend asked for by name runs or
raises with its reasons; nothing falls back in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from saccade.backends.base import BackwardKernel, Kernel
from saccade.backends.registry import ENTRIES, Visibility, candidates, load
from saccade.errors import ArgumentError, BackendError
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule
from saccade.settings import EAGER_LIMIT

__all__ = ["AUTO", "Plan", "backend_names", "plan", "reasons_against"]

AUTO = "auto"

_NO_HINTS = Schedule()
_NAMES = tuple(entry.name for entry in ENTRIES)
_NATIVE = frozenset(entry.name for entry in ENTRIES if entry.visibility is Visibility.NATIVE)

_log = logging.getLogger("saccade")


@final
@dataclass(frozen=True)
class Plan:
    """A problem and who runs it.

    Attributes:
        problem: What is asked.
        backend: The name of the backend that runs it.
        schedule: Hints for it.
        refusals: Why each backend asked before was not taken: name to reasons.
    """

    problem: AttentionProblem
    backend: str
    schedule: Schedule
    refusals: Mapping[str, tuple[str, ...]]

    def compile(self) -> Kernel:
        """Return the callable that runs the problem."""
        return load(self.backend).compile(self.problem, self.schedule)

    def compile_backward(self) -> BackwardKernel | None:
        """Return what computes its gradients apart; None where torch's operations compute it."""
        return load(self.backend).compile_backward(self.problem, self.schedule)


def plan(problem: AttentionProblem, backend: str = AUTO, schedule: Schedule | None = None) -> Plan:
    """Choose who runs a problem.

    Args:
        problem: What is asked.
        backend: A backend's name, or "auto" for the first that accepts.
        schedule: Hints for the backend; by default none.

    Returns:
        The plan.

    Raises:
        ArgumentError: No backend has the name.
        BackendError: The named backend, or every one, refuses; with every reason of each.

    Example:
        >>> from saccade.ir.dtype import DType
        >>> problem = AttentionProblem("cpu", DType.FLOAT32, 1, 1, 4, 4, 64, 64, 32, 32, scale=0.2)
        >>> plan(problem).backend
        'cpu'
    """
    if backend != AUTO and backend not in _NAMES:
        known = ", ".join(map(repr, (AUTO, *_NAMES)))
        raise ArgumentError(f"backend must be one of {known}, got backend={backend!r}")
    names = candidates(problem.device) if backend == AUTO else (backend,)
    refusals: dict[str, tuple[str, ...]] = {}
    for name in names:
        reasons = reasons_against(problem, name, asked_by_name=backend != AUTO)
        if not reasons:
            chosen = Plan(problem, name, schedule or _NO_HINTS, MappingProxyType(refusals))
            _log.debug(
                "%s runs %s with %s; refused by %s", name, problem, chosen.schedule, refusals or "none"
            )
            return chosen
        refusals[name] = tuple(reasons)
    if backend == AUTO:
        raise BackendError(
            f"no backend takes this call (backend={AUTO!r}); each says why:",
            refusals,
            "Change what one of them objects to, or name a backend with backend=." + _elsewhere(problem),
        )
    raise BackendError(
        f"backend={backend!r} does not take this call:",
        refusals,
        f"Change what it objects to, or leave the choice to Saccade with backend={AUTO!r}.",
    )


def _elsewhere(problem: AttentionProblem) -> str:
    """What else there is for tensors that are not on a CPU."""
    if problem.device == "cpu":
        return ""
    return (
        f" On {problem.device}, backend='eager' runs and holds every score; for tensors moved to a CPU with "
        ".cpu() there is the engine of backend='cpu', which holds none."
    )


def backend_names() -> tuple[str, ...]:
    """Return the name of every backend.

    Example:
        >>> "eager" in backend_names()
        True
    """
    return _NAMES


def reasons_against(problem: AttentionProblem, name: str, *, asked_by_name: bool) -> list[str]:
    """Return every reason not to run a problem on a backend.

    Args:
        problem: What is asked.
        name: The backend's name.
        asked_by_name: Whether the user named it; otherwise its drawbacks and the limits of `auto` count too.
    """
    backend = load(name)
    reasons = backend.unsupported_reasons(problem)
    if problem.follower and name in _NATIVE:
        reasons.append(
            f"it computes in code of its own, and {problem.follower} follows torch's operations alone"
        )
    if asked_by_name:
        return reasons
    reasons += backend.drawbacks(problem)
    if name == "eager" and not problem.outputs.weights:
        limit = EAGER_LIMIT.read()
        if problem.scores > limit:
            reasons.append(
                f"it would hold {problem.scores:,} scores, and {AUTO!r} takes it for at most {limit:,}; "
                f"name it with backend={name!r} to use it all the same, or raise {EAGER_LIMIT.name}"
            )
    return reasons
