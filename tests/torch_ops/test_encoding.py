"""A call written as the operator's arguments reads back as the same call, over the whole catalogue."""

from __future__ import annotations

import gc

import pytest
import torch

from catalogue import CATALOGUE, Case, Sizes
from saccade.attention.request import Arguments, Request, read_request
from saccade.backends.registry import load
from saccade.block_mask import create_block_mask
from saccade.errors import StaleMaskError, UnsupportedError
from saccade.ir.program import Program
from saccade.masks import causal
from saccade.schedule import Schedule
from saccade.torch_ops import unpacking
from saccade.torch_ops.encoding import decode, encode
from saccade.tracing import trace

SIZES = Sizes(q_len=7, kv_len=9, batch=2, heads=4)


def request(case: Case, *, blocks: bool, **options: object) -> Request:
    """The call of a case, its mods traced before, so that the facts hold no function."""
    mods = case.build(SIZES)
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(2, 4, n, 6, generator=generator, dtype=torch.float64) for n in (7, 9))
    score = None if mods.score is None else trace(mods.score)
    mask = None if mods.mask is None else trace(mods.mask)
    block_mask = None
    if blocks and mask is not None:
        block_mask = create_block_mask(mask, 2, 4, 7, 9, device="cpu", BLOCK_SIZE=(2, 3))
        mask = trace(causal)
    given = Arguments(query, key, key, score, block_mask, mask_mod=mask, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        return read_request(given)


@pytest.mark.parametrize("blocks", [False, True], ids=["mods", "blocks"])
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_facts_and_operands_survive(case: Case, blocks: bool) -> None:
    made = request(case, blocks=blocks)
    with torch.no_grad():
        problem, operands = decode(encode(made.problem, made.operands, made.packed, "eager"))
    # Gradients do not pass a mask, whatever its tensors want.
    assert repr(problem).replace("True", "False") == repr(made.problem).replace("True", "False")
    assert operands.block_mask == made.operands.block_mask
    for mine, theirs in ((operands.score, made.operands.score), (operands.mask, made.operands.mask)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert_same_program(mine, theirs)
    with torch.no_grad():
        results = (
            load("eager").compile(facts, Schedule())(tensors).out
            for facts, tensors in ((problem, operands), (made.problem, made.operands))
        )
        torch.testing.assert_close(*results, rtol=0, atol=0)


def assert_same_program(mine: Program, theirs: Program) -> None:
    assert mine.structure == theirs.structure
    assert mine.numbers == theirs.numbers
    assert len(mine.captures) == len(theirs.captures)
    for one, other in zip(mine.captures, theirs.captures, strict=True):
        assert one is other or torch.equal(one, other)


def test_texts_name_what_is_captured() -> None:
    document = torch.tensor([0, 0, 1, 1])
    query = torch.randn(1, 1, 4, 8)
    made = read_request(
        Arguments(
            query, query, query, mask_mod=lambda b, h, q_idx, kv_idx: document[q_idx] == document[kv_idx]
        )
    )
    flat = encode(made.problem, made.operands, made.packed, "eager")
    assert flat.mask_program == "\n&\nmask(document: i64[1]) -> bool\ndocument[q_idx] == document[kv_idx]"
    operands = decode(flat)[1]
    assert operands.mask is not None
    assert operands.mask.names == ("document",)


def test_weights_do_not_travel() -> None:
    query = torch.randn(1, 1, 4, 8)
    made = read_request(Arguments(query, query, query, return_aux=_Weights()))
    with pytest.raises(UnsupportedError, match="returns no weights"):
        encode(made.problem, made.operands, made.packed, "eager")


class _Weights:
    lse = max_scores = False
    weights = True


def test_one_mask_is_put_together_once_and_lives_no_longer_than_its_tensors() -> None:
    mask = create_block_mask(causal, None, None, 64, 64, device="cpu")
    before = len(unpacking._masks)
    assert unpacking.unpacked(mask.packed) is unpacking.unpacked(mask.packed)
    assert unpacking.unpacked(mask.packed) == mask
    other = mask.packed._replace(batch=2)
    assert unpacking.unpacked(other).batch == 2
    del mask, other
    gc.collect()
    assert len(unpacking._masks) == before


def test_a_mask_put_together_notices_that_its_tensor_changed() -> None:
    document = torch.tensor([0, 0, 1, 1])
    mask = create_block_mask(
        lambda b, h, q_idx, kv_idx: document[q_idx] == document[kv_idx], None, None, 4, 4, device="cpu"
    )
    unpacking.unpacked(mask.packed)
    document.add_(1)
    with pytest.raises(StaleMaskError, match="'document'"):
        unpacking.unpacked(mask.packed)


def test_a_mask_that_was_stale_before_it_was_put_together() -> None:
    table = torch.tensor([True, False, True, True])
    mask = create_block_mask(lambda b, h, q_idx, kv_idx: (~table)[kv_idx], None, None, 4, 4, device="cpu")
    assert len(mask.packed.watched) == 2
    table.logical_not_()
    with pytest.raises(StaleMaskError, match="'table'"):
        unpacking.unpacked(mask.packed)


def test_copies_of_what_a_mask_was_made_from_are_watched_from_then_on() -> None:
    document = torch.tensor([0, 0, 1, 1])
    document.add_(1)
    mask = create_block_mask(
        lambda b, h, q_idx, kv_idx: document[q_idx] == document[kv_idx], None, None, 4, 4
    )
    copy = document.clone()
    pieces = mask.packed._replace(captures=(copy,), watched=(copy,))
    assert unpacking.unpacked(pieces) == mask
    document.add_(1)
    unpacking.unpacked(pieces)
    copy.add_(1)
    with pytest.raises(StaleMaskError, match="'document'"):
        unpacking.unpacked(pieces)
