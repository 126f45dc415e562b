"""AttentionProblem and KernelKey: what each depends on, and what not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.attention.request import Arguments, read_request
from saccade.block_mask import create_block_mask
from saccade.ir.dtype import DType
from saccade.masks import causal, sliding_window
from saccade.problem import AttentionProblem, HeadGroups, Outputs
from saccade.schedule import Schedule


def problem(**options: object) -> AttentionProblem:
    q_len, kv_len, batch = options.pop("q_len", 8), options.pop("kv_len", 8), options.pop("batch", 2)
    query, key = torch.zeros(batch, 4, q_len, 16), torch.zeros(batch, 2, kv_len, 16)
    return read_request(Arguments(query, key, key, enable_gqa=True, **options)).problem


def key_of(**options: object) -> object:
    return problem(**options).kernel_key("host", small_indices=True)


def test_facts() -> None:
    slopes = torch.ones(4, requires_grad=True)
    given = problem(
        score_mod=lambda score, b, h, q_idx, kv_idx: score + 0.5 * slopes[h], dropout_p=0.1, kv_len=6
    )
    assert given.scores == 2 * 4 * 8 * 6
    assert given.group_size == 2
    assert given.needs_grad
    assert given.score is not None
    assert given.score.numbers == (0.5,)
    assert given.score.capture_shapes == ((4,),)
    assert given.score.capture_grads == (True,)
    assert given.score.needs_grad
    assert not given.has_mask
    assert given.scale == 0.25
    assert given.accumulates_in is DType.FLOAT32


def test_gradients_count_only_where_they_are_on() -> None:
    query = torch.zeros(1, 1, 4, 8, requires_grad=True)
    assert read_request(Arguments(query, query, query)).problem.needs_grad
    with torch.no_grad():
        assert not read_request(Arguments(query, query, query)).problem.needs_grad


def test_what_hides_nothing_is_left_out() -> None:
    def everything(b, h, q_idx, kv_idx):
        return q_idx.new_ones((), dtype=torch.bool)

    block_mask = create_block_mask(everything, None, None, 8, 8, device="cpu")
    plain = problem(
        block_mask=block_mask, mask_mod=everything, score_mod=lambda score, b, h, q_idx, kv_idx: score
    )
    assert plain == problem()


def test_facts_of_a_block_mask() -> None:
    block_mask = create_block_mask(causal, 2, 4, 8, 8, device="cpu", BLOCK_SIZE=(4, 2))
    facts = problem(block_mask=block_mask).block_mask
    assert facts is not None
    assert (facts.batch, facts.heads, facts.q_block, facts.kv_block, facts.analysed) == (1, 1, 4, 2, True)
    assert facts.mod.is_function


class TestKernelKey:
    def test_a_growing_cache_and_other_numbers_keep_the_kernel(self) -> None:
        same = {
            key_of(mask_mod=sliding_window(3)),
            key_of(mask_mod=sliding_window(5), kv_len=9, q_len=1, batch=1, scale=3.0),
        }
        assert len(same) == 1

    def test_a_problem_is_hashable(self) -> None:
        assert len({problem(mask_mod=causal), problem(mask_mod=causal), problem()}) == 2

    @pytest.mark.parametrize(
        "change",
        [
            {"mask_mod": causal},
            {"block_mask": create_block_mask(causal, None, None, 8, 8, device="cpu")},
            {"score_mod": lambda score, b, h, q_idx, kv_idx: score * 2},
            {"dropout_p": 0.5},
            {"sinks": torch.zeros(4)},
            {"return_lse": True},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_what_changes_it(self, change: dict[str, object]) -> None:
        assert key_of(**change) != key_of()

    def test_groups_count_and_their_size_does_not(self) -> None:
        base = problem()
        wider = dataclasses.replace(base, q_heads=8)
        single = dataclasses.replace(base, kv_heads=4)
        keys = [one.kernel_key("host", small_indices=True) for one in (base, wider, single)]
        assert keys[0] == keys[1] != keys[2]
        assert keys[2].head_groups is HeadGroups.SINGLE

    def test_the_target_counts(self) -> None:
        assert problem().kernel_key("avx2", small_indices=True) != problem().kernel_key(
            "avx512", small_indices=True
        )
        assert problem().kernel_key("avx2", small_indices=True) != problem().kernel_key(
            "avx2", small_indices=False
        )


def test_a_schedule_shows_what_it_sets() -> None:
    assert repr(Schedule()) == "Schedule()"
    assert repr(Schedule(kv_tile=32, num_warps=4)) == "Schedule(kv_tile=32, num_warps=4)"


def test_outputs_start_empty() -> None:
    assert Outputs() == Outputs(lse=False, max_scores=False, weights=False)
