"""The host side of the backward: what chunks are cut, and gradients against float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from saccade import AuxRequest, create_block_mask
from saccade.analysis.runs import BlockKind
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Gradients
from saccade.backends.cpu import CpuBackend
from saccade.backends.cpu.backward import CpuBackward
from saccade.backends.cpu.backward_work import backward_work, whole_backward
from saccade.backends.cpu.work import Extent
from saccade.errors import IndexOutOfRangeError
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.masks import causal, document, sliding_window
from saccade.problem import Wanted
from saccade.runtime.host import host_isa
from saccade.schedule import Schedule
from saccade.scores import alibi, softcap

NAMES = ("query", "key", "value", "sinks")
EVERYTHING = Wanted(query=True, key=True, value=True)


def differentiated(*tensors: Tensor, **arguments) -> Callable[..., Gradients]:
    """A call's gradients as a function of those of its results, and of what is wanted."""
    asked = AuxRequest(lse=True)
    request = read_request(Arguments(*tensors, enable_gqa=True, return_aux=asked, **arguments))
    operands = request.drawn()
    results = CpuBackend().compile(request.problem, Schedule())(operands)
    return partial(CpuBackward(request.problem, host_isa()), operands, results)


def gradients(*tensors: Tensor, grad_out: Tensor, grad_lse: Tensor | None = None, **arguments) -> Gradients:
    wanted = replace(EVERYTHING, sinks="sinks" in arguments)
    return differentiated(*tensors, **arguments)(grad_out, grad_lse, wanted)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def check(found: Gradients, tensors: list[Tensor], grad_out: Tensor, grad_lse: Tensor | None, **of) -> None:
    leaves = [tensor.double().requires_grad_() for tensor in tensors]
    reference = oracle.attention(*leaves[:3], sinks=leaves[3] if len(leaves) > 3 else None, **of)
    loss = (reference.out * grad_out).sum()
    if grad_lse is not None:
        loss = loss + (reference.lse * grad_lse).sum()
    for name, exact in zip(NAMES[: len(leaves)], torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(getattr(found, name).double(), exact, rtol=1e-5, atol=1e-4, msg=name)


MASKS = {"causal": causal, "window": sliding_window(40), "documents": document(torch.arange(130) // 31)}


@pytest.mark.parametrize("as_blocks", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(mask, as_blocks):
    tensors = [draw(2, 4, 130, 16), draw(1, 2, 130, 16), draw(1, 2, 130, 24)]
    grad_out, grad_lse = draw(2, 4, 130, 24), draw(2, 4, 130)
    given = {"mask_mod": mask}
    if as_blocks:
        given = {"block_mask": create_block_mask(mask, None, None, 130, 130, device="cpu", BLOCK_SIZE=32)}
    found = gradients(*tensors, grad_out=grad_out, grad_lse=grad_lse, **given)
    check(found, tensors, grad_out, grad_lse, mask=mask)


@pytest.mark.parametrize("score", [alibi(4), softcap(3.0)], ids=str)
def test_scores_and_sinks(score):
    tensors = [draw(1, 4, 50, 16), draw(1, 2, 70, 16), draw(1, 2, 70, 16), draw(4)]
    grad_out = draw(1, 4, 50, 16)
    found = gradients(*tensors[:3], grad_out=grad_out, score_mod=score, sinks=tensors[3])
    check(found, tensors, grad_out, None, score=score)


def test_strided_operands_and_an_expanded_gradient():
    tensors = [draw(2, 40, 4, 16).transpose(1, 2), draw(2, 4, 16, 40).mT, draw(2, 4, 40, 16)]
    grad_out = torch.ones(()).expand(2, 4, 40, 16)
    found = gradients(*tensors, grad_out=grad_out)
    assert found.query.stride() == tensors[0].stride()
    check(found, tensors, grad_out, None)


def test_dropout():
    tensors = [draw(1, 2, 60, 16), draw(1, 2, 300, 16), draw(1, 2, 300, 16)]
    grad_out, p = draw(1, 2, 60, 16), 0.25
    request = read_request(Arguments(*tensors, dropout_p=p, return_aux=AuxRequest(lse=True)))
    operands = request.drawn()
    results = CpuBackend().compile(request.problem, Schedule())(operands)
    found = CpuBackward(request.problem, host_isa())(operands, results, grad_out, None, EVERYTHING)
    b_h, rows = np.arange(2).reshape(1, 2, 1, 1), np.arange(60)[:, None]
    keep = torch.from_numpy(keep_mask(int(operands.dropout_seed), p, b_h, rows, np.arange(300)))
    check(found, tensors, grad_out, None, keep=keep, keep_rate=keep_rate(p))


def all_wanted() -> list[Wanted]:
    return [Wanted(*flags) for flags in product([False, True], repeat=len(NAMES))]


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_wanted_does_not_depend_on_the_rest(dtype, with_lse):
    shapes = [(2, 4, 90, 16), (1, 2, 150, 16), (1, 2, 150, 24), (4,)]
    query, key, value, sinks = (draw(*shape).to(dtype) for shape in shapes)
    given = {"mask_mod": sliding_window(70), "score_mod": softcap(3.0), "sinks": sinks, "dropout_p": 0.25}
    differentiate = differentiated(query, key, value, **given)
    grads = draw(2, 4, 90, 24).to(dtype), draw(2, 4, 90) if with_lse else None
    full = differentiate(*grads, Wanted(*[True] * len(NAMES)))
    assert full.sinks.dtype == dtype
    for wanted in all_wanted():
        found = differentiate(*grads, wanted)
        for name in NAMES:
            if getattr(wanted, name):
                assert torch.equal(getattr(found, name), getattr(full, name)), (name, wanted)
            else:
                assert getattr(found, name) is None, (name, wanted)


def test_without_a_gradient_of_the_output_only_that_of_lse_counts():
    tensors = [draw(1, 2, 40, 16), draw(1, 2, 50, 16), draw(1, 2, 50, 8), draw(2)]
    differentiate = differentiated(*tensors[:3], sinks=tensors[3])
    grad_lse = draw(1, 2, 40)
    for wanted in all_wanted():
        found = differentiate(None, grad_lse, wanted)
        exact = differentiate(torch.zeros(1, 2, 40, 8), grad_lse, wanted)
        for name in NAMES:
            if getattr(wanted, name):
                assert torch.equal(getattr(found, name), getattr(exact, name))
        assert found.value is None or found.value.eq(0).all()


@pytest.mark.parametrize("mask", [None, causal, sliding_window(100)], ids=str)
@pytest.mark.parametrize("heads", [(1, 1), (8, 2), (64, 64)])
def test_chunks_hold_every_key_and_who_sees_it(mask, heads):
    extent, padding = Extent(2, 1, *heads, q_len=1001, kv_len=1300), 16
    if mask is None:
        work = whole_backward(extent, 64, padding, BlockKind.FULL)
    else:
        blocks = create_block_mask(mask, None, None, extent.q_len, extent.kv_len, device="cpu")
        work = backward_work(blocks, extent, 64, padding)
        assert backward_work(blocks, extent, 64, padding) is work
    runs, place = work.runs, 0
    assert len(work.item_offsets) == heads[1] + 1
    for head in range(heads[1]):
        items = work.items[work.item_offsets[head] : work.item_offsets[head + 1]]
        assert 1 <= len(items) <= 8
        assert items[:, 0].tolist() == [head] * len(items)
        assert items[0, 1] == 0
        assert items[-1, 2] == runs.shape[2]
        assert (items[1:, 1] == items[:-1, 2]).all()
        for _, first, stop, low, high, rows in items.tolist():
            assert low % 2 == 0
            assert rows == place
            place += 2 * heads[0] // heads[1] * (high - low + padding)
            for tile in range(first, stop):
                assert all(low <= start and end <= high for start, end, _ in runs.tile(0, 0, tile))
    assert place == work.partial_rows


class Peek(torch.autograd.Function):
    """A score that stays as it is, and whose gradient reads a table that is too short."""

    @staticmethod
    def forward(ctx, score, k, table):
        ctx.save_for_backward(k, table)
        return score * 1.0

    @staticmethod
    def backward(ctx, grad):
        k, table = ctx.saved_tensors
        return grad * table[k], None, None


@pytest.mark.parametrize("shown", [50, 51])
def test_poison_of_a_gradient_is_the_users_error_where_it_is_visible(shown):
    tensors = [draw(1, 1, 20, 8), draw(1, 1, 70, 8), draw(1, 1, 70, 8)]
    table = torch.ones(50)
    mods = {
        "score_mod": lambda s, b, h, q, k: Peek.apply(s, k, table),
        "mask_mod": lambda b, h, q, k: k < shown,
    }
    if shown == 50:
        assert gradients(*tensors, grad_out=draw(1, 1, 20, 8), **mods).key.isfinite().all()
    else:
        with pytest.raises(IndexOutOfRangeError, match=r"50 entries in dimension 0, got index 50"):
            gradients(*tensors, grad_out=draw(1, 1, 20, 8), **mods)
        # Gradients of values ask for no derivative of the score.
        found = differentiated(*tensors, **mods)(draw(1, 1, 20, 8), None, Wanted(value=True))
        assert found.value.isfinite().all()
