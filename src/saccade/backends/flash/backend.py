"""The flash-attn libraries behind the contract: what each refuses, and why."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from saccade.backends.base import Backend, Kernel
from saccade.backends.flash.determinism import is_ordered, order_reasons
from saccade.backends.flash.kernel import FlashKernel
from saccade.backends.flash.library import (
    FLASH_ATTENTION_2,
    FLASH_ATTENTION_3,
    FLASH_ATTENTION_4,
    Library,
    capability,
)
from saccade.backends.patterns import Aligned, aligned, exact_pattern
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule

__all__ = ["FlashAttention2Backend", "FlashAttention3Backend", "FlashAttention4Backend", "FlashBackend"]

_MODES = torch._C._TorchDispatchModeKey
_GRAPH_MODES = (_MODES.FAKE, _MODES.PROXY, _MODES.FUNCTIONAL)
_MOST_TOKENS = 2**31 - 1
_PATTERNS = (
    "its only patterns are no mask, causal, windows that hold a query's own place (counted from the lower "
    "right), and documents packed in runs, alone or with one of those"
)


class FlashBackend(Backend):
    """A library of fused kernels for NVIDIA GPUs (Dao et al., arXiv 2205.14135, 2307.08691, 2407.08608)."""

    library: ClassVar[Library]

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that the library has not, and what the machine lacks."""
        library = self.library
        if problem.device != "cuda":
            return [f"it runs on NVIDIA GPUs (cuda devices), and the tensors are on {problem.device}"]
        reasons = []
        if not library.is_installed():
            reasons.append(f"its package {library.package} is not installed; {library.install}")
        found = capability()
        if found is None:
            reasons.append("it needs an NVIDIA GPU that torch can use, and there is none")
        elif found[0] not in library.majors:
            reasons.append(
                f"it needs a GPU of compute capability {library.gpus}, and this one has {found[0]}.{found[1]}"
            )
        reasons += self._about_tensors(problem) + self._about_extras(problem) + _about_mask(problem)
        if found is not None and found[0] in library.plain_gradients and problem.needs_grad:
            pattern, band = exact_pattern(problem), _band(problem)
            if pattern is not None and (pattern.documents or not _is_plain(band)):
                reasons.append(
                    f"on compute capability {found[0]}.x its backward takes neither windows nor packed "
                    "documents"
                )
        reasons = reasons or library.faults()
        if reasons or found is None:
            return reasons
        return order_reasons(library, problem, found)

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the call of the library, which chooses its own schedule."""
        pattern, band, found = exact_pattern(problem), _band(problem), capability()
        assert pattern is not None, "a problem with another mask is refused"
        assert band is not None, "and so is one whose window it cannot count"
        assert found is not None, "and any without a GPU"
        ordered = is_ordered(self.library, problem, found)
        return FlashKernel(self.library, problem, band, pattern.documents, ordered)

    def _about_tensors(self, problem: AttentionProblem) -> list[str]:
        reasons = []
        if problem.dtype not in (DType.FLOAT16, DType.BFLOAT16):
            reasons.append(f"it takes float16 and bfloat16, and the tensors are {problem.dtype.name.lower()}")
        if problem.head_dim != problem.value_dim or problem.head_dim not in self.library.head_dims:
            reasons.append(
                f"it takes head dimensions of {self.library.dims}, the same for keys and values, "
                f"got D={problem.head_dim} and Dv={problem.value_dim}"
            )
        if problem.scores == 0:
            reasons.append("it takes no empty tensors")
        if problem.batch * max(problem.q_len, problem.kv_len) > _MOST_TOKENS:
            reasons.append(f"it counts tokens to {_MOST_TOKENS:,}, over all of the batch")
        if problem.scale <= 0.0:
            reasons.append(
                "it looks for a row's largest score before it scales, which a positive scale alone leaves "
                f"the largest, got scale={problem.scale}"
            )
        return reasons

    def _about_extras(self, problem: AttentionProblem) -> list[str]:
        reasons = []
        if problem.score is not None:
            reasons.append("it is not given score changes, and there is a score_mod")
        if problem.sinks is not None:
            reasons.append("it is not given sinks")
        if problem.dropout_p > 0.0:
            reasons.append("its dropout draws from another random stream")
        if problem.outputs.weights:
            reasons.append("it never forms the weights")
        if problem.outputs.max_scores:
            reasons.append("it does not return the largest scores")
        if problem.outputs.lse and problem.needs_grad:
            reasons.append("its lse carries no gradient, and one may be wanted")
        if problem.needs_tangent:
            reasons.append("it has no forward-mode derivative")
        elif problem.follower:
            reasons.append(f"its kernels are no operations that {problem.follower} can follow")
        if _is_compiled():
            reasons.append("its kernels are not taken into graphs of torch.compile and torch.export")
        return reasons


@final
class FlashAttention2Backend(FlashBackend):
    """flash-attn 2: `flash_attn_func` and `flash_attn_varlen_func` of the package flash_attn."""

    name = "flash_attention_2"
    library = FLASH_ATTENTION_2


@final
class FlashAttention3Backend(FlashBackend):
    """flash-attn 3, for Hopper: the same functions of the module flash_attn_interface."""

    name = "flash_attention_3"
    library = FLASH_ATTENTION_3


@final
class FlashAttention4Backend(FlashBackend):
    """flash-attn 4, for Hopper and Blackwell: the same functions of the package flash_attn.cute."""

    name = "flash_attention_4"
    library = FLASH_ATTENTION_4


def _is_compiled() -> bool:
    """Whether the call is on its way into a graph, where gradients need an lse that has one."""
    return torch.compiler.is_compiling() or any(
        torch._C._get_dispatch_mode(mode) is not None for mode in _GRAPH_MODES
    )


def _about_mask(problem: AttentionProblem) -> list[str]:
    if problem.scores == 0:
        return []
    pattern, band = exact_pattern(problem), _band(problem)
    if pattern is None or band is None:
        return [f"{_PATTERNS}, and the mask is another, or is not known to be one of them"]
    reasons = []
    if band.right is not None and band.right >= band.stop - band.start:
        # The libraries take such a limit for none at all, which holds for as many keys as queries alone.
        reasons.append(
            f"it takes a window of {band.right} keys ahead for all of them where it has "
            f"{band.stop - band.start} keys"
        )
    if problem.outputs.lse and pattern.leaves_rows_empty(problem.q_len, problem.kv_len):
        reasons.append("its lse of queries that see nothing is not defined, and there are some")
    return reasons


def _band(problem: AttentionProblem) -> Aligned | None:
    pattern = exact_pattern(problem)
    return None if pattern is None else aligned(pattern, problem.q_len, problem.kv_len)


def _is_plain(band: Aligned | None) -> bool:
    """Whether nothing is hidden, or what causality hides."""
    return band is None or band.hides_nothing or band.is_causal
