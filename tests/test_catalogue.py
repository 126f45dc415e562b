"""The catalogue is right by itself: its functions give its pictures, and torch agrees where it runs them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

import oracle
from catalogue import CATALOGUE, MASK_CASES, PICTURED, SCORE_CASES, Case, Sizes


def pairs_of(case: Case, sizes: Sizes) -> torch.Tensor:
    """[B, Hq, Q, K] bool, by the oracle."""
    mods = case.build(sizes)
    mask = mods.mask if mods.plain_mask is None else mods.plain_mask
    return oracle.visible_pairs(
        mask, sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len, pairwise=case.pairwise
    )


def test_names_are_unique():
    names = [case.name for case in CATALOGUE]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_a_mask_gives_its_pictures(case):
    for q_len, kv_len in PICTURED:
        pairs = pairs_of(case, Sizes(q_len, kv_len))
        assert torch.equal(pairs[case.at], case.visible(q_len, kv_len)), (q_len, kv_len)


@pytest.mark.parametrize(
    "case", [case for case in CATALOGUE if case.build(Sizes()).mask is not None], ids=str
)
def test_what_a_case_says_of_its_mask_holds(case):
    pairs = pairs_of(case, Sizes(7, 9, batch=3, heads=3))
    ahead = torch.ones(7, 9, dtype=torch.bool).triu(1)
    assert case.causal == (not (pairs & ahead).any())
    if case in MASK_CASES:
        assert case.reads_b == (not (pairs == pairs[:1]).all())
        assert case.reads_h == (not (pairs == pairs[:, :1]).all())


@pytest.mark.parametrize("case", [case for case in SCORE_CASES if case.scores], ids=str)
def test_a_score_gives_its_numbers(case):
    ones = torch.ones(2, 2, 4, 4, dtype=torch.float64)
    made = oracle.modified_scores(case.build(Sizes()).score, ones, torch.ones_like(ones, dtype=torch.bool))
    expected = torch.tensor(case.scores, dtype=torch.float64)
    torch.testing.assert_close(made[case.at], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", [case for case in MASK_CASES if case.torch_forward], ids=str)
def test_torch_evaluates_the_same_mask(case):
    sizes = Sizes(7, 5)
    made = create_mask(case.build(sizes).mask, 2, 2, 7, 5, device="cpu")
    assert torch.equal(made, pairs_of(case, sizes))


@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_a_learned_tensor_gets_a_finite_gradient(case):
    mods = case.build(Sizes(5, 4))
    q, k, v = (torch.randn(2, 2, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 4, 4))
    out = oracle.attention(q, k, v, mask=mods.mask, score=mods.score, pairwise=case.pairwise).out
    gradients = torch.autograd.grad(out.square().sum(), [q, k, v, *mods.learned.values()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.any() for gradient in gradients)


def test_each_build_has_tensors_of_its_own_and_the_dtype_asked_for():
    for case in CATALOGUE:
        first, second = (case.build(Sizes(dtype=torch.float32)).learned for _ in range(2))
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert tensor is not second[name]
            assert tensor.is_leaf
            assert tensor.requires_grad
            assert tensor.dtype is torch.float32
            assert torch.equal(tensor, second[name])


def test_cases_build_whatever_torchs_defaults_are():
    with torch.device("meta"):
        built = [case.build(Sizes(5, 6)) for case in CATALOGUE]
    tensors = [tensor for mods in built for tensor in mods.learned.values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
