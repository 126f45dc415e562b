"""The walk-through's printed mods: they run, equal the oracle, and differ from ours as recorded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from catalogue import PICTURED, Case, Sizes
from catalogue.printed import PREFIX, PRINTED, WINDOW
from saccade import masks, scores
from saccade.attention import AuxRequest, flex_attention
from saccade.signatures import MaskMod, ScoreMod

SIZES = Sizes(q_len=9, kv_len=7, batch=2, heads=4)
BY_NAME = {case.name: case for case in PRINTED}
CORRECTIONS = Path(__file__).parents[2] / "docs/decisions/007-the-printed-forms-of-the-walk-through.md"


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator("cpu").manual_seed(3)
    shapes = ((2, 4, 9, 6), (2, 2, 7, 6), (2, 2, 7, 5))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


@pytest.mark.parametrize("case", [case for case in PRINTED if case.pictures], ids=str)
def test_a_mask_gives_its_pictures(case: Case) -> None:
    for q_len, kv_len in PICTURED:
        mask = case.build(Sizes(q_len, kv_len)).mask
        assert mask is not None
        pairs = oracle.visible_pairs(mask, 1, 1, q_len, kv_len)
        assert torch.equal(pairs[0, 0], case.visible(q_len, kv_len))


@pytest.mark.parametrize("case", [case for case in PRINTED if case.scores], ids=str)
def test_a_score_gives_its_numbers(case: Case) -> None:
    score = case.build(Sizes()).score
    assert score is not None
    ones = torch.ones(2, 2, 4, 4, dtype=torch.float64)
    made = oracle.modified_scores(score, ones, ones.bool())
    torch.testing.assert_close(made[case.at], torch.tensor(case.scores, dtype=torch.float64))


@pytest.mark.parametrize("case", PRINTED, ids=str)
def test_results_and_gradients_equal_the_oracle(case: Case) -> None:
    tensors, mods = inputs(), case.build(SIZES)
    out, aux = flex_attention(
        *tensors,
        mods.score,
        mask_mod=mods.mask,
        enable_gqa=True,
        return_aux=AuxRequest(lse=True),
        backend="eager",
    )
    reference = oracle.attention(*tensors, mask=mods.mask, score=mods.score)
    torch.testing.assert_close((out, aux.lse), (reference.out, reference.lse), rtol=1e-10, atol=1e-12)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator("cpu").manual_seed(5))
    mine, theirs = (torch.autograd.grad((one * weight).sum(), tensors) for one in (out, reference.out))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "meant", "said"),
    [
        ("printed_sliding_window", masks.sliding_window(WINDOW), masks.sliding_window(WINDOW + 1)),
        ("printed_prefix_lm", masks.prefix_lm(PREFIX), masks.prefix_lm(PREFIX + 1)),
    ],
)
def test_a_printed_mask_shows_one_key_more_than_is_meant(name: str, meant: MaskMod, said: MaskMod) -> None:
    printed = BY_NAME[name].build(SIZES).mask
    assert printed is not None
    pairs, intended, equal = (oracle.visible_pairs(mod, 1, 1, 9, 7) for mod in (printed, meant, said))
    assert torch.equal(pairs, equal)
    assert bool((pairs & ~intended).any())
    assert not bool((intended & ~pairs).any())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("printed_checkerboard", scores.checkerboard),
        ("printed_alibi_by_tensor", scores.alibi(n_heads=4)),
        ("printed_alibi_by_formula", scores.alibi(n_heads=4)),
    ],
)
def test_a_printed_score_is_not_what_is_meant(name: str, meant: ScoreMod) -> None:
    printed = BY_NAME[name].build(SIZES).score
    assert printed is not None
    ones = torch.ones(1, 4, 9, 7, dtype=torch.float64)
    made, intended = (oracle.modified_scores(mod, ones, ones.bool()) for mod in (printed, meant))
    distance = torch.arange(9)[:, None] - torch.arange(7)
    differs = distance % 2 == 0 if "checkerboard" in name else distance != 0
    assert torch.equal((made - intended).abs() > 1e-9, differs.expand(1, 4, 9, 7))


def test_the_printed_softcap_is_the_exact_one_on_a_machine_without_the_instruction() -> None:
    printed = BY_NAME["printed_softcap"].build(SIZES).score
    assert printed is not None
    values = torch.linspace(-math.pi, math.pi, 63, dtype=torch.float64).view(1, 1, 9, 7)
    made, exact = (
        oracle.modified_scores(mod, values, values.bool()) for mod in (printed, scores.softcap(2.0))
    )
    torch.testing.assert_close(made, exact)


def test_every_printed_form_has_its_line_in_the_decision() -> None:
    page = CORRECTIONS.read_text(encoding="utf-8")
    assert [case.name for case in PRINTED if f"`{case.name}`" not in page] == []
