"""Who takes part in training, in which form, and why who stays away.

Owns the choice of peers. Torch's `flex_attention` is none: it has no gradients on a CPU. SDPA takes part by
its own flags, with a dense mask, and with a dense bias made of the learned numbers, where each is exact.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender, Workload, engine
from saccade.bench.cpu.peers import DENSE, OURS, SDPA, dense, too_large
from saccade.bench.train.patterns import TrainPattern
from saccade.masks import causal

__all__ = ["BIAS", "DENSE", "OURS", "SDPA", "engine_with_gradients", "participants"]

BIAS = "SDPA + bias"

# Torch computes dropout and biases that have a gradient through every score: the bias, the scores, the
# weights and their gradients in float32, and what is dropped.
_BYTES_A_SCORE = 28


def participants(pattern: TrainPattern, work: Workload, *, backend: str) -> list[Contender]:
    """Return who takes part in a case, ours first.

    Args:
        pattern: What is attended to.
        work: The same with its blocks and inputs.
        backend: The backend of ours.
    """
    found = [engine_with_gradients(work, backend)]
    if pattern.dense_bias is not None:
        found.append(_biased(pattern, work))
        return found
    if pattern.mask_mod in (None, causal):
        found.append(_by_flags(pattern, work))
    if pattern.mask_mod is not None and pattern.dropout_p == 0.0:
        found.append(dense(work))
    return found


def engine_with_gradients(work: Workload, backend: str) -> Contender:
    """Return our engine; one that has no gradients of the workload does not run."""
    found = replace(engine(work, backend), name=OURS)
    if found.backward_refusal:
        return replace(found, attend=None, refusal=found.backward_refusal)
    return found


def _by_flags(pattern: TrainPattern, work: Workload) -> Contender:
    """SDPA without a tensor for the mask; its dropout draws other pairs than ours."""
    is_causal, dropout_p = pattern.mask_mod is not None, work.dropout_p
    refusal = "" if dropout_p == 0.0 else too_large("its weights take", _BYTES_A_SCORE * work.size.scores)
    if refusal:
        return Contender(SDPA, work.density, refusal=refusal)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, is_causal=is_causal)

    return Contender(SDPA, work.density, attend, is_same=dropout_p == 0.0)


def _biased(pattern: TrainPattern, work: Workload) -> Contender:
    """SDPA with the bias as a tensor, made at every call, since its numbers change with every step."""
    dense_bias = pattern.dense_bias
    assert dense_bias is not None, "asked of patterns with a bias"
    refusal = too_large("its bias and weights take", _BYTES_A_SCORE * work.size.scores)
    if refusal:
        return Contender(BIAS, work.density, refusal=refusal)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=dense_bias())

    return Contender(BIAS, work.density, attend)
