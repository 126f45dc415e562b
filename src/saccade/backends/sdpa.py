"""torch's `scaled_dot_product_attention`, for the problems it computes exactly."""

from __future__ import annotations

from functools import partial
from typing import final

from torch.nn.functional import scaled_dot_product_attention

from saccade.backends.base import Backend, Kernel, Operands, Results
from saccade.backends.layout import like_query
from saccade.backends.patterns import Aligned, aligned, exact_pattern
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule
from saccade.settings import EAGER_LIMIT

__all__ = ["SdpaBackend"]

_MOST_GROUPED_DIM = 256


@final
class SdpaBackend(Backend):
    """Plain and causal attention. Everything else it can only emulate, by a dense mask that skips no work."""

    name = "sdpa"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that SDPA has not."""
        reasons = []
        if problem.score is not None:
            reasons.append("it changes no scores, and there is a score_mod")
        if _band(problem) is None:
            reasons.append(
                "its only patterns are no mask and causal with as many keys as queries or more, and the mask "
                "is another"
            )
        if problem.sinks is not None:
            reasons.append("it has no sinks")
        if problem.dropout_p > 0.0:
            reasons.append("its dropout draws from another random stream")
        wanted = [name for name, value in vars(problem.outputs).items() if value]
        if wanted:
            reasons.append(f"it returns the output alone, not {' or '.join(wanted)}")
        if problem.device == "cpu" and problem.has_mask and problem.scale <= 0.0:
            reasons.append(
                "its CPU kernel multiplies hidden scores of -inf by the scale, and with causal and "
                f"scale={problem.scale} gives NaN"
            )
        if problem.device != "cpu" and problem.scale <= 0.0:
            reasons.append(
                "its fused kernels look for a row's largest score before they scale, which a positive scale "
                f"alone leaves the largest, got scale={problem.scale}"
            )
        if problem.needs_tangent:
            reasons.append("its kernels have no forward-mode derivative")
        if problem.kv_len == 0:
            reasons.append("its output over no keys is not defined")
        return reasons

    def drawbacks(self, problem: AttentionProblem) -> list[str]:
        """Return that it would hold every score, where torch has no fused kernel and there are many."""
        held, limit = _would_hold_scores(problem), EAGER_LIMIT.read()
        if problem.device != "cuda" or not held or problem.scores <= limit:
            return []
        reason = f"torch has no fused kernel for {held} on a GPU: it would hold {problem.scores:,} scores"
        limited = f"'auto' takes it there for at most {limit:,}"
        remedy = f"name it with backend='sdpa' to use it all the same, or raise {EAGER_LIMIT.name}"
        return [f"{reason}, and {limited}; {remedy}"]

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the call of SDPA; it chooses its own schedule, within `torch.nn.attention.sdpa_kernel`."""
        band = _band(problem)
        assert band is not None, "a problem with another mask is refused"
        return partial(_attend, problem, band)


def _band(problem: AttentionProblem) -> Aligned | None:
    """The keys that SDPA is given, and whether causally; None where that is not the problem's pattern."""
    pattern = exact_pattern(problem)
    if pattern is None or pattern.documents:
        return None
    band = aligned(pattern, problem.q_len, problem.kv_len)
    if band is None or band.hides_nothing:
        return band
    # SDPA counts from the upper left corner, which is the same where there are as many keys as queries.
    return band if band.is_causal and band.stop - band.start == problem.q_len else None


def _would_hold_scores(problem: AttentionProblem) -> str:
    """What torch has no fused kernel for on a GPU; "" where it has one.

    In torch 2.13, sdp_utils.cpp: no kernel takes float64. The memory-efficient one takes any head dimensions
    and float32, but no grouped heads. flash and cuDNN take those, in 16 bits: flash with D = Dv <= 256, and
    cuDNN, with up to 256 too, is asked before the kernel that holds scores on Hopper and Blackwell alone.
    """
    if problem.dtype is DType.FLOAT64:
        return "float64"
    if problem.group_size == 1:
        return ""
    if problem.dtype is DType.FLOAT32:
        return "grouped heads in float32"
    dims = f"D={problem.head_dim} and Dv={problem.value_dim}"
    if max(problem.head_dim, problem.value_dim) > _MOST_GROUPED_DIM:
        return f"grouped heads with {dims}"
    if problem.head_dim != problem.value_dim:
        return f"grouped heads with {dims} (but cuDNN's, for some GPUs)"
    return ""


def _attend(problem: AttentionProblem, band: Aligned, operands: Operands) -> Results:
    query, key, value = operands.query, operands.key, operands.value
    if problem.kv_batch != problem.batch:
        key = key.expand(problem.batch, -1, -1, -1)
        value = value.expand(problem.batch, -1, -1, -1)
    if problem.has_mask:
        key, value = key[:, :, band.start : band.stop], value[:, :, band.start : band.stop]
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=not band.hides_nothing,
        scale=problem.scale,
        enable_gqa=bool(problem.group_size > 1),  # under torch.jit.trace, lengths are tensors
    )
    return Results(like_query(out, query))
