"""Where gradients of captured tensors are summed, and which chunks of work are one item because of it."""

from __future__ import annotations

import numpy as np
import pytest

from saccade import create_block_mask
from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.backward_work import CHUNK_AXES, backward_work, most_chunks, whole_backward
from saccade.backends.cpu.capture_gradients import CapturePlan, capture_plan
from saccade.backends.cpu.work import Extent
from saccade.ir.dtype import DType
from saccade.ir.text import parse_structure
from saccade.masks import causal
from saccade.problem import AttentionProblem, ModFacts, Wanted

LARGE = 2**12


def problem(text: str, *shapes: tuple[int, ...], numbers: tuple[int, ...] = ()) -> AttentionProblem:
    score = ModFacts(parse_structure(text), numbers, shapes, (True,) * len(shapes))
    sizes = {"batch": 2, "kv_batch": 2, "q_heads": 4, "kv_heads": 2, "q_len": LARGE, "kv_len": LARGE}
    return AttentionProblem("cpu", DType.FLOAT32, **sizes, head_dim=8, value_dim=8, scale=1.0, score=score)


def planned(*args, **options) -> CapturePlan:
    given = problem(*args, **options)
    count = len(given.score.capture_shapes)
    types = dict.fromkeys(range(count), DType.FLOAT32)
    return capture_plan(given, Wanted(captures=(True,) * count), types)


def test_small_tensors_have_copies():
    plan = planned("score(c0: f32[1], c1: f32[2]) -> f32\nscore * c0[h] + c1[h, q_idx]", (4,), (4, LARGE))
    assert [each.is_shared for each in plan.sums] == [False, False]
    assert plan.apart == CHUNK_AXES
    assert [each.bytes for each in plan.sums] == [128, 4 * 4 * LARGE]


def test_the_smallest_have_copies_as_long_as_there_is_room():
    text = "score(c0: f32[2], c1: f32[1]) -> f32\nscore + c0[q_idx, kv_idx] * c1[h]"
    plan = planned(text, (LARGE, LARGE), (4,))
    assert [each.slot for each in plan.sums] == [0, 1]
    assert [each.is_shared for each in plan.sums] == [True, False]


def test_a_call_that_wants_none():
    assert capture_plan(problem("score() -> f32\nscore"), Wanted(query=True), {}) == CapturePlan()


APART = [
    ("score + c0[b, h, q_idx, kv_idx]", (2, 4, LARGE, LARGE), (), {"b", "h", "kv_idx"}),
    ("score + c0[h, q_idx, kv_idx]", (4, LARGE, LARGE), (), {"h", "kv_idx"}),
    ("score + c0[q_idx, kv_idx]", (LARGE, LARGE), (), {"kv_idx"}),
    ("score + c0[q_idx, kv_idx + 3]", (LARGE, 2 * LARGE), (), {"kv_idx"}),
    ("score + c0[kv_idx - 3, q_idx]", (LARGE, LARGE), (), set()),
    ("score + c0[q_idx, 3 - kv_idx]", (LARGE, LARGE), (), set()),
    ("score + c0[q_idx, kv_idx * 2]", (LARGE, 2 * LARGE), (), set()),
    ("score + c0[q_idx, kv_idx + q_idx]", (LARGE, 2 * LARGE), (), set()),
    ("score + c0[q_idx, kv_idx] + c0[kv_idx, q_idx]", (LARGE, LARGE), (), set()),
    ("score + c0[q_idx, kv_idx] + c0[q_idx + 1, kv_idx]", (LARGE, LARGE), (), {"kv_idx"}),
    ("score + c0[q_idx, kv_idx] + c0[q_idx, kv_idx + 1]", (LARGE, LARGE), (), set()),
    ("score + c0[kv_idx, kv_idx] + c0[b, kv_idx]", (LARGE, LARGE), (), {"kv_idx"}),
]


@pytest.mark.parametrize(("body", "shape", "numbers", "apart"), APART, ids=[body for body, *_ in APART])
def test_what_may_go_side_by_side(body, shape, numbers, apart):
    plan = planned(f"score(c0: f32[{len(shape)}]) -> f32\n{body}", shape, numbers=numbers)
    assert plan.sums[0].is_shared
    assert plan.apart == apart


@pytest.mark.parametrize(("number", "apart"), [(5, {"kv_idx"}), (-5, set())])
def test_an_offset_that_is_a_run_time_number(number, apart):
    text = "score(c0: f32[2], n0: i64) -> f32\nscore + c0[q_idx, kv_idx + n0]"
    assert planned(text, (LARGE, 2 * LARGE), numbers=(number,)).apart == apart


def groups_of(work) -> list[list[int]]:
    return [part.tolist() for part in np.split(work.group_chunks, work.group_offsets[1:-1])]


def test_chunks_are_items_where_nothing_is_shared():
    work = whole_backward(Extent(2, 2, 4, 2, 1000, 1000), 64, 16, BlockKind.FULL)
    assert groups_of(work) == [[chunk] for chunk in range(len(work.items))]
    assert len(work.items) <= most_chunks(Extent(2, 2, 4, 2, 1000, 1000))


@pytest.mark.parametrize("axes", [(), ("b",), ("h",), ("kv_idx",), ("b", "kv_idx"), ("h", "kv_idx")], ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_chunks_that_may_touch_one_element_are_one_item(axes, masked):
    extent = Extent(2, 2, 4, 2, 1000, 1000)
    if masked:
        mask = create_block_mask(causal, None, None, 1000, 1000, device="cpu")
        work = backward_work(mask, extent, 64, 16, frozenset(axes))
    else:
        work = whole_backward(extent, 64, 16, BlockKind.FULL, frozenset(axes))
    groups = groups_of(work)
    assert sorted(work.group_chunks.tolist()) == list(range(len(work.items)))
    assert len(work.cost) == len(groups)

    def place(chunk: int) -> tuple:
        head, first, stop, *_ = work.items[chunk].tolist()
        every = {"b": head // 2, "h": head % 2, "kv_idx": (first, stop)}
        return tuple(every[axis] for axis in sorted(axes))

    places = [{place(chunk) for chunk in group} for group in groups]
    assert all(len(of_group) == 1 for of_group in places)
    assert len(set.union(*places)) == len(groups)
    if "kv_idx" not in axes:
        assert (work.items[:, 1] == 0).all()
    elif axes == ("kv_idx",):
        assert len(groups) == 8
    for group in groups:
        assert group == sorted(group)
