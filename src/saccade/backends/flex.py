"""torch's own `flex_attention`, compiled, on our masks and the user's own functions.

Torch compiles at the first call of each pattern, which takes seconds and, on a CPU, a C++ compiler. What a
mod reads out of range is torch's affair there: it checks nothing.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from saccade.backends.base import Backend, Kernel, Operands, Results
from saccade.backends.layout import like_query
from saccade.block_mask import create_block_mask
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem, ModFacts
from saccade.schedule import Schedule
from saccade.signatures import ScoreMod

__all__ = ["FlexBackend", "has_cpp_compiler"]

# Torch compiles anew for every mod; its limit of 8 would end that with an error.
_PATTERNS = 256
_LEAST_DIM_ON_GPU = 16
_NOT_TORCHS = "max_autotune"  # a kernel option that torch gives its compiler, not its kernels
_HAS_AUX = hasattr(torch_flex, "AuxRequest")


@final
class FlexBackend(Backend):
    """Torch's fused kernels: forward and backward on a GPU, forward alone on a CPU."""

    name = "flex_attention"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that torch's flex_attention has not, and what the machine lacks."""
        reasons = []
        if problem.device not in _DEVICE_REASONS:
            return [
                f"it runs on {' and '.join(_DEVICE_REASONS)} devices, and the tensors are on {problem.device}"
            ]
        if problem.dtype is DType.FLOAT64:
            reasons.append("its kernels compute in float32 at most, and the tensors are float64")
        if problem.sinks is not None:
            reasons.append("it has no sinks")
        if problem.dropout_p > 0.0:
            reasons.append("it has no dropout")
        if problem.outputs.weights:
            reasons.append("it never forms the weights")
        if (problem.outputs.lse or problem.outputs.max_scores) and not _HAS_AUX:
            reasons.append(f"it returns the output alone in torch {torch.__version__}")
        if problem.scores == 0:
            reasons.append("it takes no empty tensors")
        if problem.needs_tangent:
            reasons.append("it has no forward-mode derivative")
        if problem.block_mask is not None and problem.mask_mod is not None:
            reasons.append(
                "it takes one mask, and both block_mask and mask_mod are given; join them in one BlockMask"
            )
        given = {"score_mod": problem.score, "mask_mod": problem.mask_mod, "block_mask": _mod_of(problem)}
        for name, mod in given.items():
            if mod is not None and not mod.is_function:
                reasons.append(f"it compiles the function itself, and the {name} is a traced Program")
        return reasons + _DEVICE_REASONS[problem.device](problem)

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return torch's function behind a conversion of the mask; torch compiles at the first call."""
        options = {key: value for key, value in schedule.engine_options if not key.endswith(_NOT_TORCHS)}
        return _FlexKernel(problem, options)


def _mod_of(problem: AttentionProblem) -> ModFacts | None:
    return None if problem.block_mask is None else problem.block_mask.mod


def _on_cpu(problem: AttentionProblem) -> list[str]:
    reasons = []
    if problem.needs_grad:
        reasons.append("torch gives it no gradient on a CPU")
    if problem.outputs.lse or problem.outputs.max_scores:
        reasons.append("on a CPU it returns the output alone")
    if not has_cpp_compiler():
        reasons.append("on a CPU it needs a C++ compiler, and none of c++, g++, clang++ is on the PATH")
    return reasons


def _on_cuda(problem: AttentionProblem) -> list[str]:
    reasons = []
    if importlib.util.find_spec("triton") is None:
        reasons.append("on a GPU it needs triton, which is not installed")
    if min(problem.head_dim, problem.value_dim) < _LEAST_DIM_ON_GPU:
        reasons.append(
            f"on a GPU it needs head dimensions of {_LEAST_DIM_ON_GPU} or more, "
            f"got D={problem.head_dim} and Dv={problem.value_dim}"
        )
    score = problem.score
    if score is not None and any(
        wants and not shape for wants, shape in zip(score.capture_grads, score.capture_shapes, strict=True)
    ):
        reasons.append("it computes no gradient of a 0-d tensor that a score_mod reads")
    return reasons


_DEVICE_REASONS: dict[str, Callable[[AttentionProblem], list[str]]] = {"cuda": _on_cuda, "cpu": _on_cpu}


def has_cpp_compiler() -> bool:
    """Return whether a C++ compiler is on the PATH."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@final
@dataclass(frozen=True)
class _FlexKernel:
    problem: AttentionProblem
    kernel_options: dict[str, Any]

    def __call__(self, operands: Operands) -> Results:
        problem = self.problem
        query, key, value = operands.query, operands.key, operands.value
        if not problem.needs_grad:
            # Torch refuses tensors that could require a gradient, wanted or not.
            query, key, value = query.detach(), key.detach(), value.detach()
        wanted = {}
        if problem.outputs.lse or problem.outputs.max_scores:
            outputs = problem.outputs
            wanted["return_aux"] = torch_flex.AuxRequest(lse=outputs.lse, max_scores=outputs.max_scores)
        found = _compiled()(
            query,
            key.expand(problem.batch, -1, -1, -1),
            value.expand(problem.batch, -1, -1, -1),
            score_mod=_plain(operands.score_mod),
            block_mask=self._torch_mask(operands),
            scale=problem.scale,
            enable_gqa=problem.group_size > 1,
            kernel_options=self.kernel_options or None,
            **wanted,
        )
        if not wanted:
            return Results(like_query(found, query))
        out, aux = found
        max_scores = None if aux.max_scores is None else aux.max_scores.detach()
        return Results(like_query(out, query), aux.lse, max_scores)

    def _torch_mask(self, operands: Operands) -> torch_flex.BlockMask | None:
        mask, device = operands.block_mask, operands.query.device
        if operands.mask is not None and operands.mask_mod is not None:
            problem, reads = self.problem, operands.mask.reads
            batch, heads = problem.batch if reads("b") else None, problem.q_heads if reads("h") else None
            mask = create_block_mask(
                operands.mask_mod, batch, heads, problem.q_len, problem.kv_len, device=device
            )
        return None if mask is None else mask.to_torch(device)


def _plain(mod: ScoreMod | None) -> ScoreMod | None:
    """A score_mod as a plain function, the one kind of callable that every torch takes."""
    if mod is None or hasattr(mod, "__code__"):
        return mod

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(score, b, h, q_idx, kv_idx)

    return score_mod


@cache
def _compiled() -> Callable[..., Any]:
    options: dict[str, Any] = {"fullgraph": True}
    # Older releases have the limit in their configuration alone.
    if "recompile_limit" in signature(torch.compile).parameters:
        options["recompile_limit"] = _PATTERNS
    compiled: Callable[..., Any] = torch.compile(torch_flex.flex_attention, **options)
    return compiled
