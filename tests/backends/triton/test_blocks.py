"""Which blocks calls walk: given ones, ones that are found and kept as long as they hold, or none."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saccade import create_block_mask
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Operands
from saccade.backends.triton import blocks as blocks_module
from saccade.backends.triton.blocks import Blocks, blocks_of
from saccade.codegen.triton.spec import Walk
from saccade.errors import UnsupportedError
from saccade.masks import causal
from saccade.problem import AttentionProblem

LENGTH = 300


def asked(**masks: object) -> tuple[AttentionProblem, Operands]:
    query = torch.empty(2, 4, LENGTH, 8)
    request = read_request(Arguments(query, query, query, **masks))
    return request.problem, request.operands


def documents(ids: Tensor):
    return lambda b, h, q_idx, kv_idx: ids[b, q_idx] == ids[b, kv_idx]


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every analysis that is made."""
    made: list[object] = []

    def noted(program: object, *arguments: object, **options: object) -> object:
        made.append(program)
        return create_block_mask(program, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(blocks_module, "create_block_mask", noted)
    return made


def test_without_a_mask_every_pair_is_visible() -> None:
    problem, operands = asked()
    blocks = Blocks(problem, analyses=True)
    assert blocks.of(operands) is None
    assert blocks.otherwise is Walk.FULL


def test_given_ones_are_taken() -> None:
    mask = create_block_mask(causal, None, None, LENGTH, LENGTH, device="cpu")
    problem, operands = asked(block_mask=mask, mask_mod=causal)
    assert Blocks(problem, analyses=True).of(operands) is mask


def test_a_mask_that_is_not_analysed_is_asked_everywhere(analyses: list[object]) -> None:
    problem, operands = asked(mask_mod=causal)
    blocks = Blocks(problem, analyses=False)
    assert blocks.of(operands) is None
    assert blocks.otherwise is Walk.PARTIAL
    assert not analyses


def test_of_a_mask_without_tensors_they_are_found_once(analyses: list[object]) -> None:
    problem, operands = asked(mask_mod=causal)
    blocks = Blocks(problem, analyses=True)
    found = blocks.of(operands)
    assert found == create_block_mask(causal, None, None, LENGTH, LENGTH, device="cpu")
    _, again = asked(mask_mod=causal)
    assert blocks.of(again) is found
    assert len(analyses) == 1


class TestOfAMaskThatReadsTensors:
    def test_they_are_kept_while_these_stay_as_they_are(self, analyses: list[object]) -> None:
        ids = torch.arange(2 * LENGTH).view(2, LENGTH) // 60
        problem, operands = asked(mask_mod=documents(ids))
        blocks = Blocks(problem, analyses=True)
        found = blocks.of(operands)
        assert found is not None
        expected = create_block_mask(documents(ids), 2, None, LENGTH, LENGTH, device="cpu")
        assert found.runs == expected.runs
        assert blocks.of(asked(mask_mod=documents(ids))[1]) is found
        ids[0, 5] = 9
        changed = blocks.of(operands)
        assert changed is not None
        assert changed is not found
        again = create_block_mask(documents(ids), 2, None, LENGTH, LENGTH, device="cpu")
        assert changed.runs == again.runs
        assert len(analyses) == 2

    def test_other_tensors_have_their_own(self, analyses: list[object]) -> None:
        first, second = torch.zeros(2, LENGTH), torch.ones(2, LENGTH)
        problem, operands = asked(mask_mod=documents(first))
        blocks = Blocks(problem, analyses=True)
        for each in (operands, asked(mask_mod=documents(second))[1]) * 2:
            blocks.of(each)
        assert len(analyses) == 2

    def test_no_tensor_is_held(self) -> None:
        ids = torch.zeros(2, LENGTH)
        problem, operands = asked(mask_mod=documents(ids))
        blocks = Blocks(problem, analyses=True)
        found = blocks.of(operands)
        gone = weakref.ref(ids)
        del ids, operands
        gc.collect()
        assert found is not None
        assert gone() is None

    def test_others_may_be_found_while_they_are_looked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By another thread; here between two steps of this one."""
        first, second, third = (torch.zeros(2, LENGTH) for _ in range(3))
        problem, operands = asked(mask_mod=documents(first))
        blocks = Blocks(problem, analyses=True)
        found = blocks.of(operands)
        blocks.of(asked(mask_mod=documents(second))[1])
        waiting = [asked(mask_mod=documents(third))[1]]
        is_of = blocks_module._Found.is_of

        def meanwhile(self: object, tensors: tuple[Tensor, ...]) -> bool:
            if waiting:
                blocks.of(waiting.pop())
            return is_of(self, tensors)  # type: ignore[arg-type]

        monkeypatch.setattr(blocks_module._Found, "is_of", meanwhile)
        other = blocks.of(asked(mask_mod=documents(second))[1])
        assert not waiting
        assert other is not found
        assert blocks.of(operands) is found

    def test_of_tensors_whose_writes_nobody_counts_they_are_not_kept(self, analyses: list[object]) -> None:
        with torch.inference_mode():
            ids = torch.zeros(2, LENGTH)
        problem, operands = asked(mask_mod=documents(ids))
        blocks = Blocks(problem, analyses=True)
        blocks.of(operands)
        blocks.of(operands)
        assert len(analyses) == 2


@pytest.mark.parametrize("before", [False, True], ids=["new", "kept"])
def test_a_graph_that_is_captured_has_none_that_are_found(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even those that are kept: its replay would read tables that may be freed, of tensors as they were."""
    problem, operands = asked(mask_mod=causal)
    blocks = Blocks(problem, analyses=True)
    if before:
        blocks.of(operands)

    def refuse(device: torch.device, lacking: str) -> None:
        raise UnsupportedError(lacking)

    monkeypatch.setattr(blocks_module, "require_no_capture", refuse)
    with pytest.raises(UnsupportedError, match="blocks of a mask_mod are worked out on the host"):
        blocks.of(operands)
    assert Blocks(problem, analyses=False).of(operands) is None


def test_forward_and_backward_share_them() -> None:
    problem, _ = asked(mask_mod=causal)
    assert blocks_of(problem, analyses=True) is blocks_of(replace(problem), analyses=True)
