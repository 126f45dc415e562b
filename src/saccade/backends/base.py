"""The contract every engine keeps, and the tensors that travel through it.

For any problem and schedule, a backend satisfies

    unsupported_reasons(problem) == []  <=>  compile(problem, schedule) returns a kernel
    compile(problem, s1)(operands)      ==   compile(problem, s2)(operands), for every s1, s2, up to rounding
    kernel(operands)                    ==   the results of `Backend`'s equations, gradients included

and it never decides by itself to run something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol, final

from torch import Tensor

from saccade.block_mask import BlockMask
from saccade.ir.program import Program
from saccade.problem import AttentionProblem, Wanted
from saccade.schedule import Schedule
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["Backend", "BackwardKernel", "Gradients", "Kernel", "Operands", "Results"]


@final
@dataclass(frozen=True, eq=False)
class Operands:
    """The tensors, programs and masks of one call; `AttentionProblem` holds the facts about them.

    Attributes:
        query: `[B, Hq, Q, D]`.
        key: `[B or 1, Hkv, K, D]`.
        value: `[B or 1, Hkv, K, Dv]`.
        score: The traced score_mod; None where the score is unchanged.
        score_mod: The user's function behind `score`; None where there is none, or a Program was given.
        block_mask: The block mask; None where it hides nothing.
        mask: The traced mask_mod that must hold beside it; None where it hides nothing.
        mask_mod: The user's function behind `mask`; None as for `score_mod`.
        sinks: `[Hq]`, or None.
        dropout_seed: int64 scalar tensor on the host; None without dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    score: Program | None = None
    score_mod: ScoreMod | None = None
    block_mask: BlockMask | None = None
    mask: Program | None = None
    mask_mod: MaskMod | None = None
    sinks: Tensor | None = None
    dropout_seed: Tensor | None = None


@final
@dataclass(frozen=True, eq=False)
class Results:
    """What a kernel returns; None for what was not asked for.

    Attributes:
        out: `[B, Hq, Q, Dv]` of the query's dtype, its dimensions in memory ordered like the query's.
        lse: `[B, Hq, Q]` float32 (float64 for float64 inputs), natural log, differentiable.
        max_scores: `[B, Hq, Q]` of the type of lse, without a gradient.
        weights: `[B, Hq, Q, K]` of the query's dtype: what multiplies the values, so after dropout.
    """

    out: Tensor
    lse: Tensor | None = None
    max_scores: Tensor | None = None
    weights: Tensor | None = None


@final
@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a call's operands, each of its operand's shape and dtype; None for what was not wanted.

    Attributes:
        query: Its dimensions in memory ordered like the query's.
        key: Contiguous, and so are all that follow.
        value: See there.
        sinks: See there.
        captures: Of the captured tensors of the score program, by slot; () where none is wanted.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    sinks: Tensor | None = None
    captures: tuple[Tensor | None, ...] = ()


class Kernel(Protocol):
    """A compiled problem: it takes any operands of which the problem's facts are true."""

    def __call__(self, operands: Operands) -> Results:
        """Compute attention."""
        ...


class BackwardKernel(Protocol):
    """What differentiates the calls of a problem whose kernel computes no gradients by itself."""

    def __call__(
        self,
        operands: Operands,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        wanted: Wanted,
    ) -> Gradients:
        """Compute gradients.

        Args:
            operands: Those of the forward, the seed of dropout included.
            results: What it gave, lse among it.
            grad_out: Gradient of the output, `[B, Hq, Q, Dv]`; None where it is 0.
            grad_lse: Gradient of lse, `[B, Hq, Q]`; None where it is 0.
            wanted: Which gradients.
        """
        ...


class Backend(ABC):
    """An engine, and what it computes.

    With `h' = h // (Hq / Hkv)`, and sums over the keys that query q of head h sees, that is

        s[b, h, q, k] = score_mod(scale * query[b, h, q] · key[b, h', k], b, h, q, k)
        z[b, h, q]    = sum_k exp(s[b, h, q, k]) + exp(sinks[h])
        lse           = log z
        max_scores    = max_k s
        weights       = keep * exp(s) / z / keep rate
        out[b, h, q]  = sum_k weights[b, h, q, k] * value[b, h', k]

    A pair is seen where its block is FULL, or PARTIAL and the block mask's mod is True, and the mask_mod is
    True. A row whose z is 0 has output 0, lse and max_scores −inf, and gradients 0. A hidden pair has no say:
    whatever a mod computes there.
    """

    name: ClassVar[str]
    """What `backend=` calls it."""

    @abstractmethod
    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return why it cannot compute the problem, each reason a clause about "it"; empty if it can."""

    def drawbacks(self, problem: AttentionProblem) -> list[str]:
        """Return why `auto` should pass it over though it can, in clauses about "it"; by default none."""
        return []

    def schedule(self, problem: AttentionProblem, hints: Schedule) -> Schedule:
        """Return the hints as `compile` would complete them; by default it would not.

        For `explain`: `compile` takes the hints alone.
        """
        return hints

    @abstractmethod
    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return a callable for a problem it has no reason to refuse."""

    def compile_backward(self, problem: AttentionProblem, schedule: Schedule) -> BackwardKernel | None:
        """Return what computes the gradients of the problem's calls.

        For callers that keep the two apart, as torch's compilers do. None, the default: kernels are made of
        torch's operations, which differentiate themselves.
        """
        return None
