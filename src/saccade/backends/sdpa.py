"""torch's `scaled_dot_product_attention`, for the problems it computes exactly."""

from __future__ import annotations

from functools import partial
from typing import final

from torch.nn.functional import scaled_dot_product_attention

from saccade.backends.base import Backend, Kernel, Operands, Results
from saccade.backends.layout import like_query
from saccade.backends.patterns import hides_by_program, is_causal
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule

__all__ = ["SdpaBackend"]


@final
class SdpaBackend(Backend):
    """Plain and causal attention. Everything else it can only emulate, by a dense mask that skips no work."""

    name = "sdpa"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return what the problem has that SDPA has not."""
        reasons = []
        if problem.score is not None:
            reasons.append("it changes no scores, and there is a score_mod")
        if not _has_exact_mask(problem):
            reasons.append(
                "its only patterns are no mask and causal with as many queries as keys, and the mask is "
                "another"
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
        if problem.needs_tangent:
            reasons.append("its kernels have no forward-mode derivative")
        if problem.kv_len == 0:
            reasons.append("its output over no keys is not defined")
        return reasons

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the call of SDPA; it chooses its own schedule, within `torch.nn.attention.sdpa_kernel`."""
        return partial(_attend, problem)


def _has_exact_mask(problem: AttentionProblem) -> bool:
    masks = hides_by_program(problem)
    if not masks:
        return masks is not None
    return problem.q_len == problem.kv_len and all(map(is_causal, masks))


def _attend(problem: AttentionProblem, operands: Operands) -> Results:
    query, key, value = operands.query, operands.key, operands.value
    if problem.kv_batch != problem.batch:
        key = key.expand(problem.batch, -1, -1, -1)
        value = value.expand(problem.batch, -1, -1, -1)
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=problem.has_mask,
        scale=problem.scale,
        enable_gqa=bool(problem.group_size > 1),  # under torch.jit.trace, lengths are tensors
    )
    return Results(like_query(out, query))
