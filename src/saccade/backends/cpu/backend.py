"""The CPU engine as a backend: what it takes, and problems made ready, the latest kept."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import lru_cache
from typing import final

from saccade.backends.base import Backend, BackwardKernel, Kernel
from saccade.backends.cpu.backward import CpuBackward
from saccade.backends.cpu.call import CpuKernel
from saccade.backends.cpu.specialise import choose
from saccade.backends.differentiation import DifferentiableKernel
from saccade.backends.empty import EmptyBackward, EmptyKernel
from saccade.backends.program_size import size_reasons
from saccade.backends.sdpa import SdpaBackend
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem
from saccade.runtime.host import host_isa, this_host
from saccade.schedule import Schedule

__all__ = ["CpuBackend"]

_MOST_DIM = 512
_MOST_LENGTH = 2**31 - 1  # ranges of keys and queries are int32
_MOST_NODES = 3000  # of a program; LLVM takes up to ten seconds for them
_SDPA = SdpaBackend()
_UNMEASURED = (
    "it has not been measured against sdpa on processors that multiply tiles of bfloat16 matrices (AMX); "
    "name it with backend='cpu' to use it all the same"
)


@final
class CpuBackend(Backend):
    """Fused kernels for any mod, compiled in process by LLVM."""

    name = "cpu"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that the engine has not, and what the machine lacks."""
        if problem.device != "cpu":
            return [f"it runs on cpu devices, and the tensors are on {problem.device}"]
        reasons = []
        if not this_host().isas:
            reasons.append(f"it has no kernels for this processor's architecture, {platform.machine()}")
        if problem.needs_tangent:
            reasons.append("it has no forward-mode derivative, and a tangent travels with an input")
        if problem.outputs.weights:
            reasons.append("it never forms the weights")
        if not (1 <= problem.head_dim <= _MOST_DIM and 1 <= problem.value_dim <= _MOST_DIM):
            reasons.append(
                f"its kernels have head dimensions from 1 to {_MOST_DIM}, "
                f"got D={problem.head_dim} and Dv={problem.value_dim}"
            )
        if max(problem.q_len, problem.kv_len) > _MOST_LENGTH:
            reasons.append(
                f"it counts queries and keys to {_MOST_LENGTH}, got Q={problem.q_len} and K={problem.kv_len}"
            )
        return reasons + size_reasons(problem, _MOST_NODES)

    def drawbacks(self, problem: AttentionProblem) -> list[str]:
        """Return that torch's kernels may be faster, where nobody has measured."""
        if problem.dtype is DType.BFLOAT16 and this_host().has_amx and not _SDPA.unsupported_reasons(problem):
            return [_UNMEASURED]
        return []

    def schedule(self, problem: AttentionProblem, hints: Schedule) -> Schedule:
        """Return the hints with the tiles, the kernel and the instruction set that they leave open."""
        if problem.scores == 0:
            return hints
        return choose(problem, hints, host_isa(), this_host().cores).schedule(hints)

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the problem made ready; machine code is made at the first call that needs it."""
        return _made_ready(problem, schedule, host_isa())

    def compile_backward(self, problem: AttentionProblem, schedule: Schedule) -> BackwardKernel:
        """Return what differentiates the problem's calls; machine code is made as for `compile`."""
        return _backward_made_ready(_attending(problem), host_isa())


@lru_cache(maxsize=256)
def _made_ready(problem: AttentionProblem, schedule: Schedule, isa: str) -> Kernel:
    if problem.needs_grad:
        attending = _attending(problem)
        kernel, backward = _made_ready(attending, schedule, isa), _backward_made_ready(attending, isa)
        return DifferentiableKernel(kernel, backward, problem.outputs)
    if problem.scores == 0:
        return EmptyKernel(problem)
    return CpuKernel(problem, choose(problem, schedule, isa, this_host().cores))


@lru_cache(maxsize=256)
def _backward_made_ready(problem: AttentionProblem, isa: str) -> BackwardKernel:
    return EmptyBackward(problem) if problem.scores == 0 else CpuBackward(problem, isa)


def _attending(problem: AttentionProblem) -> AttentionProblem:
    """The problem as kernels know it: where gradients are needed it wants lse, from which weights are."""
    return replace(problem, needs_grad=False, outputs=replace(problem.outputs, lse=True))
