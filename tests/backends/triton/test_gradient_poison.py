"""Poison that kernels of gradients meet, of calls whose forward was not checked; hidden, it has no say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.triton.calls import attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade import AuxRequest, BlockMask
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Gradients
from saccade.backends.triton.backward import TritonBackward
from saccade.backends.triton.call import TritonKernel
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError
from saccade.problem import Wanted
from saccade.schedule import Schedule

SHAPE = (18, 40)
HEADS = {"batch": 2, "heads": 2, "kv_heads": 1, "dim": 16}
SHORT = 35  # entries of a table that keys index
TILES = Schedule(
    q_tile=16,
    kv_tile=32,
    backward_q_tile=16,
    backward_kv_tile=32,
    backward_dq_q_tile=16,
    backward_dq_kv_tile=32,
)
OF_QUERIES, OF_KEYS = Wanted(query=True), Wanted(key=True)
BOTH = pytest.mark.parametrize("of_keys", [False, True], ids=["query_gradient", "key_gradient"])


def differentiate(wanted: Wanted, **mods: Any) -> Gradients:
    """What is wanted of a call, checked in its backward alone."""
    tensors = [leaf.detach() for leaf in draw(*SHAPE, **HEADS)]
    request = read_request(
        Arguments(*tensors, enable_gqa=True, return_aux=AuxRequest(lse=True), **mods)  # type: ignore[arg-type]
    )
    operands = request.drawn()
    results = TritonKernel(request.problem, TILES, checks=False)(operands)
    backward = TritonBackward(request.problem, TILES, checks=True)
    return backward(operands, results, torch.ones_like(results.out), None, wanted)


def somewhere(read: Callable[[Tensor], Tensor], otherwise: Tensor) -> Callable[..., Tensor]:
    """What is read by key in the last batch and head, and elsewhere not."""
    return lambda b, h, k: torch.where((b == 1) & (h == 1), read(k), otherwise)


def asking_everywhere(mask: Callable[..., Tensor]) -> BlockMask:
    """All blocks PARTIAL."""
    ones = torch.ones(2, 2, 1, dtype=torch.int32)
    return BlockMask.from_kv_blocks(
        ones, ones[..., None] - 1, BLOCK_SIZE=64, mask_mod=mask, seq_lengths=SHAPE
    )


def mods_with(place: str, shown: int) -> dict[str, Any]:
    """Programs of which one reads a table that is too short, where keys before `shown` are visible."""
    table = torch.ones(SHORT)
    read = somewhere(lambda k: table[k], torch.ones(()))

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k < shown

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k < shown) & (read(b, h, k) > 0)

    return {
        "a mask alone": {"mask_mod": mask},
        "a block mask": {"block_mask": asking_everywhere(mask)},
        "a mask beside": {
            "block_mask": asking_everywhere(seen),
            "mask_mod": lambda b, h, q, k: read(b, h, k) > 0,
        },
        "a score": {"mask_mod": seen, "score_mod": lambda s, b, h, q, k: s * read(b, h, k)},
    }[place]


PLACES = ["a mask alone", "a block mask", "a mask beside", "a score"]


@BOTH
@pytest.mark.parametrize("place", PLACES)
@interpreted
def test_every_program_is_checked(place: str, of_keys: bool) -> None:
    wanted = OF_KEYS if of_keys else OF_QUERIES
    told = rf"has {SHORT} entries in dimension 0, got index {SHORT}.*b=1, h=1, q_idx=0, kv_idx={SHORT}"
    with pytest.raises(IndexOutOfRangeError, match=told):
        differentiate(wanted, **mods_with(place, SHORT + 1))
    found = differentiate(wanted, **mods_with(place, SHORT))
    gradient = found.key if of_keys else found.query
    assert gradient is not None
    assert gradient.isfinite().all()


@interpreted
def test_a_division_by_zero() -> None:
    with pytest.raises(DivisionByZeroError, match="kv_idx"):
        differentiate(Wanted(value=True), score_mod=lambda s, b, h, q, k: s * (q // (k - 36)))


class Peek(torch.autograd.Function):
    """A sum whose gradients read a table that may be too short."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, bias: Tensor, k: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(k, table)
        return score + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k, table = ctx.saved_tensors
        return grads[0] * table[k], grads[0] * table[k], None, None


def peeking(shown: int, learned: Callable[..., Tensor]) -> dict[str, Any]:
    """A score whose own backward reads a table that is too short."""
    table = torch.ones(SHORT)
    return {
        "score_mod": lambda s, b, h, q, k: Peek.apply(s, learned(h, q, k), k, table),
        "mask_mod": lambda b, h, q, k: k < shown,
    }


@BOTH
@interpreted
def test_a_gradient_that_users_wrote_is_checked(of_keys: bool) -> None:
    wanted = OF_KEYS if of_keys else OF_QUERIES
    none = torch.zeros(())

    def mods(shown: int) -> dict[str, Any]:
        return peeking(shown, lambda h, q, k: none)

    with pytest.raises(IndexOutOfRangeError, match=f"got index {SHORT}"):
        differentiate(wanted, **mods(SHORT + 1))
    differentiate(wanted, **mods(SHORT))
    # Gradients of values ask for no derivative of the score.
    differentiate(Wanted(value=True), **mods(SHORT + 1))


@pytest.mark.parametrize("learned", ["of a head", "of a query", "of a key", "of a pair", "in a sum"])
@interpreted
def test_so_is_what_it_gives_to_captured_tensors(learned: str) -> None:
    """Wherever it is added up, the score's own gradient wanted or not."""
    bias, factors = torch.ones(2, *SHAPE, requires_grad=True), torch.ones(5)
    rows = torch.ones(SHAPE[0], 5, requires_grad=True)
    read: Callable[..., Tensor] = {
        "of a head": lambda h, q, k: bias[h, 0, 0],
        "of a query": lambda h, q, k: bias[0, q, 0],
        "of a key": lambda h, q, k: bias[0, 0, k],
        "of a pair": lambda h, q, k: bias[h, q, k],
        "in a sum": lambda h, q, k: (rows[q] * factors).sum(-1),
    }[learned]
    leaf = rows if learned == "in a sum" else bias
    captures = peeking_captures(peeking(SHORT, read), leaf)
    with pytest.raises(IndexOutOfRangeError, match=f"got index {SHORT}"):
        differentiate(Wanted(captures=captures), **peeking(SHORT + 1, read))
    (found,) = (
        each for each in differentiate(Wanted(captures=captures), **peeking(SHORT, read)).captures
        if each is not None
    )  # fmt: skip
    assert found.isfinite().all()


def peeking_captures(mods: dict[str, Any], leaf: Tensor) -> tuple[bool, ...]:
    """For each capture of the score, whether it is the leaf."""
    tensors = [each.detach() for each in draw(*SHAPE, **HEADS)]
    request = read_request(Arguments(*tensors, enable_gqa=True, return_aux=None, **mods))  # type: ignore[arg-type]
    score = request.drawn().score
    assert score is not None
    return tuple(isinstance(each, Tensor) and each.shape == leaf.shape for each in score.captures)


@interpreted
def test_a_call_is_checked_where_the_variable_is_set() -> None:
    table = torch.ones(SHORT)
    mods = peeking(SHORT + 1, lambda h, q, k: table[0])
    leaves = draw(*SHAPE, **HEADS)
    gradients(attend(leaves, **mods), leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SACCADE_GPU_CHECKS", "1")
        results = attend(leaves, **mods)  # of which nothing is poison
        with pytest.raises(IndexOutOfRangeError, match=f"got index {SHORT}"):
            gradients(results, leaves)
