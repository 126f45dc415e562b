"""Scores of the library and of users, alone and with masks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from catalogue.case import Case, Mods, Sizes
from catalogue.library_masks import document_ids
from catalogue.user_masks import late_rows_see_nothing
from saccade import masks as m
from saccade import scores as sc


def learned_slopes(s: Sizes) -> Mods:
    slopes = s.learned(s.heads)
    return Mods(m.causal, sc.alibi(slopes=slopes), {"slopes": slopes})


def table_for_all(s: Sizes) -> Mods:
    table = s.learned(s.q_len, s.kv_len)
    return Mods(score=sc.bias(table), learned={"table": table})


def table_per_head(s: Sizes) -> Mods:
    table = s.learned(s.heads, s.q_len, s.kv_len)
    return Mods(m.sliding_window(3), sc.bias(table), {"table": table})


def table_of_keys(s: Sizes) -> Mods:
    table = s.learned(s.batch, 1, 1, s.kv_len)
    return Mods(score=sc.bias(table), learned={"table": table})


def relative_per_head(s: Sizes) -> Mods:
    table = s.learned(s.heads, 2 * s.length - 1)
    return Mods(score=sc.relative_bias(table), learned={"table": table})


def relative_in_window(s: Sizes) -> Mods:
    """The table holds the distances that the window shows: every other one is out of range, and hidden."""
    table = s.learned(5)
    return Mods(m.local(2, 2), sc.relative_bias(table), {"table": table})


def learned_scales(s: Sizes) -> Mods:
    scale = s.learned(s.heads)
    return Mods(m.prefix_lm(2), sc.head_scale(scale), {"scale": scale})


def learned_decay(s: Sizes) -> Mods:
    decay = torch.sigmoid(s.floats(s.heads)).requires_grad_()
    return Mods(m.causal, sc.distance_decay(decay), {"decay": decay})


def t5_encoder(s: Sizes) -> Mods:
    table = s.learned(8, s.heads)
    return Mods(score=sc.t5_bias(table, buckets=8, max_distance=6), learned={"table": table})


def t5_decoder(s: Sizes) -> Mods:
    table = s.learned(6, s.heads)
    score = sc.t5_bias(table, buckets=6, max_distance=5, bidirectional=False)
    return Mods(m.causal, score, {"table": table})


def graph_for_all(s: Sizes) -> Mods:
    """A path of nodes, the last of which stands alone."""
    node = s.positions
    distances = (node[: s.q_len, None] - node[: s.kv_len]).abs()
    alone = (node[: s.q_len, None] == s.length - 1) ^ (node[: s.kv_len] == s.length - 1)
    table = s.learned(s.heads, s.length + 1)
    return Mods(score=sc.graphormer_bias(table, distances.masked_fill(alone, -1)), learned={"table": table})


def graph_per_batch(s: Sizes) -> Mods:
    """A ring of three nodes or more in each batch entry, with a table for all heads."""
    node, entry = s.positions, torch.arange(s.batch, device="cpu")[:, None, None]
    distances = (node[: s.q_len, None] - node[: s.kv_len]).abs() % (3 + entry)
    table = s.learned(2 + s.batch)
    return Mods(m.local(3, 3), sc.graphormer_bias(table, distances), {"table": table})


LIBRARY_SCORES = [
    Case(
        "alibi",
        lambda s: Mods(score=sc.alibi(n_heads=s.heads)),
        scores=[[1 + (kv - q) / 16 for kv in range(4)] for q in range(4)],
        reads_h=True,
    ),
    Case("alibi_learned", learned_slopes, causal=True, reads_h=True),
    Case("softcap", lambda s: Mods(score=sc.softcap(2.0)), scores=[[2 * math.tanh(0.5)] * 4] * 4),
    Case(
        "softcap_document_causal",
        lambda s: Mods(m.causal & m.document(document_ids(s)), sc.softcap(2.0)),
        causal=True,
    ),
    Case(
        "softcap_approximate",
        lambda s: Mods(score=sc.softcap(0.25, approximate=True)),
        # The quotient of polynomials at 4; tanh(4) is 0.99933.
        scores=[[0.25 * 2052796 / 2054143] * 4] * 4,
        torch_forward=False,  # its tracer loses the vmap rule of a custom autograd.Function
    ),
    Case("bias", table_for_all),
    Case("bias_per_head", table_per_head, causal=True, reads_h=True),
    Case("bias_of_keys", table_of_keys, reads_b=True),
    Case("relative_bias", relative_per_head, reads_h=True),
    Case(
        "checkerboard",
        lambda s: Mods(score=sc.checkerboard),
        scores=[[2.0, 0.5, 2.0, 0.5], [0.5, 2.0, 0.5, 2.0]] * 2,
    ),
    Case(
        "head_scale",
        lambda s: Mods(score=sc.head_scale(torch.arange(3, 3 + s.heads, dtype=s.dtype, device="cpu"))),
        scores=[[4.0] * 4] * 4,
        at=(0, 1),
        reads_h=True,
    ),
    Case("head_scale_learned", learned_scales, reads_h=True),
    Case(
        "distance_decay",
        lambda s: Mods(score=sc.distance_decay(0.5)),
        scores=[[1 - abs(q - kv) * math.log(2) for kv in range(4)] for q in range(4)],
    ),
    Case("distance_decay_learned", learned_decay, causal=True, reads_h=True),
    Case("t5_bias", t5_encoder, reads_h=True),
    Case("t5_bias_causal", t5_decoder, causal=True, reads_h=True),
    Case("graphormer_bias", graph_for_all, reads_h=True),
    Case("graphormer_bias_per_batch", graph_per_batch, reads_b=True),
    Case("relative_bias_in_window", relative_in_window, pairwise=True, torch_forward=False),
]


def unchanged(score, b, h, q_idx, kv_idx):
    return score


def checkerboard(score, b, h, q_idx, kv_idx):
    return torch.where(torch.abs(kv_idx - q_idx) % 2 == 1, score * 0.5, score * 2.0)


def causal_score(score, b, h, q_idx, kv_idx):
    return torch.where(q_idx >= kv_idx, score, -float("inf"))


def relative(score, b, h, q_idx, kv_idx):
    return score + (kv_idx - q_idx)


def silu(score, b, h, q_idx, kv_idx):
    return F.silu(score)


def gelu(score, b, h, q_idx, kv_idx):
    return F.gelu(score)


def many_functions(score, b, h, q_idx, kv_idx):
    waves = torch.sin(score) + torch.cos(0.1 * (q_idx + kv_idx)) - 0.5 * torch.tanh(score)
    return waves + torch.sigmoid(score) * torch.log1p(torch.exp(score)) + torch.sqrt(score.abs() + 1.0)


def powers(score, b, h, q_idx, kv_idx):
    return (
        0.1 * score**3 + 1.0 / (score**2 + 1.5) - torch.exp2(-score.abs()) + torch.pow(score.abs() + 0.5, 0.7)
    )


def bounded(score, b, h, q_idx, kv_idx):
    return torch.minimum(torch.maximum(score, -0.5 * torch.ones_like(score)), score.clamp(max=0.75))


def integer_division(score, b, h, q_idx, kv_idx):
    distance = kv_idx - q_idx
    return score + 0.1 * (distance // 3) - 0.2 * (distance % 3) + 0.05 * (distance % -2)


def choices(score, b, h, q_idx, kv_idx):
    near = torch.where(kv_idx == q_idx, score * 2, score + 1)
    far = torch.where(kv_idx > q_idx, score - 1, score * 0.5)
    return torch.where(abs(q_idx - kv_idx) < 2, near, far)


def alibi_formula(s: Sizes) -> Mods:
    """The slope as the formula gives it, in torch's default precision whatever the score's."""

    def score_mod(score, b, h, q_idx, kv_idx):
        slope = torch.exp2(-((h + 1) * 8.0 / s.heads))
        return score + slope * (kv_idx - q_idx)

    return Mods(score=score_mod)


def closure_softcap(s: Sizes) -> Mods:
    def generate(cap):
        def score_mod(score, b, h, q_idx, kv_idx):
            return cap * torch.tanh(score / cap)

        return score_mod

    return Mods(m.causal, generate(1.5))


def full_bias(s: Sizes) -> Mods:
    bias = s.learned(s.batch, s.heads, s.q_len, s.kv_len)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + bias[b, h, q_idx, kv_idx]

    return Mods(score=score_mod, learned={"bias": bias})


def distance_bias(s: Sizes) -> Mods:
    bias = s.learned(s.heads, 2 * s.length + 1)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + bias[h, q_idx - kv_idx + s.length]

    return Mods(score=score_mod, learned={"bias": bias})


def chained_index(s: Sizes) -> Mods:
    bias = s.learned(s.batch, s.heads, s.q_len)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * bias[b][h][q_idx]

    return Mods(m.causal, score_mod, {"bias": bias})


def summed_row(s: Sizes) -> Mods:
    scale = s.learned(s.batch, 3)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * scale[b].sum(-1)

    return Mods(score=score_mod, learned={"scale": scale})


def dot_of_rows(s: Sizes) -> Mods:
    a, c = s.learned(s.batch, s.heads, s.q_len, 3), s.learned(s.batch, s.heads, s.kv_len, 3)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + torch.dot(a[b, h, q_idx], c[b, h, kv_idx])

    return Mods(m.local(2, 2), score_mod, {"a": a, "c": c})


def t5_buckets(s: Sizes) -> Mods:
    table = s.learned(8, s.heads)
    # No distance falls on a bucket's edge, so that rounding in the logarithm cannot matter.
    exact, farthest = 3, 20

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = torch.clamp(q_idx - kv_idx, min=0)
        share = torch.log(distance.float() / exact) / math.log(farthest / exact)
        far = torch.clamp(exact + (share * (8 - exact)).to(torch.int64), max=7)
        return score + table[torch.where(distance < exact, distance, far), h]

    return Mods(m.causal, score_mod, {"table": table})


def temperature(s: Sizes) -> Mods:
    temperature = s.learned()

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * temperature

    return Mods(m.prefix_lm(2), score_mod, {"temperature": temperature})


def gate_per_head(s: Sizes) -> Mods:
    gate = s.learned(s.heads)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * torch.sigmoid(gate[h])

    return Mods(late_rows_see_nothing, score_mod, {"gate": gate})


def bucket_table(s: Sizes) -> Mods:
    bucket = (s.positions[: s.q_len, None] * 3 + s.positions[: s.kv_len]) % 4
    table = s.learned(4)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + table[bucket[q_idx, kv_idx]]

    return Mods(score=score_mod, learned={"table": table})


def two_steps(s: Sizes) -> Mods:
    seq = document_ids(s)
    offsets = s.learned(s.length)

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + offsets[seq[q_idx]] * offsets[seq[kv_idx]]

    return Mods(m.document(seq), score_mod, {"offsets": offsets})


def padded_rows(s: Sizes) -> Mods:
    bias = s.learned(s.heads)
    odd = torch.arange(s.batch, device="cpu")[:, None] % 2 == 1
    mask = m.causal & m.create_padding_mask(odd & (s.positions >= 3))

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * bias[h] + 0.1 * kv_idx

    return Mods(mask, score_mod, {"bias": bias})


def infinite_where_hidden(s: Sizes) -> Mods:
    """A hidden pair's score is infinite and its derivative no number; neither may be seen."""
    rate = s.learned()

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + rate * torch.log((q_idx - kv_idx + 1).to(score.dtype))

    return Mods(m.causal, score_mod, {"rate": rate})


USER_SCORES = [
    Case("unchanged", lambda s: Mods(score=unchanged), scores=[[1.0] * 4] * 4),
    Case(
        "user_checkerboard",
        lambda s: Mods(score=checkerboard),
        scores=[[2.0, 0.5, 2.0, 0.5], [0.5, 2.0, 0.5, 2.0]] * 2,
    ),
    Case(
        "causal_score",
        lambda s: Mods(score=causal_score),
        scores=[[1.0 if q >= kv else -math.inf for kv in range(4)] for q in range(4)],
    ),
    Case(
        "relative",
        lambda s: Mods(score=relative),
        scores=[[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0], [-1.0, 0.0, 1.0, 2.0], [-2.0, -1.0, 0.0, 1.0]],
    ),
    Case("silu", lambda s: Mods(score=silu)),
    Case("gelu", lambda s: Mods(score=gelu)),
    Case("many_functions", lambda s: Mods(score=many_functions)),
    Case("powers", lambda s: Mods(score=powers)),
    Case("bounded", lambda s: Mods(score=bounded)),
    Case("integer_division", lambda s: Mods(score=integer_division)),
    Case("choices", lambda s: Mods(score=choices)),
    Case("alibi_formula", alibi_formula, reads_h=True),
    Case("closure_softcap", closure_softcap, causal=True),
    Case("full_bias", full_bias, reads_b=True, reads_h=True),
    Case("distance_bias", distance_bias, reads_h=True),
    Case(
        "chained_index",
        chained_index,
        causal=True,
        reads_b=True,
        reads_h=True,
        pairwise=True,
        torch_backward=False,
    ),
    Case("summed_row", summed_row, reads_b=True, torch_backward=False),
    Case("dot_of_rows", dot_of_rows, reads_b=True, reads_h=True, pairwise=True, torch_backward=False),
    Case("t5_buckets", t5_buckets, causal=True, reads_h=True),
    Case("temperature", temperature, torch_backward=False),
    Case("gate_per_head", gate_per_head, causal=True, reads_h=True),
    Case("bucket_table", bucket_table),
    Case("score_two_steps", two_steps),
    Case("padded_rows", padded_rows, causal=True, reads_b=True, reads_h=True),
    # torch's gradient of the rate is NaN.
    Case("infinite_where_hidden", infinite_where_hidden, causal=True, pairwise=True, torch_backward=False),
]
