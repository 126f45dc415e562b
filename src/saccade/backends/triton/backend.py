"""The GPU engine as a backend: what it takes, and problems made ready, the latest kept."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import final

import torch

from saccade.backends.base import Backend, BackwardKernel, Kernel
from saccade.backends.differentiation import DifferentiableKernel
from saccade.backends.empty import EmptyBackward, EmptyKernel
from saccade.backends.program_size import size_reasons
from saccade.backends.triton.backward import TritonBackward
from saccade.backends.triton.call import TritonKernel
from saccade.backends.triton.determinism import UNORDERED, must_be_deterministic
from saccade.backends.triton.specialise import choose
from saccade.codegen.triton.capture_ways import capture_ways
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem
from saccade.runtime.triton import describe_device, is_available
from saccade.schedule import Schedule
from saccade.settings import GPU_CHECKS

__all__ = ["TritonBackend"]

_DTYPES = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)
_DIM_STEP, _MOST_DIM = 8, 256
_MOST_LENGTH = 2**31 - 1  # ranges of keys and queries are int32
_MOST_NODES = 2000  # of a program
# Operations that a read counts as which a whole tile makes: for sm_90 and tiles of the default size, a nested
# mask with 8 takes 18 s to compile, one with 16 takes 83 s.
_PAIR_READ = 200


@final
class TritonBackend(Backend):
    """Fused kernels for any mod, written in Triton and compiled for the device at hand."""

    name = "triton"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that the engine has not, and what the machine lacks."""
        missing = is_available(problem.device)
        if missing is not None:
            return [missing]
        reasons = _reasons(problem)
        if problem.needs_grad and must_be_deterministic() and _adds_unordered(problem):
            reasons.append(f"{UNORDERED}, and torch.use_deterministic_algorithms is set")
        return reasons

    def schedule(self, problem: AttentionProblem, hints: Schedule) -> Schedule:
        """Return the hints with the tile and the kernel that they leave open."""
        if problem.scores == 0:
            return hints
        device = describe_device(torch.device(problem.device))
        return choose(_attending(problem), hints, device).schedule(hints, device.target.name)

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the problem made ready; kernels are compiled at the first call that needs them."""
        return _made_ready(problem, schedule, GPU_CHECKS.read())

    def compile_backward(self, problem: AttentionProblem, schedule: Schedule) -> BackwardKernel:
        """Return what differentiates the problem's calls; kernels are compiled as for `compile`."""
        return _backward_made_ready(_attending(problem), schedule, GPU_CHECKS.read())


def _reasons(problem: AttentionProblem) -> list[str]:
    """The reasons that stand in the problem alone; its lengths may be symbols of torch's compilers."""
    reasons = []
    if problem.dtype not in _DTYPES:
        known = ", ".join(each.name.lower() for each in _DTYPES)
        reasons.append(f"its kernels take {known}, and the tensors are {problem.dtype.name.lower()}")
    if problem.needs_tangent:
        reasons.append("it has no forward-mode derivative, and a tangent travels with an input")
    if problem.outputs.weights:
        reasons.append("it never forms the weights")
    dims = (problem.head_dim, problem.value_dim)
    if any(dim % _DIM_STEP or not _DIM_STEP <= dim <= _MOST_DIM for dim in dims):
        reasons.append(
            f"its kernels have head dimensions that are multiples of {_DIM_STEP} up to {_MOST_DIM}, "
            f"got D={problem.head_dim} and Dv={problem.value_dim}"
        )
    if any(_is_too_long(length) for length in (problem.q_len, problem.kv_len)):
        reasons.append(
            f"it counts queries and keys to {_MOST_LENGTH}, got Q={problem.q_len} and K={problem.kv_len}"
        )
    return reasons + size_reasons(problem, _MOST_NODES, pair_read=_PAIR_READ)


def _is_too_long(length: object) -> bool:
    # A symbol is held against it when it is a number: now, that would bind what is exported to such lengths.
    return isinstance(length, int) and length > _MOST_LENGTH


def _adds_unordered(problem: AttentionProblem) -> bool:
    """Whether its gradients are not the same to the bit from run to run."""
    score = problem.score
    if score is None or not score.needs_grad:
        return False
    ways = capture_ways(score.structure, score.capture_grads, score.numbers, problem.batch, problem.q_heads)
    return not all(way.is_deterministic for way in ways)


@lru_cache(maxsize=256)
def _made_ready(problem: AttentionProblem, schedule: Schedule, checks: bool) -> Kernel:
    if problem.needs_grad:
        attending = _attending(problem)
        kernel = _made_ready(attending, schedule, checks)
        backward = _backward_made_ready(attending, schedule, checks)
        return DifferentiableKernel(kernel, backward, problem.outputs)
    if problem.scores == 0:
        return EmptyKernel(problem)
    return TritonKernel(problem, schedule, checks=checks)


@lru_cache(maxsize=256)
def _backward_made_ready(problem: AttentionProblem, schedule: Schedule, checks: bool) -> BackwardKernel:
    if problem.scores == 0:
        return EmptyBackward(problem)
    return TritonBackward(problem, schedule, checks=checks)


def _attending(problem: AttentionProblem) -> AttentionProblem:
    """The problem as kernels know it: where gradients are needed it wants lse, from which weights are."""
    return replace(problem, needs_grad=False, outputs=replace(problem.outputs, lse=True))
