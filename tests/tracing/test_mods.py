"""Whole mods, traced and interpreted, against the same functions called by torch pair by pair."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from catalogue import CATALOGUE, Case, Sizes
from pairwise import all_pairs, by_program, by_torch, check
from saccade.ir.structure import ModKind
from saccade.ir.text import format_structure, parse_structure
from saccade.tracing import trace

MASK, SCORE = ModKind.MASK, ModKind.SCORE

FIXED = torch.Generator().manual_seed(5)  # a module is imported before any fixture seeds a test
BIAS = torch.randn(2, 2, 4, 5, generator=FIXED)
RELATIVE = torch.randn(2, 12, generator=FIXED)
SEQUENCE = torch.tensor([0, 0, 1, 1, 2])
SLOPES = torch.tensor([0.5, 0.25])
ROWS = torch.randn(2, 3, generator=FIXED)
QUERIES, KEYS = (torch.randn(2, 2, n, 6, generator=FIXED) for n in (4, 5))
TREE = torch.rand(4, 5, generator=FIXED) > 0.5
HALF = torch.randn(5, generator=FIXED).to(torch.bfloat16)
COUNT = torch.tensor(3)
SCALE = torch.tensor(0.5)
OFFSETS = torch.tensor([0, 2, 5])


def t5_bucket(score, b, h, q_idx, kv_idx):
    distance = q_idx - kv_idx
    exact = 2
    large = exact + (torch.log(distance.abs().float() / exact) / math.log(8 / exact) * 4).to(torch.int64)
    large = torch.minimum(large, torch.full_like(large, 5))
    bucket = torch.where(distance.abs() < exact, distance.abs(), large)
    return score + RELATIVE[h, bucket + (distance > 0) * 6]


def checkerboard(score, b, h, q_idx, kv_idx):
    score = torch.where(torch.abs(kv_idx - q_idx) % 2 == 1, score * 0.5, score)
    return torch.where(torch.abs(kv_idx - q_idx) % 2 == 0, score * 2.0, score)


def natten(b, h, q_idx, kv_idx):
    q_x, q_y = q_idx // 2, q_idx % 2
    kv_x, kv_y = kv_idx // 2, kv_idx % 2
    center_x = q_x.clamp(1, 1)
    center_y = torch.clamp(q_y, min=0, max=2 - 1)
    return ((center_x - kv_x).abs() <= 1) & ((center_y - kv_y).abs() <= 0)


MASKS = {
    "causal": lambda b, h, q_idx, kv_idx: q_idx >= kv_idx,
    "window": lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx <= 2),
    "document": lambda b, h, q_idx, kv_idx: SEQUENCE[q_idx] == SEQUENCE[kv_idx],
    "tree": lambda b, h, q_idx, kv_idx: (kv_idx < 2) | TREE[q_idx, (kv_idx - 2).clamp(min=0)],
    "logic": lambda b, h, q_idx, kv_idx: torch.logical_or(~(q_idx > 1), torch.logical_not(kv_idx ^ q_idx)),
    "numbers as bools": lambda b, h, q_idx, kv_idx: torch.logical_and(q_idx, kv_idx % 2),
    "shifts": lambda b, h, q_idx, kv_idx: (q_idx >> 1) == ((kv_idx << 2) >> 3),
    "negative quotient": lambda b, h, q_idx, kv_idx: (kv_idx - q_idx) // 3 == (q_idx - kv_idx) % -2,
    "python True": lambda b, h, q_idx, kv_idx: True,
    "tensor True": lambda b, h, q_idx, kv_idx: torch.tensor(True),
    "new_ones": lambda b, h, q_idx, kv_idx: q_idx.new_ones((), dtype=torch.bool) & (q_idx != kv_idx),
    "new_zeros": lambda b, h, q_idx, kv_idx: b.new_zeros((), dtype=torch.bool) | (q_idx == h),
    "natten": natten,
    "two steps": lambda b, h, q_idx, kv_idx: kv_idx < OFFSETS[SEQUENCE[q_idx].clamp(max=2)],
    "scalar tensor": lambda b, h, q_idx, kv_idx: kv_idx - q_idx < COUNT,
    "0-d first": lambda b, h, q_idx, kv_idx: kv_idx - q_idx < COUNT,
    "any": lambda b, h, q_idx, kv_idx: (q_idx == SEQUENCE).any() & (SEQUENCE[:3] != kv_idx).all(),
    "inline number": lambda b, h, q_idx, kv_idx: q_idx * 0.5 > kv_idx - 1.5,
    "power of two": lambda b, h, q_idx, kv_idx: (q_idx**3) % 7 < kv_idx**2,
    "reads all": lambda b, h, q_idx, kv_idx: (b + h + q_idx + kv_idx) % 2 == 0,
}

SCORES = {
    "bias": lambda score, b, h, q_idx, kv_idx: score + BIAS[b, h, q_idx, kv_idx],
    "view": lambda score, b, h, q_idx, kv_idx: score + BIAS[b][h][q_idx][kv_idx],
    "half view": lambda score, b, h, q_idx, kv_idx: score + BIAS[b][h][q_idx, kv_idx],
    "ellipsis": lambda score, b, h, q_idx, kv_idx: score + BIAS[..., kv_idx][b][h, q_idx],
    "last first": lambda score, b, h, q_idx, kv_idx: score + BIAS[:, :, q_idx, kv_idx][b, h],
    "relative": lambda score, b, h, q_idx, kv_idx: score + RELATIVE[h, q_idx - kv_idx + 5],
    "negative index": lambda score, b, h, q_idx, kv_idx: score + RELATIVE[h, kv_idx - 5],
    "sum": lambda score, b, h, q_idx, kv_idx: score * ROWS[b].sum(-1),
    "mean": lambda score, b, h, q_idx, kv_idx: score * ROWS[b].mean() + ROWS[h].mean(0, keepdim=True)[0],
    "extrema": lambda score, b, h, q_idx, kv_idx: score + ROWS[b].amax(-1) - torch.amin(ROWS[h], 0),
    "max and min": lambda score, b, h, q_idx, kv_idx: score + ROWS[b].max() - torch.min(ROWS[h]),
    "dot": lambda score, b, h, q_idx, kv_idx: score + torch.dot(QUERIES[b, h, q_idx], KEYS[b, h, kv_idx]),
    "matmul": lambda score, b, h, q_idx, kv_idx: score + QUERIES[b, h, q_idx] @ KEYS[b, h, kv_idx],
    "product sum": lambda score, b, h, q_idx, kv_idx: (
        score + (QUERIES[b, h, q_idx] * KEYS[b][h, kv_idx]).sum()
    ),
    "nested sums": lambda score, b, h, q_idx, kv_idx: (
        score + (QUERIES[b, h] * KEYS[b, h, kv_idx]).sum(-1).max()
    ),
    "captured vector": lambda score, b, h, q_idx, kv_idx: score + (ROWS[b] * ROWS[0]).sum(),
    "alibi": lambda score, b, h, q_idx, kv_idx: score + SLOPES[h] * (kv_idx - q_idx),
    "alibi formula": lambda score, b, h, q_idx, kv_idx: (
        score + torch.exp2(-((h + 1) * 8.0 / 2)) * (kv_idx - q_idx)
    ),
    "softcap": lambda score, b, h, q_idx, kv_idx: 2.0 * torch.tanh(score / 2.0),
    "silu": lambda score, b, h, q_idx, kv_idx: F.silu(score),
    "where chain": lambda score, b, h, q_idx, kv_idx: torch.where(
        q_idx >= kv_idx, torch.where(kv_idx < 2, score, -score), -float("inf")
    ),
    "checkerboard": checkerboard,
    "t5": t5_bucket,
    "half table": lambda score, b, h, q_idx, kv_idx: score + HALF[kv_idx],
    "0-d scale": lambda score, b, h, q_idx, kv_idx: score * SCALE + COUNT,
    "eager part": lambda score, b, h, q_idx, kv_idx: score * (SLOPES.exp() * 2)[h],
    "int result": lambda score, b, h, q_idx, kv_idx: q_idx - kv_idx,
    "bool result": lambda score, b, h, q_idx, kv_idx: q_idx >= kv_idx,
    "number result": lambda score, b, h, q_idx, kv_idx: 2.5,
    "tensor result": lambda score, b, h, q_idx, kv_idx: SCALE,
    "double result": lambda score, b, h, q_idx, kv_idx: score.double() * 2,
    "in place": lambda score, b, h, q_idx, kv_idx: functools.reduce(lambda x, y: x + y, [score, h, b]),
    "index_select": lambda score, b, h, q_idx, kv_idx: score + torch.index_select(SLOPES, 0, h)[0],
    "index_select last": lambda score, b, h, q_idx, kv_idx: score + RELATIVE.index_select(-1, h)[b, 0],
    "take": lambda score, b, h, q_idx, kv_idx: score + torch.take(BIAS, q_idx * 5 + kv_idx),
    "embedding": lambda score, b, h, q_idx, kv_idx: score + F.embedding(h, ROWS)[2],
    "slice": lambda score, b, h, q_idx, kv_idx: score + BIAS[1:, h, :, 1:4:2][0, q_idx].sum(),
    "slice of a row": lambda score, b, h, q_idx, kv_idx: score + RELATIVE[h][2:9:3].sum(),
    "slice, then a constant": lambda score, b, h, q_idx, kv_idx: (
        score + RELATIVE[h][2:][1] + RELATIVE[h][3:-2][-1]
    ),
    "constant index": lambda score, b, h, q_idx, kv_idx: score + BIAS[1, h, -2, kv_idx],
    "new axis": lambda score, b, h, q_idx, kv_idx: (
        score + (ROWS[b][:, None] * RELATIVE[h][None, :3]).sum((0, 1))
    ),
    "row by index vector": lambda score, b, h, q_idx, kv_idx: score + RELATIVE[h, SEQUENCE[:3] + q_idx].sum(),
    "vector by vector": lambda score, b, h, q_idx, kv_idx: score + BIAS[b, h][SEQUENCE + 0 * q_idx, :3].sum(),
    "transposed": lambda score, b, h, q_idx, kv_idx: score + BIAS[b, h].transpose(0, 1)[kv_idx, q_idx],
    "permuted": lambda score, b, h, q_idx, kv_idx: score + BIAS[b].permute(2, 0, 1)[kv_idx, h, q_idx],
    "mT": lambda score, b, h, q_idx, kv_idx: score + BIAS[b, h].mT[kv_idx, q_idx],
    "reshape": lambda score, b, h, q_idx, kv_idx: score + ROWS[b].view(1, -1, 1).squeeze(0)[1, 0],
    "unpacked": lambda score, b, h, q_idx, kv_idx: score + functools.reduce(torch.maximum, ROWS[b]),
    "sum of squares": lambda score, b, h, q_idx, kv_idx: score / ROWS[b].square().sum(-1).sqrt(),
    "count": lambda score, b, h, q_idx, kv_idx: score + (q_idx >= SEQUENCE).sum(),
    "expanded": lambda score, b, h, q_idx, kv_idx: score + ROWS[b][None].expand(2, -1).sum(),
    "where over rows": lambda score, b, h, q_idx, kv_idx: (
        score + torch.where(ROWS[b] > 0, ROWS[h], kv_idx).sum()
    ),
    "where by a pair": lambda score, b, h, q_idx, kv_idx: (
        score + torch.where(q_idx > kv_idx, ROWS[b], 0.5).sum()
    ),
    "numel": lambda score, b, h, q_idx, kv_idx: score * ROWS[b].numel() + len(ROWS[h]) + ROWS[b].size(0),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_as_in_torch(name: str) -> None:
    check(MASKS[name], MASK)


@pytest.mark.parametrize("name", SCORES)
def test_scores_as_in_torch(name: str) -> None:
    program = check(SCORES[name], SCORE)
    text = format_structure(program.structure)
    assert parse_structure(text) == program.structure


OPERATORS = [
    *(
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.pow,
    ),
    *(operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift),
    *(operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge),
    *(torch.minimum, torch.maximum, torch.logical_and),
]


@pytest.mark.parametrize("function", OPERATORS, ids=lambda function: function.__name__)
def test_a_captured_tensor_on_the_left(function) -> None:
    if function is operator.pow:
        check(lambda score, b, h, q_idx, kv_idx: score + SCALE ** (q_idx - 1) + (SLOPES**score).sum(), SCORE)
        return
    check(lambda score, b, h, q_idx, kv_idx: score + function(COUNT, q_idx + 1), SCORE)
    check(lambda score, b, h, q_idx, kv_idx: score + function(SEQUENCE, kv_idx + 1).sum(), SCORE)


SMALL = Sizes(q_len=4, kv_len=6, dtype=torch.float32)


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_catalogue_as_in_torch(case: Case) -> None:
    mods = case.build(SMALL)
    pairs = all_pairs((SMALL.batch, SMALL.heads, SMALL.q_len, SMALL.kv_len))
    if mods.mask is not None:
        program = trace(mods.mask, MASK)
        visible = by_torch(mods.plain_mask or mods.mask, MASK, pairs).numpy()
        np.testing.assert_array_equal(by_program(program, pairs), visible)
        pairs = pairs[visible]
    if mods.score is not None:
        check(mods.score, SCORE, pairs)


FEW = all_pairs((2, 2, 2, 3))
NUMBERS = st.one_of(st.integers(-9, 9), st.sampled_from([0.5, -1.25, 3.0]), st.booleans())
LEAVES = [
    "score",
    "b",
    "h",
    "q_idx",
    "kv_idx",
    "SLOPES[h]",
    "SEQUENCE[kv_idx]",
    "HALF[q_idx]",
    "COUNT",
    "SCALE",
]
LEAVES += ["TREE[q_idx, kv_idx]", "SLOPES[h].double()", "SEQUENCE[q_idx].to(torch.int32)"]
JOINED = ["{} + {}", "{} - {}", "{} * {}", "torch.minimum({}, {})", "torch.where({} < {}, 2, -1)"]
JOINED += ["torch.where(q_idx > kv_idx, {}, {})", "({} < {})", "({} == {})", "torch.maximum({}, {})"]
JOINED += ["torch.logical_xor({}, {})", "torch.fmod({}, abs({}) + 1)", "({} + 0) // (abs({}) + 1.5)"]
JOINED += ["({} + 0) / ({}).clamp(min=1)", "torch.addcmul(score, {} + 0 * score, {} + 0 * score)"]

SOURCES = st.recursive(
    st.sampled_from(LEAVES) | NUMBERS.map(repr),
    lambda inner: st.tuples(st.sampled_from(JOINED), inner, inner).map(
        lambda made: "(" + made[0].format(*made[1:]) + ")"
    ),
    max_leaves=6,
)


@given(SOURCES)
def test_any_mixture_of_types_as_in_torch(source: str) -> None:
    mod = eval(f"lambda score, b, h, q_idx, kv_idx: {source}", globals())
    try:
        by_torch(mod, SCORE, FEW)
    except (RuntimeError, TypeError, AttributeError):
        return  # no such operation between these types
    check(mod, SCORE, FEW, tolerance=1e-5)
