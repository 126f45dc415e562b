"""Gradients of captured tensors: the way of each contribution, and their values in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codegen.triton.backward_call import Backward
from codegen.triton.test_backward import assert_right, leaf, masked, operands
from saccade.codegen.triton.capture_ways import CaptureWay, capture_ways
from saccade.ir.text import parse_structure
from saccade.masks import causal

STORED, PER_QUERY, PER_KEY, PER_TILE = (
    CaptureWay.STORED,
    CaptureWay.PER_QUERY,
    CaptureWay.PER_KEY,
    CaptureWay.PER_TILE,
)
ADDED = CaptureWay.ADDED

WAYS = [
    ("c0: f32[0]", "score * c0[()]", [PER_TILE]),
    ("c0: f32[2]", "score * c0[b, h]", [PER_TILE]),
    ("c0: f32[2]", "score * c0[h, q_idx // 2]", [PER_QUERY]),
    ("c0: f32[2]", "score * c0[kv_idx, h]", [PER_KEY]),
    ("c0: f32[2]", "score * c0[q_idx, kv_idx]", [ADDED]),
    ("c0: f32[4]", "score * c0[b, h, q_idx, kv_idx]", [STORED]),
    ("c0: f32[4]", "score * c0[kv_idx, q_idx, b, h]", [STORED]),
    ("c0: f32[4]", "score * c0[b, h, q_idx, kv_idx // 2]", [ADDED]),
    ("c0: f32[1]", "score * c0[q_idx - kv_idx + 9]", [ADDED]),
    ("c0: f32[1]", "score * c0[i64(score)]", [ADDED]),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[q_idx, axis0])", [CaptureWay.ADDED_PER_QUERY]),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[axis0, kv_idx])", [CaptureWay.ADDED_PER_KEY]),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[axis0, h])", [CaptureWay.ADDED_PER_TILE]),
    ("c0: f32[2]", "score * sum(axis0 < 5, c0[axis0, q_idx - kv_idx])", [ADDED]),
    # Two loads of one tensor, which may or may not meet in an element.
    ("c0: f32[5]", "score * c0[b, h, q_idx, kv_idx, 0] + c0[b, h, q_idx, kv_idx, 1]", [STORED, STORED]),
    ("c0: f32[5]", "score * c0[b, h, q_idx, kv_idx, 0] + c0[b, h, q_idx, kv_idx, -1]", [ADDED, ADDED]),
    ("c0: f32[4]", "score * c0[b, h, q_idx, kv_idx] + c0[h, b, q_idx, kv_idx]", [ADDED, ADDED]),
]


@pytest.mark.parametrize(("capture", "body", "ways"), WAYS, ids=[body for _, body, _ in WAYS])
def test_ways(capture, body, ways):
    structure = parse_structure(f"score({capture}) -> f32\n{body}")
    assert list(capture_ways(structure, (True,), (), batch=2, heads=2)) == ways


def test_one_batch_and_one_head_meet_nobody():
    structure = parse_structure("score(c0: f32[2]) -> f32\nscore * c0[q_idx, kv_idx]")
    found = {
        (batch, heads): capture_ways(structure, (True,), (), batch, heads)[0]
        for batch in (1, 2)
        for heads in (1, 2)
    }
    assert found == {(1, 1): STORED, (1, 2): ADDED, (2, 1): ADDED, (2, 2): ADDED}


def test_only_wanted_captures_have_ways():
    structure = parse_structure("score(c0: f32[1], c1: f32[1]) -> f32\nscore * c0[h] + c1[q_idx]")
    assert capture_ways(structure, (False, True), (), 1, 1) == (PER_QUERY,)
    assert capture_ways(structure, (), (), 1, 1) == ()


def test_what_follows_from_a_way():
    assert {way for way in CaptureWay if way.is_deterministic} == {STORED, PER_QUERY, PER_KEY, PER_TILE}
    assert {way for way in CaptureWay if way.is_kept} == {PER_QUERY, PER_KEY, PER_TILE}
    assert {way for way in CaptureWay if way.is_of_keys} == {PER_KEY, CaptureWay.ADDED_PER_KEY}


SIZES = {"b": 2, "h": 2, "q": 21, "k": 35}


def captured(form: str):
    """A score mod of one learned tensor, and the tensor."""
    shapes = {
        "scalar": (),
        "by head": (2,),
        "by row": (2, 21),
        "by rows in twos, from the end": (11,),
        "by key": (2, 35),
        "by pair": (2, 2, 21, 35),
        "of all heads": (21, 35),
        "by distance": (55,),
        "inner product": (2, 21, 3),
        "inner product of keys": (35, 3),
        "sum": (2, 3),
        "two of one": (2, 2, 21, 35, 2),
    }
    learned = leaf(*shapes[form], seed=9)
    weights = torch.rand(35, 3)

    def score_mod(score, b, h, q, k):
        if form == "scalar":
            return score * learned
        if form == "by head":
            return score + learned[h] * (k - q)
        if form == "by row":
            return score * learned[h, q]
        if form == "by rows in twos, from the end":
            return score + learned[-1 - q // 2]
        if form == "by key":
            return score * learned[h, k] + learned[0, k]
        if form == "by pair":
            return score * learned[b, h, q, k]
        if form == "of all heads":
            return score + learned[q, k]
        if form == "by distance":
            return score + learned[q - k + 34]
        if form == "inner product":
            return score + (learned[h, q] * weights[k]).sum(-1)
        if form == "inner product of keys":
            return score + (learned[k] * learned[q]).sum(-1)
        if form == "sum":
            return score * learned[h].sum(-1)
        return score * learned[b, h, q, k, 0] + learned[b, h, q, k, 1]

    return score_mod, learned


FORMS = {
    "scalar": {PER_TILE},
    "by head": {PER_TILE},
    "by row": {PER_QUERY},
    "by rows in twos, from the end": {PER_QUERY},
    "by key": {PER_KEY},
    "by pair": {STORED},
    "of all heads": {ADDED},
    "by distance": {ADDED},
    "inner product": {CaptureWay.ADDED_PER_QUERY},
    "inner product of keys": {CaptureWay.ADDED_PER_QUERY, CaptureWay.ADDED_PER_KEY},
    "sum": {CaptureWay.ADDED_PER_TILE},
    "two of one": {STORED},
}


@pytest.mark.parametrize("form", FORMS)
def test_values(interpreted, form):
    score_mod, learned = captured(form)
    tensors = operands(21, 35, batch=2)
    call = Backward(*tensors, score_mod=score_mod, learned=(learned,))
    assert set(call.ways) == FORMS[form]
    assert_right(interpreted, replace(call, mask_mod=causal))
    assert_right(interpreted, replace(call, block_mask=masked(causal, 21, 35), wanted=(False, False, False)))


def test_several_tensors_at_once(interpreted):
    slopes, rows, keys, pairs = leaf(2), leaf(21), leaf(35), leaf(2, 2, 21, 35)

    def score_mod(score, b, h, q, k):
        changed = torch.tanh(score * slopes[h]) * rows[q]
        return changed + keys[k] * pairs[b, h, q, k]

    tensors = operands(21, 35, batch=2, heads=2, kv_heads=1)
    for learned in ((slopes, rows, keys, pairs), (keys,)):
        assert_right(interpreted, Backward(*tensors, score_mod=score_mod, learned=learned, tile=(32, 64)))


@pytest.mark.parametrize("shape", [(9,), (21, 9), (2, 2, 21, 9)], ids=str)
def test_an_index_out_of_range_adds_nothing(interpreted, shape):
    learned = leaf(*shape)

    def element(b, h, q, k):
        return {1: lambda: learned[k], 2: lambda: learned[q, k], 4: lambda: learned[b, h, q, k]}[len(shape)]()

    def beyond(score, b, h, q, k):
        return torch.where(k < 9, score + element(b, h, q, k), score)

    def inside(score, b, h, q, k):
        return torch.where(k < 9, score + element(b, h, q, k.clamp(max=8)), score)

    call = Backward(*operands(21, 35, batch=2), score_mod=beyond, meaning=inside, learned=(learned,))
    assert_right(interpreted, call)
