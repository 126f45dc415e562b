"""The second catalogue: mods as the FlexAttention walk-through prints them, where print and meaning differ.

They are valid mods all the same, so they run and equal the oracle. `docs/decisions/007` says what each should
have been; the library's own forms are in the first catalogue.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from catalogue.case import Case, Mods, Sizes
from saccade import register_rule

WINDOW, PREFIX = 2, 1


def sliding_window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx <= WINDOW)


def prefix_lm(b, h, q_idx, kv_idx):
    return (kv_idx <= PREFIX) | (q_idx >= kv_idx)


def checkerboard(score, b, h, q_idx, kv_idx):
    score = torch.where(torch.abs(kv_idx - q_idx) % 1 == 0, score * 0.5, score)
    return torch.where(torch.abs(kv_idx - q_idx) % 2 == 0, score * 2.0, score)


def alibi_by_tensor(s: Sizes) -> Mods:
    slopes = torch.exp2(-torch.arange(1, s.heads + 1, dtype=s.dtype, device="cpu") * 8.0 / s.heads)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + (q_idx - kv_idx) * slopes[h]

    return Mods(score=score_mod)


def alibi_by_formula(s: Sizes) -> Mods:
    def score_mod(score, b, h, q_idx, kv_idx):
        return score + (q_idx - kv_idx) * torch.exp2(-((h + 1) * 8.0 / s.heads))

    return Mods(score=score_mod)


@cache
def tanh_operator():
    """A custom op that no tracer can look into, and its rule."""

    @torch.library.custom_op("saccade_printed::tanh", mutates_args=())
    def tanh(x: Tensor) -> Tensor:
        return torch.tanh(x)

    tanh.register_fake(torch.empty_like)
    register_rule(tanh, torch.tanh)
    return torch.ops.saccade_printed.tanh


class PrintedTanh(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return tanh_operator()(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad_output):
        (result,) = ctx.saved_tensors
        return grad_output * (1 - result * result)


def softcap(score, b, h, q_idx, kv_idx):
    return 2 * PrintedTanh.apply(score / 2)


PRINTED = [
    Case(
        "printed_sliding_window",
        lambda s: Mods(sliding_window),
        ("x... xx.. xxx. .xxx", "x..... xx.... xxx... .xxx..", "x... xx.. xxx. .xxx ..xx ...x"),
        causal=True,
    ),
    Case(
        "printed_prefix_lm",
        lambda s: Mods(prefix_lm),
        ("xx.. xx.. xxx. xxxx", "xx.... xx.... xxx... xxxx..", "xx.. xx.. xxx. xxxx xxxx xxxx"),
    ),
    Case(
        "printed_checkerboard",
        lambda s: Mods(score=checkerboard),
        scores=[[1.0, 0.5, 1.0, 0.5], [0.5, 1.0, 0.5, 1.0]] * 2,
    ),
    Case(
        "printed_alibi_by_tensor",
        alibi_by_tensor,
        scores=[[1 + (q - kv) / 16 for kv in range(4)] for q in range(4)],
        reads_h=True,
    ),
    Case(
        "printed_alibi_by_formula",
        alibi_by_formula,
        scores=[[1 + (q - kv) / 16 for kv in range(4)] for q in range(4)],
        reads_h=True,
    ),
    Case("printed_softcap", lambda s: Mods(score=softcap)),
]
"""Each as printed, by the name that the text gives it."""
